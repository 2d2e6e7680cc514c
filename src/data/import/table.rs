//! The first rows of a text file as a table: its delimiter, its header, and the cells.

use std::{borrow::Cow, io::Read};

use crate::{
    base::{Error, Result},
    data::import::{
        bad_rows::{BROKEN_QUOTE, quotes_hint},
        grammar::Delimiter,
        options::ImportOptions,
        records::cells,
        source::Source,
        time::parse_number,
    },
};

/// How much of a file is sampled.
const SAMPLE_BYTES: u64 = 256 << 10;
pub(crate) const SAMPLE_ROWS: usize = 200;

/// The first rows of a table.
pub(crate) struct Table {
    pub delimiter: Delimiter,
    pub header: bool,
    /// Column names; `1`, `2`, … where the file has none.
    pub names: Vec<String>,
    /// The first rows below the header.
    pub rows: Vec<Vec<String>>,
}

/// Samples the first part of a text file. `known`: whether a cell of the first row shows that the row is a header.
pub(crate) fn table(source: &Source, options: &ImportOptions, known: &dyn Fn(&str) -> bool) -> Result<Table> {
    let (text, whole) = sample(source)?;
    let delimiter = delimiter_of(&text, whole, source, options)?;
    rows_of(&text, whole, delimiter, source, options, known)
}

/// The first part of a text file, without a byte-order mark, up to its last whole line; and whether it is the whole
/// file.
pub(crate) fn sample(source: &Source) -> Result<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    source.open()?.take(SAMPLE_BYTES).read_to_end(&mut text).map_err(|e| source.read_error(&e))?;
    let bad = |what: &str| Error::user(format!("{}: {what}", source.display()));
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return Err(bad("this is UTF-16 text").hint(format!(
            "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {} | mipgpu import - --out DIR",
            source.typed()
        )));
    }
    let whole = (text.len() as u64) < SAMPLE_BYTES;
    if text.starts_with(&[0xef, 0xbb, 0xbf]) {
        text.drain(..3);
    }
    if text.contains(&0) {
        return Err(bad("this is not text (it holds zero bytes)")
            .hint("logs are CSV, TSV, MovieLens .dat, RecBole .inter or Parquet"));
    }
    if !whole && let Some(end) = text.iter().rposition(|&b| b == b'\n') {
        text.truncate(end + 1);
    }
    if text.trim_ascii().is_empty() {
        return Err(bad("the file is empty"));
    }
    Ok((text, whole))
}

/// The delimiter that splits the first lines into the same number of fields; with several candidates, into the most
/// fields.
pub(crate) fn delimiter_of(text: &[u8], whole: bool, source: &Source, options: &ImportOptions) -> Result<Delimiter> {
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
    // Quoted words with blanks between them, as R writes tables.
    let lines: Vec<&[u8]> =
        text.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty()).take(SAMPLE_ROWS).collect();
    let quoted = |line: &&&[u8]| memchr::memmem::find(line, b"\" ").is_some() && line.starts_with(b"\"");
    let words = 2 * lines.iter().filter(quoted).count() > lines.len();
    let mut best = (0.0, Delimiter::Byte(b','));
    let mut unnamed = false;
    for delimiter in candidates {
        let rows = cells(text, delimiter, options.quotes, whole).rows;
        let rows = &rows[..rows.len().min(SAMPLE_ROWS)];
        let width = rows.first().map_or(0, Vec::len);
        if width < 2 {
            continue;
        }
        // A few broken rows must not change the detected format; they are reported later.
        // A delimiter at the end of all rows, but not of the header, or vice versa, adds an empty field.
        let open = |longer: &[Cow<[u8]>], shorter: usize| {
            longer.len() == shorter + 1 && longer.last().is_some_and(|cell| cell.trim_ascii().is_empty())
        };
        let fits = |row: &&Vec<Cow<[u8]>>| row.len() == width || open(row, width) || open(&rows[0], row.len());
        let same = rows.iter().filter(fits).count() as f64 / rows.len() as f64;
        // Blanks also occur inside fields, so they are the last resort; an extra field counts little in comparison.
        let certain = if delimiter == Delimiter::Whitespace && !words { 0.5 } else { 1.0 };
        let score = same * certain + width.min(40) as f64 * 1e-3;
        unnamed |= 5 * rows.iter().filter(|row| row.len() == width + 1).count() > 3 * rows.len();
        if same > 0.5 && score > best.0 {
            best = (score, delimiter);
        }
    }
    if best.0 == 0.0 && unnamed {
        return Err(Error::user(format!(
            "{}: rows have one field more than the header has names",
            source.display()
        ))
        .hint(
            "R writes the names of rows without a name above them: write the log with row.names = FALSE, or add a name \
             for the first column to the header",
        ));
    }
    if best.0 == 0.0 {
        return Err(Error::user(format!("{}: cannot tell what separates the columns", source.display())).hint(
            "name it with --delimiter (one character, `::`, tab, comma, semicolon, pipe or space); if a line is a user \
             and all their items, name the separator with --list-sep (space, tab, comma, semicolon or pipe)",
        ));
    }
    Ok(best.1)
}

/// The first rows of a text whose delimiter is known. `known`: as in [`table`].
pub(crate) fn rows_of(
    text: &[u8],
    whole: bool,
    delimiter: Delimiter,
    source: &Source,
    options: &ImportOptions,
    known: &dyn Fn(&str) -> bool,
) -> Result<Table> {
    let cells = cells(text, delimiter, options.quotes, whole);
    // The first row determines how all others are read.
    if cells.broken.first() == Some(&1) {
        return Err(
            Error::user(format!("{}: line 1: {BROKEN_QUOTE}", source.display())).hint(quotes_hint(options.quotes))
        );
    }
    let mut rows: Vec<Vec<String>> = cells
        .rows
        .into_iter()
        .take(SAMPLE_ROWS)
        .map(|row| row.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect())
        .collect();
    if rows.is_empty() {
        return Err(Error::user(format!("{}: nothing but blank lines", source.display()))
            .hint("a log has a row for each interaction: user, item and, as a rule, a time"));
    }
    let number = |cell: &str| parse_number(cell.as_bytes()).is_some() || cell.parse::<f64>().is_ok();
    // A header has no numbers, and contains a known name or has words above a column of numbers.
    let words_above_numbers = || {
        rows.len() > 1
            && (0..rows[0].len()).any(|c| {
                // Concatenated files may repeat the header.
                let data = rows[1..].iter().filter(|row| **row != rows[0]);
                let below: Vec<&String> = data.filter_map(|r| r.get(c)).collect();
                !number(&rows[0][c]) && !below.is_empty() && below.iter().all(|cell| number(cell))
            })
    };
    let header = !options.no_header
        && !rows[0].iter().any(|c| number(c))
        && (rows[0].iter().any(|c| known(c)) || words_above_numbers());
    let names = if header { rows.remove(0) } else { (1..=rows[0].len()).map(|n| n.to_string()).collect() };
    if header && rows.iter().any(|row| *row != names) {
        rows.retain(|row| *row != names);
    }
    Ok(Table { delimiter, header, names, rows })
}
