/*! Bytes of a text file -> UTF-8 text of LF and CRLF lines. CR alone, as old Macintosh programs end lines, becomes LF,
also in files that mix line ends; Latin-1 becomes UTF-8 where `--encoding latin1` asks for it.
*/

use std::io::{self, Read};

use serde::Serialize;

/// How a text file encodes its characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Utf8,
    /// A byte a character, as Western European Windows and old Unix systems write
    Latin1,
}

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// A reader of decoded text.
pub(crate) struct Decoded<R> {
    inner: R,
    encoding: Encoding,
    raw: Vec<u8>,
    text: Vec<u8>,
    /// How much of `text` was handed out.
    taken: usize,
    /// The last byte read is a CR; what it becomes depends on the next one.
    held: bool,
}

impl<R: Read> Decoded<R> {
    pub fn new(inner: R, encoding: Encoding) -> Self {
        Decoded { inner, encoding, raw: vec![0; CHUNK], text: Vec::new(), taken: 0, held: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.taken = 0;
        let mut end = usize::from(self.held);
        while self.text.is_empty() {
            let read = self.inner.read(&mut self.raw[end..])?;
            if read == 0 {
                if self.held {
                    self.text.push(b'\n');
                }
                self.held = false;
                return Ok(());
            }
            self.raw[0] = if self.held { b'\r' } else { self.raw[0] };
            end += read;
            self.held = self.raw[end - 1] == b'\r';
            let whole = end - usize::from(self.held);
            if self.raw[..whole].contains(&b'\r') {
                for at in 0..whole {
                    if self.raw[at] == b'\r' && self.raw[at + 1] != b'\n' {
                        self.raw[at] = b'\n';
                    }
                }
            }
            match self.encoding {
                Encoding::Utf8 => self.text.extend_from_slice(&self.raw[..whole]),
                Encoding::Latin1 => {
                    let text: String = self.raw[..whole].iter().map(|&b| char::from(b)).collect();
                    self.text.extend_from_slice(text.as_bytes());
                }
            }
            end = usize::from(self.held);
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.text.len() {
            self.refill()?;
        }
        let now = out.len().min(self.text.len() - self.taken);
        out[..now].copy_from_slice(&self.text[self.taken..self.taken + now]);
        self.taken += now;
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time, so that CR and LF come apart.
    struct Bit<'a>(&'a [u8], usize);

    impl Read for Bit<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let now = self.1.min(out.len()).min(self.0.len());
            out[..now].copy_from_slice(&self.0[..now]);
            self.0 = &self.0[now..];
            Ok(now)
        }
    }

    fn decoded(bytes: &[u8], step: usize, encoding: Encoding) -> Vec<u8> {
        let mut text = Vec::new();
        Decoded::new(Bit(bytes, step), encoding).read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn lone_carriage_returns_are_line_ends_wherever_reads_end() {
        let (mixed, plain) = (b"a\rb\r\nc\nd\r\re\r\n\r\nf\r", b"a\nb\r\nc\nd\n\ne\r\n\r\nf\n");
        for step in 1..20 {
            assert_eq!(decoded(mixed, step, Encoding::Utf8), plain, "{step} bytes at a time");
            assert_eq!(decoded(b"Caf\xe9\r\xfc", step, Encoding::Latin1), "Café\nü".as_bytes());
            assert_eq!(decoded(b"\r", step, Encoding::Utf8), b"\n");
        }
    }
}
