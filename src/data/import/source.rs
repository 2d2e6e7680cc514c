/*! The files of a log. A source is a file that can be opened repeatedly: after detection it is read again from its
start. Standard input and other pipes can be read only once, so they are copied into the staging folder and read from
there.
*/

use std::{
    fs::{self, File},
    io::{self, BufReader, ErrorKind, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use flate2::bufread::MultiGzDecoder;

use crate::{
    base::{Error, Result, error::IoContext, error::typed},
    data::import::{
        decode::{Decoded, Encoding, Seen, Undefined},
        options::{ImportOptions, cancelled},
    },
};

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn name(self) -> &'static str {
        ["plain", "gzip", "zstd"][self as usize]
    }
}

/// A file to import.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The path as the user gave it.
    shown: PathBuf,
    /// The path that is opened: the file, or the copy of a pipe.
    path: PathBuf,
    pub packing: Packing,
    pub parquet: bool,
    /// Columns from the path of a part file: `day=2024-05-01`.
    pub partition: Vec<(String, String)>,
    /// The encoding of its text.
    pub encoding: Encoding,
    /// Statistics of its bytes, collected while the text is read.
    seen: Arc<Seen>,
}

/// The name of standard input in messages and in the manifest.
const STDIN: &str = "standard input";

/// File name suffix of copies of pipes.
const COPY: &str = ".copy.tmp";

/// Magic bytes of files that are not logs, what they are, and how to convert them.
#[rustfmt::skip]
const FOREIGN: &[(&[u8], &str, &str)] = &[
    (b"ARROW1", "an Arrow file (Feather)", "save it as Parquet: pandas.read_feather('FILE').to_parquet('OUT.parquet')"),
    (b"FEA1", "a Feather file", "save it as Parquet: pandas.read_feather('FILE').to_parquet('OUT.parquet')"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "save it as Parquet: pyarrow.ipc.open_stream('FILE').read_all(), then \
                                              pyarrow.parquet.write_table"),
    (b"ORC", "an ORC file", "save it as Parquet: pandas.read_orc('FILE').to_parquet('OUT.parquet')"),
    (b"Obj\x01", "an Avro file", "save it as Parquet or CSV, e.g. with Spark or DuckDB"),
    (b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (b"SQLite format 3\0", "an SQLite database", "export the table: sqlite3 -header -csv FILE 'SELECT * FROM TABLE' | \
                                                  mipgpu import - --out DIR"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "save the sheet as CSV"),
    (b"\x89HDF\r\n", "an HDF5 file", "save it as Parquet: pandas.read_hdf('FILE').to_parquet('OUT.parquet')"),
    (b"\x93NUMPY", "a NumPy array", "save it as CSV or Parquet with a column for the user and one for the item"),
    (b"\x80\x03", "a Python pickle", "save it as Parquet: pandas.read_pickle('FILE').to_parquet('OUT.parquet')"),
    (b"\x80\x04", "a Python pickle", "save it as Parquet: pandas.read_pickle('FILE').to_parquet('OUT.parquet')"),
    (b"\x80\x05", "a Python pickle", "save it as Parquet: pandas.read_pickle('FILE').to_parquet('OUT.parquet')"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first: 7z x FILE"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it: xz -dc FILE | mipgpu import - --out DIR"),
    (b"\x04\x22\x4d\x18", "packed with lz4", "unpack it: lz4 -dc FILE | mipgpu import - --out DIR"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"%PDF", "a PDF file", "export the table as CSV"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
];

impl Source {
    /// The source at `path`; `-` is standard input. A pipe is copied to `dir` under a name derived from `name`.
    pub fn new(path: &Path, dir: &Path, name: &str, options: &ImportOptions) -> Result<Source> {
        let stdin = path == Path::new("-");
        if stdin {
            if io::stdin().is_terminal() {
                return Err(Error::user("-: standard input is a terminal, not a log")
                    .hint("pipe a log into it: cat LOG | mipgpu import - --out DIR"));
            }
            let copy = dir.join(format!("{name}{COPY}"));
            copied(|| Ok(Box::new(io::stdin())), Path::new(STDIN), &copy, options)?;
            return Source::at(PathBuf::from(STDIN), copy, options);
        }
        let meta = path.metadata().map_err(|e| {
            let error = Error::io(path, &e);
            if e.kind() == ErrorKind::NotFound { error.hint("check the path of the log") } else { error }
        })?;
        if meta.is_dir() {
            return Err(
                Error::user(format!("{}: this is a folder, not a file", path.display())).hint("name a file in it")
            );
        }
        if meta.is_file() {
            return Source::at(path.into(), path.into(), options);
        }
        let copy = dir.join(format!("{name}{COPY}"));
        let pipe = path.to_path_buf();
        copied(|| Ok(Box::new(File::open(pipe)?)), path, &copy, options)?;
        Source::at(path.into(), copy, options)
    }

    /// A source from a regular file; its first bytes determine the format.
    fn at(shown: PathBuf, path: PathBuf, options: &ImportOptions) -> Result<Source> {
        let mut start = Vec::new();
        File::open(&path).and_then(|f| f.take(4 << 10).read_to_end(&mut start)).at_path(&path)?;
        let mut source = Source {
            shown,
            path,
            packing: Packing::None,
            parquet: false,
            partition: Vec::new(),
            encoding: options.encoding,
            seen: Arc::default(),
        };
        match start.as_slice() {
            [] => return Err(Error::user(format!("{}: the file is empty", source.display()))),
            [b'P', b'A', b'R', b'1', ..] => source.parquet = true,
            [0x1f, 0x8b, ..] => source.packing = Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => source.packing = Packing::Zstd,
            _ => {}
        }
        source.refuse_foreign(&start)?;
        if source.packing != Packing::None {
            source.refuse_foreign_inside()?;
        }
        Ok(source)
    }

    /// Rejects a compressed file that contains a Parquet file or an archive: compressed files must contain text.
    fn refuse_foreign_inside(&self) -> Result<()> {
        let mut start = Vec::new();
        self.unpacked()?.take(4 << 10).read_to_end(&mut start).map_err(|e| self.read_error(&e))?;
        let unpack = if self.packing == Packing::Gzip { "gzip" } else { "zstd" };
        let inside = |what: &str, hint: String| {
            Err(Error::user(format!("{}: this is {what} packed with {}", self.display(), self.packing.name()))
                .hint(hint))
        };
        if start.starts_with(b"PAR1") {
            let pipe = format!("unpack it: {unpack} -dc {} | mipgpu import - --out DIR", typed(&self.shown));
            return inside("a Parquet file", pipe);
        }
        if start.get(257..262) == Some(b"ustar") {
            return inside("a tar archive", "unpack it first: tar -xf FILE".into());
        }
        self.refuse_foreign(&start)
    }

    fn refuse_foreign(&self, start: &[u8]) -> Result<()> {
        let python = format!("'{}'", self.display().to_string().replace('\\', "\\\\").replace('\'', "\\'"));
        let foreign = |what: &str, hint: &str| {
            Err(Error::user(format!("{}: this is {what}", self.display()))
                .hint(hint.replace("'FILE'", &python).replace("FILE", &typed(&self.shown))))
        };
        if let Some((_, what, hint)) = FOREIGN.iter().find(|(magic, ..)| start.starts_with(magic)) {
            return foreign(what, hint);
        }
        let holds = |word: &[u8]| start.windows(word.len()).any(|w| w == word);
        if start.starts_with(b"PK\x03\x04") {
            let office = holds(b"[Content_Types].xml") || holds(b"xl/");
            return if office {
                foreign("an Excel workbook", "save the sheet as CSV")
            } else {
                foreign("a zip archive", "unpack it first: unzip FILE")
            };
        }
        // A block of bzip2 begins with the digits of pi.
        if start.starts_with(b"BZh") && start.get(4..10) == Some(b"\x31\x41\x59\x26\x53\x59") {
            return foreign("packed with bzip2", "unpack it: bzip2 -dc FILE | mipgpu import - --out DIR");
        }
        if start.get(257..262) == Some(b"ustar") {
            return foreign("a tar archive", "unpack it first: tar -xf FILE");
        }
        if start.get(8..12) == Some(b"DUCK") {
            return foreign(
                "a DuckDB database",
                "export the table: duckdb FILE -c \"COPY TABLE TO 'log.parquet'\", then import that",
            );
        }
        let first = start.trim_ascii_start();
        let page = [&b"<!doctype html"[..], b"<html", b"<?xml"];
        if page.iter().any(|word| first.get(..word.len()).is_some_and(|f| f.eq_ignore_ascii_case(word))) {
            return foreign("a web page or XML, not a log", "was the download refused? open the file to see");
        }
        Ok(())
    }

    /// Whether this is the copy of the pipe at `path`.
    pub fn is_copy_of(&self, path: &Path) -> bool {
        let name = if path == Path::new("-") { Path::new(STDIN) } else { path };
        self.shown == name && self.path != self.shown
    }

    /// The name for messages.
    pub fn display(&self) -> std::path::Display<'_> {
        self.shown.display()
    }

    /// The name, quoted for a shell.
    pub fn typed(&self) -> String {
        typed(&self.shown)
    }

    pub fn file(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| Error::io(&self.shown, &e))
    }

    /// Opens the text, decompressed and decoded.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Decoded::new(self.unpacked()?, self.encoding, self.seen.clone())))
    }

    /// A warning if --encoding seems wrong; call after reading the text.
    pub fn encoding_doubts(&self) -> Option<String> {
        let (flag, seen) = (self.encoding_name()?, &self.seen);
        if seen.is_utf8() {
            return Some(format!(
                "{}: the file is valid UTF-8 with characters of several bytes, and is read with --encoding \
                 {flag}: each such character becomes several; leave --encoding out",
                self.display()
            ));
        }
        (self.encoding == Encoding::Latin1 && seen.has_controls()).then(|| {
            format!(
                "{}: the file holds bytes from 0x80 to 0x9F, which are control characters in Latin-1: it may \
                 be Windows-1252; --encoding windows-1252 reads them as quotation marks, dashes and the like",
                self.display()
            )
        })
    }

    /// The value of --encoding; `None` for UTF-8.
    fn encoding_name(&self) -> Option<&'static str> {
        match self.encoding {
            Encoding::Utf8 => None,
            Encoding::Latin1 => Some("latin1"),
            Encoding::Windows1252 => Some("windows-1252"),
        }
    }

    fn unpacked(&self) -> Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(256 << 10, self.file()?);
        Ok(match self.packing {
            Packing::None => Box::new(file),
            Packing::Gzip => Box::new(MultiGzDecoder::new(file)),
            Packing::Zstd => {
                let decoder = zstd::Decoder::with_buffer(file).map_err(|e| self.read_error(&e))?;
                Box::new(decoder)
            }
        })
    }

    /// Converts an error while reading; errors of the decompressor get a plain message.
    pub fn read_error(&self, e: &io::Error) -> Error {
        let (path, packing) = (self.display(), self.packing.name());
        if let Some(undefined) = e.get_ref().and_then(|inner| inner.downcast_ref::<Undefined>()) {
            return Error::user(format!("{path}: {undefined}")).hint(
                "--encoding latin1 accepts every byte; or is the file in another encoding? convert it with iconv",
            );
        }
        if self.packing == Packing::None {
            return Error::io(&self.shown, e);
        }
        match e.kind() {
            ErrorKind::UnexpectedEof => Error::user(format!("{path}: the {packing} data end early"))
                .hint("the file was cut short; copy or download it again"),
            // zstd reports its errors with kind Other.
            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::Other => {
                Error::user(format!("{path}: the {packing} data are damaged ({e})"))
                    .hint("copy or download the file again")
            }
            _ => Error::io(&self.shown, e),
        }
    }
}

type Stream = io::Result<Box<dyn Read + Send>>;

/// Copies a stream to its end. A separate thread reads it: the writer may never come, and Ctrl-C has to work.
fn copied(
    open: impl FnOnce() -> Stream + Send + 'static,
    shown: &Path,
    to: &Path,
    options: &ImportOptions,
) -> Result<()> {
    let mut file = File::create(to).at_path(to)?;
    let (send, receive) = sync_channel(4);
    thread::spawn(move || {
        let read = || -> io::Result<()> {
            let mut from = open()?;
            loop {
                let mut buffer = vec![0; 128 << 10];
                match from.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => buffer.truncate(n),
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                }
                // The receiver is gone if the import has ended.
                if send.send(Ok(buffer)).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(e) = read() {
            let _ = send.send(Err(e));
        }
    });
    loop {
        cancelled(options)?;
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(bytes)) => file.write_all(&bytes).at_path(to)?,
            Ok(Err(e)) => return Err(Error::io(shown, &e)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Removes the copies of pipes.
pub(crate) fn remove_copies(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).at_path(dir)? {
        let path = entry.at_path(dir)?.path();
        if path.to_string_lossy().ends_with(COPY) {
            fs::remove_file(&path).at_path(&path)?;
        }
    }
    Ok(())
}
