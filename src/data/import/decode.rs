/*! Decodes a text file to UTF-8 with LF and CRLF line ends. A lone CR (old Macintosh files) becomes LF if the first
part of the file has no LF, or at least a quarter as many lone CRs as LFs; otherwise a CR is a character of its cell.
`--encoding` converts Latin-1 and Windows-1252 to UTF-8.
*/

use std::{
    fmt,
    io::{self, ErrorKind, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

/// How a text file encodes its characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Utf8,
    /// ISO 8859-1: one byte per character, as old Unix systems write
    Latin1,
    /// Latin-1 with quotation marks, dashes and the euro sign in 0x80 to 0x9F, as Western European Windows writes
    #[value(name = "windows-1252")]
    #[serde(rename = "windows-1252")]
    Windows1252,
}

/// The characters of the bytes 0x80 to 0x9F in Windows-1252; five are not defined.
#[rustfmt::skip]
const WINDOWS_1252: [Option<char>; 32] = [
    Some('\u{20ac}'), None, Some('\u{201a}'), Some('\u{0192}'), Some('\u{201e}'), Some('\u{2026}'), Some('\u{2020}'),
    Some('\u{2021}'), Some('\u{02c6}'), Some('\u{2030}'), Some('\u{0160}'), Some('\u{2039}'), Some('\u{0152}'), None,
    Some('\u{017d}'), None, None, Some('\u{2018}'), Some('\u{2019}'), Some('\u{201c}'), Some('\u{201d}'),
    Some('\u{2022}'), Some('\u{2013}'), Some('\u{2014}'), Some('\u{02dc}'), Some('\u{2122}'), Some('\u{0161}'),
    Some('\u{203a}'), Some('\u{0153}'), None, Some('\u{017e}'), Some('\u{0178}'),
];

/// A byte that Windows-1252 does not define, and its line number.
#[derive(Debug)]
pub(crate) struct Undefined {
    byte: u8,
    line: u64,
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: byte 0x{:02X} is not defined in Windows-1252", self.line, self.byte)
    }
}

impl std::error::Error for Undefined {}

/// Which bytes occurred in a file that is read with one byte per character.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The bytes are not valid UTF-8.
    not_utf8: AtomicBool,
    /// There are non-ASCII bytes; if the file is valid UTF-8, they are multi-byte characters.
    multibyte: AtomicBool,
    /// There are bytes from 0x80 to 0x9F, which are control characters in Latin-1.
    controls: AtomicBool,
}

impl Seen {
    /// Whether the file is valid UTF-8 with multi-byte characters.
    pub fn is_utf8(&self) -> bool {
        self.multibyte.load(Ordering::Relaxed) && !self.not_utf8.load(Ordering::Relaxed)
    }

    pub fn has_controls(&self) -> bool {
        self.controls.load(Ordering::Relaxed)
    }

    /// Checks the next bytes; `cut`: an incomplete character at the end of the previous bytes.
    fn look(&self, bytes: &[u8], cut: &mut Vec<u8>) {
        if bytes.is_ascii() && cut.is_empty() {
            return;
        }
        if bytes.iter().any(|b| (0x80..0xa0).contains(b)) {
            self.controls.store(true, Ordering::Relaxed);
        }
        if self.not_utf8.load(Ordering::Relaxed) {
            return;
        }
        let joined = [cut.as_slice(), bytes].concat();
        cut.clear();
        match std::str::from_utf8(&joined) {
            Ok(_) => {}
            Err(e) if e.error_len().is_none() => cut.extend_from_slice(&joined[e.valid_up_to()..]),
            Err(_) => self.not_utf8.store(true, Ordering::Relaxed),
        }
        self.multibyte.store(true, Ordering::Relaxed);
    }
}

/// Bytes per read.
const CHUNK: usize = 256 << 10;

/// A reader of decoded text.
pub(crate) struct Decoded<R> {
    inner: R,
    encoding: Encoding,
    raw: Vec<u8>,
    text: Vec<u8>,
    /// How much of `text` has been returned.
    taken: usize,
    /// The last byte read is a CR; what it becomes depends on the next one.
    held: bool,
    /// Whether a lone CR ends lines; `None` before the first read.
    lone: Option<bool>,
    seen: Arc<Seen>,
    /// An incomplete UTF-8 character at the end of the bytes read so far.
    cut: Vec<u8>,
    /// Line ends so far.
    lines: u64,
}

/// Whether a lone CR ends lines in a file that begins with `text`.
fn ends_lines(text: &[u8]) -> bool {
    let count = |wanted: &dyn Fn(usize) -> bool| (0..text.len()).filter(|&at| wanted(at)).count();
    let line_feeds = count(&|at| text[at] == b'\n');
    4 * count(&|at| text[at] == b'\r' && text.get(at + 1) != Some(&b'\n')) >= line_feeds
}

impl<R: Read> Decoded<R> {
    /// `seen` records which bytes occurred.
    pub fn new(inner: R, encoding: Encoding, seen: Arc<Seen>) -> Self {
        let raw = vec![0; CHUNK];
        let (text, cut) = (Vec::new(), Vec::new());
        Decoded { inner, encoding, raw, text, taken: 0, held: false, lone: None, seen, cut, lines: 0 }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.taken = 0;
        let mut end = usize::from(self.held);
        while self.text.is_empty() {
            let mut read = self.inner.read(&mut self.raw[end..])?;
            if self.lone.is_none() {
                // Fill the chunk, so that the decision does not depend on how much one read returns.
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
                if !self.cut.is_empty() {
                    self.seen.not_utf8.store(true, Ordering::Relaxed);
                }
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
                    self.seen.look(&self.raw[..whole], &mut self.cut);
                    let text: String = self.raw[..whole].iter().map(|&b| char::from(b)).collect();
                    self.text.extend_from_slice(text.as_bytes());
                }
                Encoding::Windows1252 => {
                    self.seen.look(&self.raw[..whole], &mut self.cut);
                    let mut text = String::with_capacity(whole);
                    for &byte in &self.raw[..whole] {
                        self.lines += u64::from(byte == b'\n');
                        let letter = match byte {
                            0x80..0xa0 => WINDOWS_1252[usize::from(byte - 0x80)],
                            byte => Some(char::from(byte)),
                        };
                        let undefined = || Undefined { byte, line: self.lines + 1 };
                        text.push(letter.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, undefined()))?);
                    }
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

    /// Returns a few bytes at a time, so that CR and LF are split.
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
        Decoded::new(Bit(bytes, step), encoding, Arc::default()).read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn windows_1252_is_its_table() {
        let defined = (0x80..=0x9fu8).filter(|b| ![0x81, 0x8d, 0x8f, 0x90, 0x9d].contains(b));
        let bytes: Vec<u8> = b"a\xe9".iter().copied().chain(defined).collect();
        for step in [1, 2, 7, 64] {
            let text = decoded(&bytes, step, Encoding::Windows1252);
            assert_eq!(text, "aé€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ".as_bytes());
        }
        for byte in [0x81, 0x8d, 0x8f, 0x90, 0x9d] {
            let bytes = [b'a', b'\n', b'b', byte, b'\n'];
            let mut reader = Decoded::new(Bit(&bytes, 9), Encoding::Windows1252, Arc::default());
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err().to_string();
            assert_eq!(error, format!("line 2: byte 0x{byte:02X} is not defined in Windows-1252"));
        }
    }

    #[test]
    fn utf8_is_seen_wherever_reads_end() {
        for (bytes, utf8, controls) in [
            (&"Café – 日本\n".as_bytes().repeat(3)[..], true, true),
            (b"plain", false, false),
            (b"Caf\xe9\n", false, false),
            ("Café".as_bytes(), true, false),
            (b"Caf\xc3", false, false),
            (b"\x93x\x94", false, true),
        ] {
            for step in 1..9 {
                let seen: Arc<Seen> = Arc::default();
                Decoded::new(Bit(bytes, step), Encoding::Latin1, seen.clone()).read_to_end(&mut Vec::new()).unwrap();
                assert_eq!((seen.is_utf8(), seen.has_controls()), (utf8, controls), "{bytes:?} by {step}");
            }
        }
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
