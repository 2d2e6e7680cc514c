/*! Text logs -> blocks of parsed rows. One thread reads the text and cuts it at record ends, several parse the pieces.
Blocks are sent in file order, so that the result does not depend on the number of threads.
*/

use std::{borrow::Cow, io::Read, mem, sync::mpsc::SyncSender};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::{
    base::{Error, Result},
    data::import::{
        bad_rows::{BROKEN_QUOTE, NO_KEY, NOT_UTF8, bad_time, outside},
        block::Block,
        columns::Role,
        grammar::{Field, Quotes},
        intern::hash_key,
        jsonl::{Line, Wanted},
        messages::shown,
        ratings::parse_rating,
        records::{End, is_blank, last_record_end, record},
        rows::{EventRow, basket_label},
        rules::Rules,
        sniff::TextLayout,
        time::Moment,
    },
};

/// A record longer than this means that the file is not a log.
const LONGEST_RECORD_BYTES: usize = 64 << 20;

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
    /// Skips the first lines, byte by byte since they are few.
    fn skip_lines(&mut self, lines: u64) -> Result<()> {
        let mut byte = [0];
        while self.line <= lines {
            match self.reader.read(&mut byte).map_err(|e| self.layout.source.read_error(&e))? {
                0 => return Ok(()),
                _ => self.line += u64::from(byte[0] == b'\n'),
            }
        }
        Ok(())
    }

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
                // The rest is the last record, with or without a line end.
                break;
            }
            if let Some(end) = last_record_end(&text, &self.layout.grammar) {
                self.carry = text.split_off(end);
                break;
            }
            if text.len() > LONGEST_RECORD_BYTES {
                return Err(Error::user(format!(
                    "{}: line {}: no end of the record within 64 MiB",
                    self.layout.source.display(),
                    self.line
                ))
                .hint("is the file a log?"));
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

/// Reads a text log to its end and sends its blocks in order. Stops early without an error if the receiver is gone.
pub(crate) fn read(
    layout: &TextLayout,
    rules: &Rules,
    block_bytes: usize,
    out: &SyncSender<Result<Block>>,
) -> Result<()> {
    let reader = layout.source.open()?;
    let mut cutter = Cutter { reader, layout, size: block_bytes, carry: Vec::new(), line: 1, ended: false };
    cutter.skip_lines(layout.preamble)?;
    let parser = Parser::new(layout, rules);
    let mut first = true;
    loop {
        // One piece per thread: parsed in parallel, then sent in order.
        let mut pieces = Vec::new();
        while pieces.len() < rayon::current_num_threads() {
            let Some(mut piece) = cutter.next()? else { break };
            if mem::take(&mut first) && piece.text.starts_with(&[0xef, 0xbb, 0xbf]) {
                // Some programs write a byte-order mark at the start of UTF-8.
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
    rules: &'a Rules,
    /// Number of fields that a record must have.
    most: usize,
    /// Number of fields to split.
    split: usize,
    /// Number of columns of the file itself; those of its path follow.
    own: usize,
    /// The columns that are read, with their names, if rows may repeat the header.
    header: Vec<(usize, &'a [u8])>,
    /// Count keys with an unbalanced quote.
    lone: bool,
}

impl<'a> Parser<'a> {
    fn new(layout: &'a TextLayout, rules: &'a Rules) -> Self {
        let own = layout.names.len() - layout.source.partition.len();
        let roles = || Role::ALL.iter().filter_map(|r| layout.columns.of(*r));
        let count = |columns: &mut dyn Iterator<Item = usize>| columns.filter(|c| *c < own).max().map_or(0, |c| c + 1);
        let most = count(&mut roles().chain(layout.filter.needed()));
        let read = count(&mut roles().chain(layout.filter.columns()));
        let all = layout.lists.as_ref().is_some_and(|l| l.whole_lines);
        let mut header: Vec<(usize, &[u8])> = Vec::new();
        if layout.named && layout.json.is_none() && !all {
            let mut read: Vec<usize> = roles().chain(layout.filter.needed()).filter(|c| *c < own).collect();
            read.sort_unstable();
            read.dedup();
            header.extend(read.into_iter().map(|c| (c, layout.names[c].as_bytes())));
        }
        let lone = layout.json.is_none() && matches!(layout.grammar.quotes, Quotes::Auto | Quotes::Csv);
        Parser { layout, rules, most, split: if all { usize::MAX } else { read.max(1) }, own, header, lone }
    }

    /// Whether a row repeats the header, as in concatenated files.
    #[inline]
    fn repeats_header(&self, text: &[u8], fields: &[Field]) -> bool {
        !self.header.is_empty()
            && self.header.iter().all(|&(c, name)| {
                fields.get(c).is_some_and(|field| {
                    let raw = &text[field.start..field.end];
                    // A byte-order mark may also precede a header in the middle of the file.
                    let marked = || {
                        let rest = raw.strip_prefix(b"\xef\xbb\xbf").filter(|_| c == 0)?;
                        Some(rest.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(rest))
                    };
                    raw == name || field.escaped && field.bytes(text)[..] == *name || marked() == Some(name)
                })
            })
    }

    /// Whether a record with more fields than columns may have shifted ones. Empty extra fields are harmless if the
    /// last column has the same kind of value as in other rows.
    #[cold]
    fn shifts(&self, record_text: &[u8], quotes: bool) -> bool {
        let (grammar, mut fields) = (&self.layout.grammar, Vec::new());
        record(record_text, 0, grammar, quotes, usize::MAX, true, &mut fields);
        let number = |field: &Field| {
            let cell = std::str::from_utf8(&record_text[field.start..field.end]).unwrap_or_default();
            cell.is_empty() || cell.parse::<f64>().is_ok()
        };
        fields.iter().skip(grammar.width).any(|field| field.start < field.end)
            || self.layout.last_number && fields.get(grammar.width - 1).is_some_and(|field| !number(field))
    }

    /// Counts a row with an unbalanced quote in a key: `i28"`.
    fn count_lone_quotes(&self, text: &[u8], keys: [Field; 2], line: u64, block: &mut Block) {
        let lone = |field: &Field| {
            let raw = &text[field.start..field.end];
            !field.escaped && raw.iter().filter(|&&b| b == b'"').count() % 2 == 1
        };
        if let Some(field) = keys.iter().find(|field| lone(field)) {
            block.lone_quotes += 1;
            block.first_lone.get_or_insert_with(|| (shown(&text[field.start..field.end]), line));
        }
    }

    fn parse(&self, piece: Piece) -> Block {
        let Piece { mut text, mut line } = piece;
        let first_line = line;
        let constants = self.append_partition(&mut text);
        let length = text.len() - constants.iter().map(|f| f.end - f.start).sum::<usize>();
        let grammar = &self.layout.grammar;
        let quotes = grammar.has_quotes(&text);
        let utf8 = std::str::from_utf8(&text).is_ok();
        let look_for_quotes = self.lone && memchr::memchr(b'"', &text).is_some();
        let mut block = Block { look_for_quotes, ..Block::default() };
        // Keys with doubled quotes are unescaped into `extra`, which is appended to the text.
        let mut extra = Vec::new();
        let (mut pos, mut fields) = (0, Vec::with_capacity(self.most));
        // The header is the first record of the file that is not blank.
        let mut header = self.layout.header && first_line == self.layout.preamble + 1;
        if let Some(wanted) = &self.layout.json {
            self.json(wanted, &mut text[..], length, &constants, line, utf8, &mut extra, &mut block);
            block.text = text;
            block.text.append(&mut extra);
            block.close(self.layout.time_kind);
            return block;
        }
        while pos < length {
            let split = record(&text[..length], pos, grammar, quotes, self.split, true, &mut fields);
            let (next, end) = (split.next, split.end);
            if end == End::Broken {
                // The line where the quote opened; it may be after the line where the row begins.
                let open = text[pos..next].trim_ascii_end().iter().filter(|&&b| b == b'\n').count() as u64;
                block.reject(line + open, "", BROKEN_QUOTE);
            } else if is_blank(&fields) || mem::take(&mut header) {
                // Nothing to read.
            } else if self.repeats_header(&text, &fields) {
                block.first_header = if block.headers == 0 { line } else { block.first_header };
                block.headers += 1;
            } else {
                if split.count > grammar.width && grammar.width > 0 && self.shifts(&text[pos..next], quotes) {
                    block.first_wide = if block.wide == 0 { line } else { block.first_wide };
                    block.wide += 1;
                }
                if !constants.is_empty() && fields.len() >= self.most {
                    fields.resize(self.own, Field { start: 0, end: 0, escaped: false });
                    fields.extend(&constants);
                }
                match &self.layout.lists {
                    None => self.row(&text, &fields, end, line, utf8, &mut extra, &mut block),
                    Some(lists) => {
                        let lists = lists.of_record(&mut text, &fields);
                        self.unroll(&text, &mut fields, &lists, end, line, utf8, &mut extra, &mut block);
                    }
                }
            }
            line += if quotes { text[pos..next].iter().filter(|&&b| b == b'\n').count() as u64 } else { 1 };
            pos = next;
        }
        block.text = text;
        block.text.append(&mut extra);
        block.close(self.layout.time_kind);
        block
    }

    /// Parses the rows of a piece of JSON lines.
    fn json(
        &self,
        wanted: &Wanted,
        text: &mut [u8],
        length: usize,
        constants: &[Field],
        mut line: u64,
        utf8: bool,
        extra: &mut Vec<u8>,
        block: &mut Block,
    ) {
        let (mut pos, mut found) = (0, Line::default());
        while pos < length {
            let end = memchr::memchr(b'\n', &text[pos..length]).map_or(length, |n| pos + n);
            if !text[pos..end].trim_ascii().is_empty() {
                match wanted.read(text, pos, end, &mut found) {
                    Err((column, reason)) => {
                        let column = column.map_or(String::new(), |c| format!("'{}'", self.layout.names[c]));
                        block.reject(line, column, reason);
                    }
                    Ok(()) => {
                        let Line { fields, lists, missing, .. } = &mut found;
                        fields.truncate(self.own);
                        fields.extend(constants);
                        // Events of other kinds may have other keys.
                        let asked = || self.layout.filter.asks_for(|c| cell_of(text, fields, c));
                        if let Some(column) = *missing {
                            let keys = [self.layout.columns.user, self.layout.columns.item];
                            if asked() && keys.contains(&column) && self.rules.misses(b"") {
                                block.missing += 1;
                            } else if asked() {
                                let name = &self.layout.names[column];
                                block.reject(line, format!("'{name}'"), format!("{NO_KEY} '{name}'"));
                            } else {
                                block.tally.left_out += 1;
                            }
                        } else if lists.is_empty() {
                            self.row(text, fields, End::Line, line, utf8, extra, block);
                        } else {
                            self.unroll(text, fields, lists, End::Line, line, utf8, extra, block);
                        }
                    }
                }
            }
            line += 1;
            pos = end + 1;
        }
    }

    /// One row for each element of a record's lists; all other fields are repeated.
    fn unroll(
        &self,
        text: &[u8],
        fields: &mut [Field],
        lists: &[(usize, Vec<Field>)],
        end: End,
        line: u64,
        utf8: bool,
        extra: &mut Vec<u8>,
        block: &mut Block,
    ) {
        let items = self.layout.columns.item;
        let name = |c: usize| {
            let role = Role::ALL.into_iter().find(|role| self.layout.columns.of(*role) == Some(c));
            role.map_or_else(String::new, |role| self.column(role))
        };
        if fields.len() < self.most && !lists.iter().any(|(_, list)| list.is_empty()) {
            return self.row(text, fields, end, line, utf8, extra, block);
        }
        let Some((_, list)) = lists.iter().find(|(c, _)| *c == items) else {
            return block.reject(line, name(lists[0].0), "the value is a list, but the item is not");
        };
        if list.is_empty() {
            return block.reject(line, name(items), "the list is empty");
        }
        if let Some((c, other)) = lists.iter().find(|(_, other)| other.len() != list.len()) {
            let reason = format!("the list has {} elements, that of the items {}", other.len(), list.len());
            return block.reject(line, name(*c), reason);
        }
        for n in 0..list.len() {
            lists.iter().for_each(|(c, list)| fields[*c] = list[n]);
            self.row(text, fields, end, line, utf8, extra, block);
        }
    }

    /// Appends the values from the file's path to the text; returns their positions.
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

    /// The column of a role, for messages.
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
        if fields.len() < self.most {
            let missing = Role::ALL.into_iter().find(|r| columns.of(*r).is_some_and(|c| c >= fields.len()));
            let cut =
                if end == End::Text { "; it is the last line and has no line end: was the file cut?" } else { "" };
            let reason = format!("the row has {} of {} needed columns{cut}", fields.len(), self.most);
            return block.reject(line, missing.map_or(String::new(), |r| self.column(r)), reason);
        }
        let filter = &self.layout.filter;
        if !filter.is_none() && !filter.takes(|c| cell_of(text, fields, c), &mut block.tally) {
            return;
        }
        let rating = match columns.rating {
            None => 0.0,
            Some(c) => match parse_rating(&text[fields[c].start..fields[c].end], self.rules.rating) {
                Ok(rating) => rating,
                Err(reason) => return block.reject(line, self.column(Role::Rating), reason),
            },
        };
        let time = match (columns.time, self.layout.time_kind) {
            (Some(c), Some(kind)) => {
                let cell = &text[fields[c].start..fields[c].end];
                match kind.parse(cell) {
                    Some(time) if self.rules.refuses(time) => {
                        return block.reject(line, self.column(Role::Time), outside(cell));
                    }
                    Some(time) => time,
                    None => return block.reject(line, self.column(Role::Time), bad_time(cell)),
                }
            }
            _ => Moment { whole: 0, fraction: 0 },
        };
        let basket = match columns.basket.map(|c| fields[c]) {
            None => 0,
            Some(field) if field.start == field.end => {
                return block.reject(line, self.column(Role::Basket), "the basket is empty");
            }
            Some(field) => basket_label(&field.bytes(text)),
        };
        // Keys come last: hashing is the most expensive part, and rejected rows should not pay for it.
        let mut key = |role: Role, c: usize| -> Option<(u32, u32)> {
            let mut field = fields[c];
            let raw = &text[field.start..field.end];
            if self.rules.misses(raw) {
                block.missing += 1;
                return None;
            }
            field.end = field.start + self.rules.length(raw);
            if field.start == field.end {
                block.reject(line, self.column(role), format!("the {} is empty", role.name()));
                return None;
            }
            if !utf8 && std::str::from_utf8(&text[field.start..field.end]).is_err() {
                let reason = format!("the {} is {NOT_UTF8}", role.name());
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
        // A bad row counts once: check the item only if the user is valid.
        let Some(user) = key(Role::User, columns.user) else { return };
        let Some(item) = key(Role::Item, columns.item) else { return };
        if block.look_for_quotes {
            self.count_lone_quotes(text, [fields[columns.user], fields[columns.item]], line, block);
        }
        if self.rules.rating.leaves_out(rating) {
            block.below_rating += 1;
            return;
        }
        let bytes = |at: (u32, u32)| {
            let (start, end) = (at.0 as usize, (at.0 + at.1) as usize);
            if start < text.len() { &text[start..end] } else { &extra[start - text.len()..end - text.len()] }
        };
        let (user_hash, item_hash) = (hash_key(bytes(user)), hash_key(bytes(item)));
        block.push(EventRow { user, item, user_hash, item_hash, time: time.whole, rating, basket }, time.fraction);
    }
}

/// The text of a column of a record; empty if the record has no such column.
fn cell_of<'a>(text: &'a [u8], fields: &[Field], c: usize) -> Cow<'a, [u8]> {
    fields.get(c).map_or(Cow::Borrowed(&[]), |field| field.bytes(text))
}
