/*! The first pass over a log: a reader thread sends blocks of parsed rows, keys become ids in order of first
appearance, rows go to a spill, and the rows of each user are counted.
*/

use std::{path::Path, sync::mpsc::sync_channel, time::Instant};

use crate::{
    base::{Error, Notice, Result},
    data::{
        digits,
        import::{
            bad_rows::BadRow,
            block::Block,
            filter::Tally,
            intern::Interner,
            layouts::FileLayout,
            moments::{Decimals, Times},
            options::{ImportOptions, cancelled},
            parquet,
            ratings::Sizes,
            rows::RowCodec,
            rules::Rules,
            text,
            time::TimeKind,
        },
        spill::Spill,
    },
};

/// The hint for a time column without times.
const NO_TIMES: &str = "none of the first rows has a time there: write times as numbers, or as dates with the year \
                        first (2015-03-09); or name their format with --time-format; or name another column with \
                        --time-col, or go by the order of the rows with --time-col none";

/// The rest of the hint if the format of the times is known.
const NO_ORDER: &str = "or use the order of the rows with --time-col none";

/// The state of the first pass: keys to ids, rows to a spill.
pub(crate) struct Log<'a> {
    options: &'a ImportOptions,
    codec: RowCodec,
    pub users: Interner,
    pub items: Interner,
    pub rows: Spill,
    /// Rows of each user.
    pub counts: Vec<u32>,
    pub total: u64,
    pub bad: u64,
    pub below_rating: u64,
    pub tally: Tally,
    pub missing: u64,
    /// Rows with more fields than columns: file and line of the first, and the count.
    pub wide: Option<(String, u64, u64)>,
    /// Rows that repeat the header: file and line of the first, and the count.
    pub headers: Option<(String, u64, u64)>,
    /// Rows with an unbalanced quote in a key: file, line and key of the first, and the count.
    pub lone_quotes: Option<(String, u64, String, u64)>,
    /// Statistics of the kept ratings; empty if the log has none.
    pub ratings: Sizes,
    pub times: Times,
    pub decimals: Decimals,
    /// Ids of the current block's rows, and the rows as they are stored.
    user_ids: Vec<u32>,
    item_ids: Vec<u32>,
    encoded: Vec<u8>,
    next_report: f64,
}

impl<'a> Log<'a> {
    pub fn new(dir: &Path, codec: RowCodec, options: &'a ImportOptions) -> Self {
        // Two fifths of the memory for rows; the rest is for keys, sorting and buffers.
        let limit = options.memory_bytes / 5 * 2;
        let chunk = (limit / 64).clamp(4 << 10, 4 << 20) as usize;
        Log {
            options,
            codec,
            users: Interner::new("user"),
            items: Interner::new("item"),
            rows: Spill::new(&dir.join("rows.tmp"), codec.width(), chunk, limit),
            counts: Vec::new(),
            total: 0,
            bad: 0,
            below_rating: 0,
            tally: Tally::default(),
            missing: 0,
            wide: None,
            headers: None,
            lone_quotes: None,
            ratings: Sizes::default(),
            times: Times::default(),
            decimals: Decimals::default(),
            user_ids: Vec::new(),
            item_ids: Vec::new(),
            encoded: Vec::new(),
            next_report: 5.0,
        }
    }

    /// Reads one source to its end; other threads parse it.
    pub fn read(&mut self, layout: &FileLayout, report: &mut dyn FnMut(Notice), start: Instant) -> Result<()> {
        let block_bytes = (self.options.memory_bytes / 128).clamp(64 << 10, 1 << 20) as usize;
        let rule = Rules::of(self.options, layout.columns(), layout.time_kind())?;
        std::thread::scope(|scope| {
            // A few blocks of lookahead: enough to keep both sides busy at a small cost in memory.
            let (send, receive) = sync_channel(4);
            let reader = scope.spawn(move || {
                let done = match layout {
                    FileLayout::Text(l) => text::read(l, &rule, block_bytes, &send),
                    FileLayout::Parquet(l) => parquet::read(l, &rule, &send),
                };
                if let Err(e) = done {
                    // The receiver is gone if another error came first.
                    let _ = send.send(Err(e));
                }
            });
            // Consumes the receiver: on an error it is dropped, which stops the reader.
            let taken = receive.into_iter().try_for_each(|block| {
                cancelled(self.options)?;
                self.take(layout, block?, report)?;
                let seconds = start.elapsed().as_secs_f64();
                if seconds > self.next_report {
                    let speed = self.total as f64 / seconds / 1e6;
                    let rows = digits(self.total);
                    report(Notice::Info(format!("  {rows} rows read, {speed:.1} million rows/s")));
                    self.next_report = seconds + 5.0;
                }
                Ok(())
            });
            let ended = reader.join();
            taken?;
            layout.source().encoding_doubts().map(Notice::Warning).into_iter().for_each(report);
            ended.map_err(|_| {
                Error::user(format!(
                    "{}: the file is damaged in a way its reader cannot handle",
                    layout.source().display()
                ))
                .hint("copy or download the file again")
            })
        })
    }

    fn take(&mut self, layout: &FileLayout, block: Block, report: &mut dyn FnMut(Notice)) -> Result<()> {
        let place = |row: &BadRow| {
            let line = if matches!(layout, FileLayout::Text(_)) { "line" } else { "row" };
            let column = if row.column.is_empty() { String::new() } else { format!(", column {}", row.column) };
            format!("{}: {line} {}{column}: {}", layout.source().display(), digits(row.line), row.reason)
        };
        if let (Some(first), false) = (block.bad.first(), self.options.skip_bad) {
            let header = match layout {
                // Skipping such rows would leave none.
                _ if first.of_time() && layout.time_kind() == Some(TimeKind::Unread) => {
                    Some(layout.time_hint().map_or_else(|| NO_TIMES.into(), |hint| format!("{hint}; {NO_ORDER}")))
                }
                FileLayout::Text(text) if first.line == 1 => text.header_hint(self.options),
                _ => None,
            };
            let delimiter = match layout {
                FileLayout::Text(text) => Some(text.grammar.delimiter),
                FileLayout::Parquet(_) => None,
            };
            let hint = || first.hint(&layout.source().typed(), delimiter, self.options.quotes).into_owned();
            return Err(Error::user(place(first)).hint(header.unwrap_or_else(hint)));
        }
        for row in block.bad.iter().take(5usize.saturating_sub(self.bad as usize)) {
            report(Notice::Info(format!("  skipped {}", place(row))));
        }
        self.bad += block.bad_rows;
        self.below_rating += block.below_rating;
        self.tally.add(&block.tally);
        self.missing += block.missing;
        if block.wide > 0 {
            self.wide.get_or_insert((layout.source().display().to_string(), block.first_wide, 0)).2 += block.wide;
        }
        if block.headers > 0 {
            self.headers.get_or_insert((layout.source().display().to_string(), block.first_header, 0)).2 +=
                block.headers;
        }
        if let Some((key, line)) = &block.first_lone {
            let first = (layout.source().display().to_string(), *line, key.clone(), 0);
            self.lone_quotes.get_or_insert(first).3 += block.lone_quotes;
        }
        let left_out = block.bad_rows + block.below_rating + block.tally.left_out + block.missing;
        self.total += block.rows.len() as u64 + left_out;
        self.encoded.clear();
        let rows = &block.rows;
        if self.codec.0.times && !rows.is_empty() {
            self.times.add(&block.times);
            self.decimals.push(rows.len() as u64, block.decimals);
        }
        if self.codec.0.ratings {
            rows.iter().for_each(|row| self.ratings.add(row.rating));
        }
        self.users.intern_all(rows.len(), |i| (block.key(rows[i].user), rows[i].user_hash), &mut self.user_ids)?;
        self.items.intern_all(rows.len(), |i| (block.key(rows[i].item), rows[i].item_hash), &mut self.item_ids)?;
        for ((row, &user), &item) in rows.iter().zip(&self.user_ids).zip(&self.item_ids) {
            // Ids are in order of first appearance, so a new user gets the next id.
            if user as usize == self.counts.len() {
                self.counts.push(0);
            }
            let count = &mut self.counts[user as usize];
            *count = count.checked_add(1).ok_or_else(|| {
                let key = String::from_utf8_lossy(block.key(row.user));
                Error::user(format!("user '{key}' has more than {} rows", u32::MAX))
                    .hint("is this the user column? name the right one with --user-col")
            })?;
            self.codec.encode(user, item, row.time, row.rating, row.basket, &mut self.encoded);
        }
        self.rows.write(&self.encoded)?;
        let keys = self.users.memory() + self.items.memory();
        if keys > self.options.memory_bytes {
            return Err(Error::user(format!(
                "the keys of {} users and {} items alone take {} MiB, more than the memory the import may use",
                digits(self.users.len() as u64),
                digits(self.items.len() as u64),
                keys >> 20
            ))
            .hint("raise --memory-mb; or is a column read as a key by mistake?"));
        }
        Ok(())
    }
}
