/*! Imports a log: any supported file -> a data set folder, within a given memory budget.

1. `source`/`folder`: files, pipes and folders of parts.
2. `sniff`/`choose`/`layouts`: the format of each file and the role of each column, reported for the user to check.
3. `text`/`parquet`: blocks of parsed rows, in file order.
4. `log`, `intern`: keys become ids in order of first appearance; rows go to a spill (memory first, then disk).
5. `group`: batches of users that fit in memory are sorted by user and time; the duplicates rule is applied.
6. `kcore`: the optional k-core filter, over shards on disk.
7. `data/write.rs`: shards, vocabularies and the manifest, in a staging folder that is renamed after everything is
   synced.

Filters apply in this order: `wheres`, bad rows, `min_rating`, duplicates, k-core. The result depends only on the log
and the filters: not on the memory budget, the number of threads, or the file format.
*/

mod bad_rows;
mod block;
mod choose;
mod clock;
mod columns;
mod decode;
mod doubts;
mod filter;
mod folder;
mod grammar;
mod group;
mod intern;
mod items;
mod jsonl;
mod kcore;
mod keys;
mod layouts;
mod log;
mod messages;
mod moments;
mod nested;
mod options;
mod parquet;
mod parquet_cells;
mod quotes;
mod ratings;
mod records;
mod rows;
mod rules;
mod sequences;
mod sniff;
mod source;
mod table;
mod text;
mod ties;
mod time;
mod whole_lines;

pub use self::{
    decode::Encoding,
    grammar::Quotes,
    keys::Missing,
    options::{Duplicates, ImportOptions, Where},
};

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

use self::{group::GroupLimits, layouts::understand, log::Log, options::cancelled, rows::RowCodec, source::Source};
use crate::{
    base::{Error, Notice, Result, error::IoContext},
    data::{
        Vocab, digits,
        history::History,
        manifest::{FORMAT, MANIFEST, Manifest},
        shard::VERSION,
        staging::{FolderKind, Staging},
        write::{Has, ShardWriter, Shards, write_counts, write_fields, write_keys, write_manifest},
    },
};

pub(crate) const DATA_SET: FolderKind = FolderKind { name: "data set", marker: MANIFEST };

/// What an import did.
#[derive(Clone, Debug, Serialize)]
pub struct ImportSummary {
    pub users: u64,
    pub items: u64,
    pub interactions: u64,
    /// Rows of the log, without headers and blank lines.
    pub rows: u64,
    /// Rows that repeat the header; not counted as rows of the log.
    pub repeated_headers: u64,
    pub dropped_bad: u64,
    pub dropped_rating: u64,
    /// Rows dropped by `wheres`.
    pub dropped_where: u64,
    /// Rows without a user or an item.
    pub dropped_missing: u64,
    pub dropped_duplicates: u64,
    /// Rows equal to another one in user, item, time and rating; 0 if duplicates are dropped.
    pub equal_rows: u64,
    pub dropped_core: u64,
    /// Passes of the k-core that removed a user or an item.
    pub core_rounds: u64,
    /// Shortest, median and longest history.
    pub history: [u32; 3],
    /// If a few ratings are far larger than all others in magnitude: the bound that the others are below.
    pub other_ratings_below: Option<f32>,
    /// Earliest and latest time, in `time_unit`.
    pub times: Option<[i64; 2]>,
    pub time_unit: Option<String>,
    /// Lowest and highest rating of the kept rows.
    pub ratings: Option<[f32; 2]>,
    /// Number of baskets, if a column defines them.
    pub baskets: Option<u64>,
    /// Number of times raised because baskets of a user overlap in time, so that each basket stays whole and in order.
    pub raised_times: u64,
    pub shards: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub rows_per_s: f64,
}

/// Imports logs (several are read as one, in the order given) into the folder `out`. `report` receives what was
/// recognized, the progress, and warnings about what may have been misread.
///
/// The result appears at `out` only when it is complete and on disk; on an error nothing is left behind.
///
/// # Errors
/// A log whose format is not recognized, a bad row (file, line, column, reason) unless `skip_bad`, an output that
/// already exists unless `force`, filters that drop every row, keys that alone exceed the memory budget, a full disk.
pub fn import(
    sources: &[PathBuf],
    out: &Path,
    options: &ImportOptions,
    report: &mut dyn FnMut(Notice),
) -> Result<ImportSummary> {
    let start = Instant::now();
    let staging = Staging::new(out, DATA_SET, options.force)?;
    let dir = staging.path();
    let layouts = understand(sources, dir, options, report)?;
    let (columns, time_kind) = (layouts[0].columns(), layouts[0].time_kind());
    let has =
        Has { times: columns.time.is_some(), ratings: columns.rating.is_some(), baskets: columns.basket.is_some() };
    let codec = RowCodec(has);

    // Pass 1: rows to the spill, keys to ids. The row counts per user size the histories in pass 2.
    let mut log = Log::new(dir, codec, options);
    for layout in &layouts {
        log.read(layout, report, start)?;
    }
    let Log {
        users,
        items,
        rows,
        counts,
        total,
        bad,
        below_rating,
        missing,
        tally,
        wide,
        headers,
        lone_quotes,
        ratings,
        times,
        mut decimals,
        ..
    } = log;
    layouts[0].filter_doubts(&options.wheres, &tally).into_iter().map(Notice::Warning).for_each(&mut *report);
    if bad > 0 {
        report(Notice::Info(format!("skipped {} bad rows of {}", digits(bad), digits(total))));
    }
    if let (Some(zeros), None) = (ratings.zeros_beside_ones(), options.min_rating) {
        report(Notice::Warning(doubts::zeros(zeros)));
    }
    if let Some((path, line, count)) = wide {
        report(Notice::Warning(doubts::wide_rows(&path, line, count)));
    }
    let repeated_headers = headers.as_ref().map_or(0, |(.., count)| *count);
    if let Some((path, line, count)) = headers {
        report(Notice::Warning(doubts::repeated_headers(&path, line, count)));
    }
    if let Some((path, line, key, count)) = lone_quotes {
        report(Notice::Warning(doubts::lone_quotes(&path, line, &key, count)));
    }
    if counts.is_empty() {
        return Err(if bad + below_rating == 0 && tally.left_out > 0 {
            filter::nothing_left(&options.wheres)
        } else if below_rating > 0 {
            Error::user("nothing is left: every row is rated below --min-rating").hint("lower --min-rating")
        } else {
            Error::user("no row of the log can be used").hint("the first reasons are above; is the delimiter right?")
        });
    }

    let time_unit = time_kind.map(|kind| {
        times.doubts(kind).into_iter().map(Notice::Warning).for_each(&mut *report);
        let (kept, unit) = kind.kept(times.needed, times.room);
        decimals.settle(kept);
        unit
    });
    let held = users.memory() + items.memory() + 4 * counts.len() as u64 + rows.memory();
    let free = options.memory_bytes.saturating_sub(held).max(64 << 10);
    // Sorting takes 16 bytes a row, 24 with baskets. Beyond about 8 million rows a run no longer fits the caches and
    // gets slower.
    let row_bytes = if has.baskets { 24 } else { 16 };
    let limits = GroupLimits { run_rows: (free / 4 / row_bytes).min(8 << 20), buffer_bytes: free / 8 };
    let shards = |prefix| ShardWriter::new(dir, prefix, has, options.shard_interactions.max(1), free / 4);
    // Pass 2: histories to shards. With a k-core these are intermediate: it needs all counts first.
    let filtered = options.min_user > 1 || options.min_item > 1;
    let mut writer = shards(if filtered { "all" } else { "shard" });
    let mut item_counts = vec![0u32; items.len()];
    let check = || cancelled(options);
    let grouped = {
        let mut sink = |history: History| {
            for &id in history.items {
                let count = &mut item_counts[id as usize];
                *count = count.saturating_add(1);
            }
            writer.push(history)
        };
        group::group(rows, codec, decimals, &counts, options.duplicates, limits, dir, &check, &mut sink)?
    };
    for (keys, counts, role) in [(&users, &counts, "user"), (&items, &item_counts, "item")] {
        let doubts = keys::doubts(keys, counts, role, options.missing);
        doubts.into_iter().map(Notice::Warning).for_each(&mut *report);
    }
    drop(counts);
    if grouped.raised > 0 {
        report(Notice::Info(format!(
            "baskets of a user overlap in time: {} times were raised to keep baskets whole and times in order",
            digits(grouped.raised)
        )));
    }
    let mut done = writer.finish()?;
    let (mut core_rounds, mut alive) = (0, None);
    let mut dropped_core = 0;
    // Pass 3, if requested: the k-core, then the remaining shards.
    if filtered {
        let before: u64 = interactions_of(&done);
        let core =
            kcore::find(dir, &done.entries, done.lengths, item_counts, options.min_user, options.min_item, &check)?;
        let mut writer = shards("shard");
        item_counts = kcore::write(dir, &done.entries, &core, &mut writer)?;
        for entry in &done.entries {
            let path = dir.join(&entry.name);
            std::fs::remove_file(&path).at_path(&path)?;
        }
        done = writer.finish()?;
        dropped_core = before - interactions_of(&done);
        core_rounds = core.rounds as u64;
        alive = Some(core);
    }

    let interactions = interactions_of(&done);
    // Last check of all guesses: a file read as a table of interactions may be a list of histories.
    if done.history()[2] == 1 && done.lengths.len() >= 20 && options.list_sep.is_none() && !filtered {
        report(Notice::Warning(format!(
            "each of the {} users has one interaction: if a row holds a whole history, name the separator of \
             its items with --list-sep; if another column is the user, name it with --user-col; if the log is like \
             this, add --list-sep none",
            digits(done.lengths.len() as u64)
        )));
    }
    // Remaining keys keep their order, so new ids are the old ids with the gaps closed, as in the shards.
    let lives = |alive: Option<&Vec<bool>>, id: usize| alive.is_none_or(|alive| alive[id]);
    let mut files = std::mem::take(&mut done.entries);
    let shard_count = files.len() as u64;
    for (interner, kind, alive) in
        [(&users, "users", alive.as_ref().map(|c| &c.users)), (&items, "items", alive.as_ref().map(|c| &c.items))]
    {
        let keys = (0..interner.len()).filter(|&id| lives(alive, id)).map(|id| {
            // Parsers only pass UTF-8.
            std::str::from_utf8(interner.key(id)).expect("keys are checked when they are parsed")
        });
        files.push(write_keys(dir, kind, keys)?);
    }
    drop((users, items));
    files.push(write_counts(dir, &item_counts)?);
    if let Some(table) = &options.items {
        let keys = Vocab::open(&dir.join("items.safetensors"))?;
        // If the pipe is also the log it was already read: use its copy.
        let copied = layouts.iter().map(layouts::FileLayout::source).find(|s| s.is_copy_of(table)).cloned();
        let table = copied.map_or_else(|| Source::new(table, dir, "items", options), Ok)?;
        let fields = items::read(&table, &keys, options, report)?;
        files.push(write_fields(dir, &fields)?);
    }

    let history = done.history();
    let bytes = files.iter().map(|f| f.bytes).sum();
    let mut manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION.into(),
        written_by: concat!("mipgpu ", env!("CARGO_PKG_VERSION")).into(),
        users: done.lengths.len() as u64,
        items: item_counts.len() as u64,
        interactions,
        time_unit: time_unit.map(Into::into),
        ratings: has.ratings,
        baskets: has.baskets,
        id_order: "first appearance in the log, among what the filters kept".into(),
        sources: sources.iter().map(|p| p.file_name().unwrap_or(p.as_os_str()).to_string_lossy().into()).collect(),
        filters: serde_json::json!({
            "min_rating": options.min_rating, "rating_range": options.rating_range, "duplicates": options.duplicates,
            "time_range": options.time_range, "missing": options.missing, "whole_keys": options.whole_keys,
            "min_user": options.min_user, "min_item": options.min_item, "where": options.wheres,
        }),
        files,
        fingerprint: String::new(),
        manifest_sha256: String::new(),
    };
    // Copies of pipes do not belong to the data set.
    drop(layouts);
    source::remove_copies(dir)?;
    write_manifest(dir, &mut manifest)?;
    cancelled(options)?;
    staging.publish(out, options.force)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(ImportSummary {
        users: manifest.users,
        items: manifest.items,
        interactions,
        rows: total,
        repeated_headers,
        dropped_bad: bad,
        dropped_rating: below_rating,
        dropped_where: tally.left_out,
        dropped_missing: missing,
        dropped_duplicates: grouped.dropped,
        equal_rows: grouped.equal,
        dropped_core,
        core_rounds,
        history,
        other_ratings_below: ratings.others_below(),
        times: done.times,
        time_unit: manifest.time_unit,
        ratings: done.ratings,
        baskets: has.baskets.then_some(done.baskets),
        raised_times: grouped.raised,
        shards: shard_count,
        bytes,
        seconds,
        rows_per_s: total as f64 / seconds,
    })
}

fn interactions_of(shards: &Shards) -> u64 {
    shards.entries.iter().filter_map(|e| e.interactions).sum()
}
