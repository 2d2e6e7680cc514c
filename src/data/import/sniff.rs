/*! What a file is: its format, delimiter, header and columns, told from its first part. Names of files only break
ties; content decides, so a `.csv` that holds tabs is read as what it is.
*/

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;

use crate::{
    base::{Error, Result, error::IoContext},
    data::import::{
        ImportOptions,
        columns::{self, Columns, Role, cells_of},
        doubts,
        records::{Delimiter, cells},
        time::{TimeKind, parse_number},
    },
};

/// How much of a file is looked at.
const SAMPLE_BYTES: u64 = 256 << 10;
const SAMPLE_ROWS: usize = 200;

/// What was understood of a text file.
#[derive(Clone, Debug)]
pub(crate) struct TextLayout {
    pub path: PathBuf,
    pub gzip: bool,
    pub delimiter: Delimiter,
    pub header: bool,
    pub names: Vec<String>,
    pub columns: Columns,
    pub time_kind: Option<TimeKind>,
    /// Where the file has no header, or none that is known: its first row.
    first: Vec<String>,
    /// What may have been misunderstood.
    doubts: Vec<String>,
}

/// What kind of file it is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Parquet,
    Gzip,
    Plain,
}

pub(crate) fn kind_of(path: &Path) -> Result<Kind> {
    let meta = path.metadata().map_err(|e| {
        let error = Error::io(path, &e);
        if e.kind() == std::io::ErrorKind::NotFound { error.hint("check the path of the log") } else { error }
    })?;
    if meta.is_dir() {
        return Err(Error::user(format!("{}: this is a folder, not a log", path.display()))
            .hint("name the files in it; several are read as one log, in the order given"));
    }
    let mut start = Vec::new();
    File::open(path).and_then(|f| f.take(8).read_to_end(&mut start)).at_path(path)?;
    let archive = [("PK\x03\x04", "zip"), ("7z\u{bc}", "7z"), ("BZh", "bzip2"), ("\u{28}\u{b5}", "zstd")];
    for (magic, name) in archive {
        let magic: Vec<u8> = magic.chars().map(|c| c as u8).collect();
        if start.starts_with(&magic) && (name != "bzip2" || start.get(4) == Some(&b'1')) {
            return Err(Error::user(format!("{}: this is a {name} archive", path.display())).hint("unpack it first"));
        }
    }
    Ok(match start.as_slice() {
        [] => return Err(Error::user(format!("{}: the file is empty", path.display()))),
        [b'P', b'A', b'R', b'1', ..] => Kind::Parquet,
        [0x1f, 0x8b, ..] => Kind::Gzip,
        _ => Kind::Plain,
    })
}

/// Opens a text file, unpacking gzip on the way.
pub(crate) fn open(path: &Path, gzip: bool) -> Result<Box<dyn Read + Send>> {
    let file = BufReader::with_capacity(256 << 10, File::open(path).at_path(path)?);
    Ok(if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// An error while reading: for gzip, what the decoder says is put in words.
pub(crate) fn read_error(path: &Path, gzip: bool, e: &std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match e.kind() {
        UnexpectedEof if gzip => Error::user(format!("{}: the gzip data end early", path.display()))
            .hint("the file was cut short; copy or download it again"),
        InvalidInput | InvalidData if gzip => {
            Error::user(format!("{}: the gzip data are damaged ({e})", path.display()))
                .hint("copy or download the file again")
        }
        _ => Error::io(path, e),
    }
}

/// The first part of a text file, without a byte-order mark, up to its last whole line.
fn sample(path: &Path, gzip: bool) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    open(path, gzip)?.take(SAMPLE_BYTES).read_to_end(&mut text).map_err(|e| read_error(path, gzip, &e))?;
    let bad = |what: &str| Error::user(format!("{}: {what}", path.display()));
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return Err(bad("this is UTF-16 text").hint("save it as UTF-8, e.g. with `iconv -f UTF-16 -t UTF-8`"));
    }
    if text.starts_with(&[0xef, 0xbb, 0xbf]) {
        text.drain(..3);
    }
    if text.contains(&0) {
        return Err(bad("this is not text (it holds zero bytes)")
            .hint("logs are CSV, TSV, MovieLens .dat, RecBole .inter or Parquet"));
    }
    if text.len() as u64 >= SAMPLE_BYTES - 3
        && let Some(end) = text.iter().rposition(|&b| b == b'\n')
    {
        text.truncate(end + 1);
    }
    if text.trim_ascii().is_empty() {
        return Err(bad("the file is empty"));
    }
    Ok(text)
}

/// The delimiter a file uses: the one that cuts its first lines into the same number of fields, the most fields first.
fn delimiter_of(text: &[u8], path: &Path, options: &ImportOptions) -> Result<Delimiter> {
    if let Some(wish) = &options.delimiter {
        return match wish.as_str() {
            "tab" | "\\t" | "\t" => Ok(Delimiter::Byte(b'\t')),
            "comma" => Ok(Delimiter::Byte(b',')),
            "semicolon" => Ok(Delimiter::Byte(b';')),
            "pipe" => Ok(Delimiter::Byte(b'|')),
            "space" | " " => Ok(Delimiter::Whitespace),
            "::" => Ok(Delimiter::DoubleColon),
            one if one.len() == 1 && !one.contains(['"', '\n', '\r']) => Ok(Delimiter::Byte(one.as_bytes()[0])),
            other => Err(Error::user(format!("--delimiter '{other}' is not one character"))
                .hint("it may be one ASCII character, `::`, or tab, comma, semicolon, pipe, space")),
        };
    }
    let candidates = [
        Delimiter::DoubleColon,
        Delimiter::Byte(b'\t'),
        Delimiter::Byte(b','),
        Delimiter::Byte(b';'),
        Delimiter::Byte(b'|'),
        Delimiter::Whitespace,
    ];
    let mut best = (0.0, Delimiter::Byte(b','));
    for delimiter in candidates {
        let rows = cells(text, delimiter);
        let rows = &rows[..rows.len().min(SAMPLE_ROWS)];
        let width = rows.first().map_or(0, Vec::len);
        if width < 2 {
            continue;
        }
        // A few broken rows must not change what the file is taken for; they are reported as such later.
        let same = rows.iter().filter(|r| r.len() == width).count() as f64 / rows.len() as f64;
        // Blanks also stand inside fields, so they are the last resort; one field more weighs little beside that.
        let certain = if delimiter == Delimiter::Whitespace { 0.5 } else { 1.0 };
        let score = same * certain + width.min(40) as f64 * 1e-3;
        if same > 0.6 && score > best.0 {
            best = (score, delimiter);
        }
    }
    if best.0 == 0.0 {
        return Err(Error::user(format!("{}: cannot tell what separates the columns", path.display()))
            .hint("name it with --delimiter (one character, `::`, tab or space)"));
    }
    Ok(best.1)
}

/// A table as its first rows show it.
pub(crate) struct Table {
    pub delimiter: Delimiter,
    pub header: bool,
    /// Column names; `1`, `2`, … where the file has none.
    pub names: Vec<String>,
    /// The first rows below the header.
    pub rows: Vec<Vec<String>>,
}

/// Looks at the first part of a text file. `known`: whether a first-row cell shows that the row is a header.
pub(crate) fn table(path: &Path, gzip: bool, options: &ImportOptions, known: &dyn Fn(&str) -> bool) -> Result<Table> {
    let text = sample(path, gzip)?;
    let delimiter = delimiter_of(&text, path, options)?;
    let mut rows: Vec<Vec<String>> = cells(&text, delimiter)
        .into_iter()
        .take(SAMPLE_ROWS)
        .map(|row| row.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect())
        .collect();
    if rows.is_empty() {
        return Err(Error::user(format!("{}: nothing but blank lines", path.display()))
            .hint("a log has a row for each interaction: user, item and, as a rule, a time"));
    }
    let number = |cell: &str| parse_number(cell.as_bytes()).is_some() || cell.parse::<f64>().is_ok();
    // A header: no numbers in it, and a name that is known, or words above a column of numbers.
    let words_above_numbers = || {
        rows.len() > 1
            && (0..rows[0].len()).any(|c| {
                let below: Vec<&String> = rows[1..].iter().filter_map(|r| r.get(c)).collect();
                !number(&rows[0][c]) && !below.is_empty() && below.iter().all(|cell| number(cell))
            })
    };
    let header = !options.no_header
        && !rows[0].iter().any(|c| number(c))
        && (rows[0].iter().any(|c| known(c)) || words_above_numbers());
    let names = if header { rows.remove(0) } else { (1..=rows[0].len()).map(|n| n.to_string()).collect() };
    Ok(Table { delimiter, header, names, rows })
}

/// Understands a text log.
pub(crate) fn text_layout(path: &Path, gzip: bool, options: &ImportOptions) -> Result<TextLayout> {
    let at = |e: Error| e.at(path.display());
    // A name that the user gave shows the header too, however odd it is.
    let wishes = Role::wishes(options);
    let wished = |cell: &str| wishes.into_iter().flatten().any(|w| w.eq_ignore_ascii_case(columns::bare(cell)));
    let known = |cell: &str| columns::is_known(cell) || wished(cell);
    let Table { delimiter, header, names, rows } = table(path, gzip, options, &known)?;
    let columns = columns::choose(&names, header, &rows, options).map_err(at)?;
    if rows.is_empty() {
        return Err(Error::user(format!("{}: has a header and no rows", path.display())));
    }
    let time_kind = columns.time.map(|c| TimeKind::of_sample(rows.iter().filter_map(|r| r.get(c)).map(String::as_str)));
    let times = |c: usize| doubts::all_moments(cells_of(&rows, c));
    let mut doubts: Vec<String> = doubts::ignored_times(path, &names, &columns, options, times).into_iter().collect();
    if !header {
        doubts.extend(doubts::header_as_data(path, &rows, &columns, options));
    }
    let first = if header { Vec::new() } else { rows.into_iter().next().unwrap_or_default() };
    Ok(TextLayout { path: path.into(), gzip, delimiter, header, names, columns, time_kind, first, doubts })
}

impl TextLayout {
    /// What to do when the first row cannot be used because words stand where the other rows have a time or a rating:
    /// it will be a header, of names that are not known. `None` where it does not look like one.
    pub fn header_hint(&self, options: &ImportOptions) -> Option<String> {
        let is_word = |cell: &&String| cell.starts_with(char::is_alphabetic);
        let cell = |role: Role| self.columns.of(role).and_then(|c| self.first.get(c));
        let (time, rating) = (cell(Role::Time), cell(Role::Rating));
        if !time.iter().chain(&rating).any(is_word) {
            return None;
        }
        if options.no_header {
            return Some("is line 1 a header? then leave --no-header out".into());
        }
        let flags = [Role::User, Role::Item, Role::Time, Role::Rating].into_iter().filter_map(|role| {
            let name = cell(role).filter(is_word)?;
            let name = if name.contains(' ') { format!("\"{name}\"") } else { name.clone() };
            Some(format!(" --{}-col {name}", role.name()))
        });
        Some(format!(
            "is line 1 a header? none of its names is known; say which columns they are:{}; if line 1 is a bad row, \
             --skip-bad leaves it out",
            flags.collect::<String>()
        ))
    }

    /// What was understood, for people to check.
    pub fn describe(&self) -> Vec<String> {
        let header = if self.header { "with a header" } else { "without a header" };
        let gzip = if self.gzip { ", gzip" } else { "" };
        let mut lines = vec![format!("{}: {}, {header}{gzip}", self.path.display(), self.delimiter)];
        lines.extend(describe_columns(&self.names, self.header, &self.columns, self.time_kind));
        lines.extend(self.doubts.iter().cloned());
        lines
    }
}

/// One line for each role and one for what is ignored.
pub(crate) fn describe_columns(
    names: &[String],
    named: bool,
    columns: &Columns,
    time_kind: Option<TimeKind>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for role in Role::ALL {
        let what = match columns.of(role) {
            Some(c) if named => format!("column {} '{}'", c + 1, names[c]),
            Some(c) => format!("column {}", c + 1),
            None if role == Role::Time => "none: the order of the rows is the order in time".into(),
            None if role == Role::Basket => continue,
            None => "none".into(),
        };
        let unit = match (role, columns.of(role), time_kind) {
            (Role::Time, Some(_), Some(kind)) => format!(", {}", kind.describe()),
            _ => String::new(),
        };
        lines.push(format!("  {:<7} {what}{unit}", role.name()));
    }
    let used: Vec<usize> = Role::ALL.iter().filter_map(|r| columns.of(*r)).collect();
    let ignored: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(c, _)| !used.contains(c))
        .map(|(_, n)| if n.is_empty() { "(unnamed)" } else { n })
        .collect();
    if !ignored.is_empty() {
        let more = if ignored.len() > 8 { format!(" and {} more", ignored.len() - 8) } else { String::new() };
        lines.push(format!("  ignored {}{more}", ignored[..ignored.len().min(8)].join(", ")));
    }
    lines
}
