/*! Bytes of a text file -> UTF-8 text of LF and CRLF lines. CR alone, as old Macintosh programs end lines, becomes LF
where the first part of the file has no LF, or so many CR that they end lines too; a few are characters of cells. Latin-1 becomes UTF-8 where `--encoding latin1` asks for it.
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
    /// Whether CR alone ends lines; `None` before anything is read.
    lone: Option<bool>,
}

/// Whether CR alone ends lines of a text that begins so.
fn ends_lines(text: &[u8]) -> bool {
    let count = |wanted: &dyn Fn(usize) -> bool| (0..text.len()).filter(|&at| wanted(at)).count();
    let line_feeds = count(&|at| text[at] == b'\n');
    4 * count(&|at| text[at] == b'\r' && text.get(at + 1) != Some(&b'\n')) >= line_feeds
}

impl<R: Read> Decoded<R> {
    pub fn new(inner: R, encoding: Encoding) -> Self {
        Decoded { inner, encoding, raw: vec![0; CHUNK], text: Vec::new(), taken: 0, held: false, lone: None }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.taken = 0;
        let mut end = usize::from(self.held);
        while self.text.is_empty() {
            let mut read = self.inner.read(&mut self.raw[end..])?;
            if self.lone.is_none() {
                // What is decided must not depend on how much a read gives.
                while read < CHUNK {
                    match self.inner.read(&mut self.raw[read..])? {
                        0 => break,
                        more => read += more,
                    }
                }
                self.lone = Some(ends_lines(&self.raw[..read]));
            }
            let lone = self.lone == Some(true);
            if read == 0 {
                if self.held {
                    self.text.push(if lone { b'\n' } else { b'\r' });
                }
                self.held = false;
                return Ok(());
            }
            self.raw[0] = if self.held { b'\r' } else { self.raw[0] };
            end += read;
            self.held = self.raw[end - 1] == b'\r';
            let whole = end - usize::from(self.held);
            if lone && self.raw[..whole].contains(&b'\r') {
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
    fn few_carriage_returns_among_line_feeds_are_characters() {
        for text in ["a,b\nc,d\re,f\n1\n2\n3\n4\n5\ng\nh\ni\nj\r", "a\r\nb\nc\rd\r\ne\nf\r\n"] {
            for step in 1..20 {
                assert_eq!(decoded(text.as_bytes(), step, Encoding::Utf8), text.as_bytes(), "{step} bytes at a time");
            }
        }
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
