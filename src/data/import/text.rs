/*! Text logs -> blocks of parsed rows. One thread reads and cuts the text at record ends, several parse the pieces;
the blocks leave in the order of the file, so that what follows does not depend on the number of threads.
*/

use std::{
    hash::{DefaultHasher, Hasher},
    io::Read,
    mem,
    sync::mpsc::SyncSender,
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::{
    base::{Error, Result},
    data::import::{
        columns::Role,
        intern::hash_key,
        ratings::RatingRule,
        records::{Delimiter, End, Field, is_blank, last_record_end, record},
        sniff::TextLayout,
    },
};

/// A record longer than this is taken for a file that is no log (or a quote that never closes).
const LONGEST_RECORD_BYTES: usize = 64 << 20;

/// One parsed row; keys lie in the block's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub user: (u32, u32),
    pub item: (u32, u32),
    pub user_hash: u64,
    pub item_hash: u64,
    pub time: i64,
    pub rating: f32,
    /// What [`basket_label`] made of the basket's cell; 0 without one.
    pub basket: u64,
}

/// A row that cannot be used, and why.
#[derive(Clone, Debug)]
pub(crate) struct BadRow {
    /// Line of a text file or row of a Parquet file, from 1.
    pub line: u64,
    /// Which column, as people know it; empty where the whole row is meant.
    pub column: String,
    pub reason: String,
}

/// A piece of a log, parsed.
#[derive(Default)]
pub(crate) struct Block {
    /// What `Row` keys point into.
    pub text: Vec<u8>,
    pub rows: Vec<Row>,
    /// The first few bad rows of the piece.
    pub bad: Vec<BadRow>,
    pub bad_rows: u64,
    /// Rows left out by `--min-rating`.
    pub below_rating: u64,
}

/// How many bad rows of a block are described; the rest are counted.
const BAD_SHOWN: usize = 5;

impl Block {
    #[cold]
    pub fn reject(&mut self, line: u64, column: impl Into<String>, reason: impl Into<String>) {
        self.bad_rows += 1;
        if self.bad.len() < BAD_SHOWN {
            self.bad.push(BadRow { line, column: column.into(), reason: reason.into() });
        }
    }

    pub fn key(&self, at: (u32, u32)) -> &[u8] {
        &self.text[at.0 as usize..(at.0 + at.1) as usize]
    }
}

/// Cuts a text into pieces of about `size` bytes that end at record ends.
struct Cutter<'a> {
    reader: Box<dyn Read + Send>,
    layout: &'a TextLayout,
    size: usize,
    carry: Vec<u8>,
    /// Line number of the next piece's first line.
    line: u64,
    ended: bool,
}

/// A piece of text and the number of its first line.
struct Piece {
    text: Vec<u8>,
    line: u64,
}

impl Cutter<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        let mut text = mem::take(&mut self.carry);
        loop {
            if !self.ended {
                let before = text.len();
                let more = (&mut self.reader).take(self.size as u64).read_to_end(&mut text);
                more.map_err(|e| self.layout.source.read_error(&e))?;
                self.ended = text.len() == before;
            }
            if self.ended {
                // What is left is the last record, with or without a line end.
                break;
            }
            if let Some(end) = last_record_end(&text, self.layout.delimiter) {
                self.carry = text.split_off(end);
                break;
            }
            if text.len() > LONGEST_RECORD_BYTES {
                return Err(Error::user(format!(
                    "{}: line {}: no end of the record within 64 MiB",
                    self.layout.source.display(),
                    self.line
                ))
                .hint("a quote that is opened and never closed does this; or the file is not a log"));
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        let line = self.line;
        self.line += text.iter().filter(|&&b| b == b'\n').count() as u64;
        Ok(Some(Piece { text, line }))
    }
}

/// Reads a text log to its end and sends its blocks in order. Ends early, without an error, when nobody listens.
pub(crate) fn read(
    layout: &TextLayout,
    rule: RatingRule,
    block_bytes: usize,
    out: &SyncSender<Result<Block>>,
) -> Result<()> {
    let reader = layout.source.open()?;
    let mut cutter = Cutter { reader, layout, size: block_bytes, carry: Vec::new(), line: 1, ended: false };
    let parser = Parser::new(layout, rule);
    let mut first = true;
    loop {
        // One piece a thread: they are parsed at once, and sent on in their order.
        let mut pieces = Vec::new();
        while pieces.len() < rayon::current_num_threads() {
            let Some(mut piece) = cutter.next()? else { break };
            if mem::take(&mut first) && piece.text.starts_with(&[0xef, 0xbb, 0xbf]) {
                // The byte-order mark that some programs put in front of UTF-8.
                piece.text.drain(..3);
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Ok(());
        }
        let blocks: Vec<Block> = pieces.into_par_iter().map(|piece| parser.parse(piece)).collect();
        for block in blocks {
            if out.send(Ok(block)).is_err() {
                return Ok(());
            }
        }
    }
}

struct Parser<'a> {
    layout: &'a TextLayout,
    rule: RatingRule,
    /// How many fields of a record are needed.
    most: usize,
    /// Columns of the file itself; those of its path follow.
    own: usize,
}

impl<'a> Parser<'a> {
    fn new(layout: &'a TextLayout, rule: RatingRule) -> Self {
        let own = layout.names.len() - layout.source.partition.len();
        let last = Role::ALL.iter().filter_map(|r| layout.columns.of(*r)).filter(|c| *c < own).max();
        Parser { layout, rule, most: last.map_or(0, |c| c + 1), own }
    }

    fn parse(&self, piece: Piece) -> Block {
        let Piece { mut text, mut line } = piece;
        let first_line = line;
        let constants = self.append_partition(&mut text);
        let length = text.len() - constants.iter().map(|f| f.end - f.start).sum::<usize>();
        let quotes = matches!(self.layout.delimiter, Delimiter::Byte(_)) && text.contains(&b'"');
        let utf8 = std::str::from_utf8(&text).is_ok();
        let mut block = Block::default();
        // Keys with doubled quotes are written out plainly behind the text.
        let mut extra = Vec::new();
        let (mut pos, mut fields) = (0, Vec::with_capacity(self.most));
        // The header is the first record of the file that is not blank.
        let mut header = self.layout.header && first_line == 1;
        while pos < length {
            let (next, end) =
                record(&text[..length], pos, self.layout.delimiter, quotes, self.most.max(1), &mut fields);
            if !is_blank(&fields) && !mem::take(&mut header) {
                if !constants.is_empty() && fields.len() >= self.most {
                    fields.resize(self.own, Field { start: 0, end: 0, escaped: false });
                    fields.extend(&constants);
                }
                self.row(&text, &fields, end, line, utf8, &mut extra, &mut block);
            }
            line += if quotes { text[pos..next].iter().filter(|&&b| b == b'\n').count() as u64 } else { 1 };
            pos = next;
        }
        block.text = text;
        block.text.append(&mut extra);
        block
    }

    /// Writes what the path of the file says behind the text; gives where.
    fn append_partition(&self, text: &mut Vec<u8>) -> Vec<Field> {
        let partition = self.layout.source.partition.iter();
        partition
            .map(|(_, value)| {
                let start = text.len();
                text.extend_from_slice(value.as_bytes());
                Field { start, end: text.len(), escaped: false }
            })
            .collect()
    }

    /// Which column a role stands in, for messages.
    fn column(&self, role: Role) -> String {
        let at = self.layout.columns.of(role).expect("the role has a column");
        if self.layout.named { format!("'{}'", self.layout.names[at]) } else { format!("{} ({})", at + 1, role.name()) }
    }

    #[inline]
    fn row(
        &self,
        text: &[u8],
        fields: &[Field],
        end: End,
        line: u64,
        utf8: bool,
        extra: &mut Vec<u8>,
        block: &mut Block,
    ) {
        let columns = &self.layout.columns;
        if end == End::OpenQuote {
            return block.reject(line, "", "a quote is opened and never closed");
        }
        if fields.len() < self.most {
            let missing = Role::ALL.into_iter().find(|r| columns.of(*r).is_some_and(|c| c >= fields.len()));
            let cut =
                if end == End::Text { "; it is the last line and has no line end: was the file cut?" } else { "" };
            let reason = format!("the row has {} of {} needed columns{cut}", fields.len(), self.most);
            return block.reject(line, missing.map_or(String::new(), |r| self.column(r)), reason);
        }
        let rating = match columns.rating {
            None => 0.0,
            Some(c) => match parse_rating(&text[fields[c].start..fields[c].end], self.rule) {
                Ok(rating) => rating,
                Err(reason) => return block.reject(line, self.column(Role::Rating), reason),
            },
        };
        let time = match (columns.time, self.layout.time_kind) {
            (Some(c), Some(kind)) => {
                let cell = &text[fields[c].start..fields[c].end];
                match kind.parse(cell) {
                    Some(time) => time,
                    None => return block.reject(line, self.column(Role::Time), bad_time(cell)),
                }
            }
            _ => 0,
        };
        let basket = match columns.basket.map(|c| fields[c]) {
            None => 0,
            Some(field) if field.start == field.end => {
                return block.reject(line, self.column(Role::Basket), "the basket is empty");
            }
            Some(field) => basket_label(&field.bytes(text)),
        };
        // Keys come last: hashing is the dearest part, and rows that are refused before it cost nothing.
        let mut key = |role: Role, c: usize| -> Option<(u32, u32)> {
            let field = fields[c];
            if field.start == field.end {
                block.reject(line, self.column(role), format!("the {} is empty", role.name()));
                return None;
            }
            if !utf8 && std::str::from_utf8(&text[field.start..field.end]).is_err() {
                let reason = format!("the {} is not UTF-8 text", role.name());
                block.reject(line, self.column(role), reason);
                return None;
            }
            if field.escaped {
                let plain = field.bytes(text);
                let at = (text.len() + extra.len()) as u32;
                extra.extend_from_slice(&plain);
                return Some((at, plain.len() as u32));
            }
            Some((field.start as u32, (field.end - field.start) as u32))
        };
        let (Some(user), Some(item)) = (key(Role::User, columns.user), key(Role::Item, columns.item)) else { return };
        if self.rule.leaves_out(rating) {
            block.below_rating += 1;
            return;
        }
        let bytes = |at: (u32, u32)| {
            let (start, end) = (at.0 as usize, (at.0 + at.1) as usize);
            if start < text.len() { &text[start..end] } else { &extra[start - text.len()..end - text.len()] }
        };
        let (user_hash, item_hash) = (hash_key(bytes(user)), hash_key(bytes(item)));
        block.rows.push(Row { user, item, user_hash, item_hash, time, rating, basket });
    }
}

/// The label of a basket: 64 bits of SipHash in place of its text, which only has to differ from the other labels of the
/// same user. A user of 10,000 baskets has two of one label once in 10^11 times; a table of all texts would cost more
/// memory than all users and items.
pub(crate) fn basket_label(cell: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write(cell);
    hash.finish()
}

#[cold]
pub(crate) fn bad_time(cell: &[u8]) -> String {
    if cell.is_empty() {
        return NO_TIME.into();
    }
    format!("'{}' {BAD_TIME}", shown(cell))
}

const NO_TIME: &str = "the time is empty";
const BAD_TIME: &str = "is not a time (a number, or a date like 2015-03-09 18:30:00)";

impl BadRow {
    /// Whether the time is what is wrong.
    pub fn of_time(&self) -> bool {
        self.reason == NO_TIME || self.reason.ends_with(BAD_TIME)
    }
}

/// A cell as it may stand in a message.
fn shown(cell: &[u8]) -> String {
    let text = String::from_utf8_lossy(cell);
    if text.chars().count() > 40 { text.chars().take(40).chain("…".chars()).collect() } else { text.into_owned() }
}

#[inline]
fn parse_rating(cell: &[u8], rule: RatingRule) -> std::result::Result<f32, String> {
    // Most ratings are one digit, or a digit and a half.
    let rating = match cell {
        [d] if d.is_ascii_digit() => Some((d - b'0') as f32),
        [d, b'.', half @ (b'0' | b'5')] if d.is_ascii_digit() => {
            Some((d - b'0') as f32 + if *half == b'5' { 0.5 } else { 0.0 })
        }
        _ => std::str::from_utf8(cell).ok().and_then(|text| text.parse().ok()),
    };
    rule.check(rating, || shown(cell))
}
