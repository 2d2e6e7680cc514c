/*! Splits one data set into two: a *source* domain for pre-training and a *target* domain for transfer.

Items are assigned by the values of a side field or at random, and every interaction belongs to the domain of its
item. A transfer needs users with events in both domains; they keep their keys. A user without interactions in a
domain is omitted from it. Either domain may be truncated to the newest N interactions of each user, to simulate
scarce data. Users and items keep their order and are renumbered without gaps.

The output is one folder with `source`, `target` (ordinary data sets) and `split.json`, which records the split. It is
made under a temporary name and renamed once both are complete and on disk.
*/

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    base::{
        Error, Result,
        error::nearest,
        rng::{Purpose, Stream},
    },
    data::{
        Dataset, ItemField, digits,
        fields::FieldBuilder,
        history::Gathered,
        manifest::Manifest,
        staging::{FolderKind, Staging},
        write::{Has, ShardWriter, write_counts, write_fields, write_file, write_keys, write_manifest},
    },
};

const SPLIT: FolderKind = FolderKind { name: "split of a data set", marker: "split.json" };
/// Memory limit for the columns of a shard; beyond it they are written to disk.
const MEMORY_BYTES: u64 = 512 << 20;

/// The values that decide for an item with several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The first value
    #[default]
    First,
    /// Any value
    Any,
}

/// The number of items in the target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Amount {
    Share(f64),
    Items(usize),
}

/// The rule that selects the items of the target.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Rule {
    /// Items with one of these values in a side field.
    Field { field: String, values: Vec<String>, which: Which },
    /// This many items, drawn by a seed. With one seed, a smaller target is a subset of a larger one.
    Random { amount: Amount, seed: u64 },
}

/// Options for splitting a data set into two domains.
#[derive(Clone, Debug)]
pub struct DomainOptions {
    pub rule: Rule,
    /// Keep only this many of each user's newest interactions in the domain; `None` keeps all.
    pub target_last: Option<usize>,
    pub source_last: Option<usize>,
    /// Replace an existing split at the output.
    pub force: bool,
    /// Maximum shard size in interactions.
    pub shard_interactions: u64,
    /// If set by the caller (Ctrl-C), the split stops and leaves nothing behind.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl DomainOptions {
    /// Returns options that split by `rule` and truncate nothing.
    pub fn new(rule: Rule) -> Self {
        let shard_interactions = 32 << 20;
        DomainOptions { rule, target_last: None, source_last: None, force: false, shard_interactions, cancel: None }
    }
}

/// One of the two domains.
#[derive(Clone, Debug, Serialize)]
pub struct DomainSummary {
    pub users: u64,
    pub items: u64,
    pub interactions: u64,
    /// Shortest, median and longest history.
    pub history: [u32; 3],
    /// The number of each user's newest interactions that were kept, if limited.
    pub last: Option<usize>,
    /// Older interactions of the domain's items that were dropped.
    pub left_out: u64,
}

/// Statistics of a split.
#[derive(Clone, Debug, Serialize)]
pub struct SplitSummary {
    pub source: DomainSummary,
    pub target: DomainSummary,
    /// Users in both domains.
    pub shared_users: u64,
    /// Items without a value in the deciding field; they are in the source.
    pub valueless_items: u64,
}

/// Splits `data` into the data sets `source` and `target` in the folder `out`.
///
/// # Errors
/// The data do not have a field or value; the rule leaves one of the two empty; the output exists and `force` is not
/// set; the disk is full.
pub fn split_domains(data: &Dataset, out: &Path, options: &DomainOptions) -> Result<SplitSummary> {
    for (flag, last) in [("--target-last", options.target_last), ("--source-last", options.source_last)] {
        if last == Some(0) {
            return Err(Error::user(format!("{flag} 0 would leave nothing")).hint("set it to at least 1"));
        }
    }
    // The data are read in place, so a folder that contains them must not be replaced.
    if let (Ok(from), Ok(to)) = (data.dir().canonicalize(), out.canonicalize())
        && from.starts_with(&to)
    {
        return Err(Error::user(format!("--out {}: this folder contains the data to split", out.display()))
            .hint("choose another --out"));
    }
    let (in_target, valueless_items) = chosen(data, &options.rule)?;
    let staging = Staging::new(out, SPLIT, options.force)?;
    let domain =
        |name: &'static str, want: bool, last: Option<usize>| Domain { name, data, in_target: &in_target, want, last };
    let (source, has_source) = domain("source", false, options.source_last).write(staging.path(), options)?;
    let (target, has_target) = domain("target", true, options.target_last).write(staging.path(), options)?;
    let shared_users = has_source.iter().zip(&has_target).filter(|(s, t)| **s && **t).count() as u64;
    let summary = SplitSummary { source, target, shared_users, valueless_items };
    let record = json!({
        "format": "mipgpu.split", "version": "1", "of": data.fingerprint(), "rule": options.rule, "result": summary,
    });
    let text = serde_json::to_string_pretty(&record).map_err(|e| Error::internal(e.to_string()))? + "\n";
    write_file(&staging.path().join(SPLIT.marker), "split", &[text.as_bytes()])?;
    cancelled(options)?;
    staging.publish(out, options.force)?;
    Ok(summary)
}

fn cancelled(options: &DomainOptions) -> Result<()> {
    match &options.cancel {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::user("interrupted; nothing was written")),
        _ => Ok(()),
    }
}

/// Returns which items are in the target (V), and the number of items without a value in the deciding field.
fn chosen(data: &Dataset, rule: &Rule) -> Result<(Vec<bool>, u64)> {
    let (in_target, valueless) = match rule {
        Rule::Field { field, values, which } => by_field(data, field, values, *which)?,
        Rule::Random { amount, seed } => (at_random(data.items(), *amount, *seed)?, 0),
    };
    let taken = in_target.iter().filter(|t| **t).count();
    let (name, rest) = (data.dir().display(), data.items() - taken);
    match rule {
        Rule::Field { field, which: Which::First, .. } if taken == 0 => Err(Error::user(format!(
            "{name}: the target would be empty: no item has one of these values first in '{field}'"
        ))
        .hint("--which any selects items with one of them in any position")),
        _ if taken == 0 => Err(Error::user(format!("{name}: the target would be empty: no item falls into it"))
            .hint("specify more values, or increase --random")),
        _ if rest == 0 => {
            Err(Error::user(format!("{name}: the source would be empty: all {taken} items fall into the target"))
                .hint("specify fewer values, or decrease --random"))
        }
        _ => Ok((in_target, valueless)),
    }
}

fn by_field(data: &Dataset, name: &str, values: &[String], which: Which) -> Result<(Vec<bool>, u64)> {
    let fields = data.item_fields();
    let at = |what: String| Error::user(format!("{}: {what}", data.dir().display()));
    if fields.is_empty() {
        return Err(at("its items have no side fields to split by".into())
            .hint("import with `--items TABLE`, or split at random: --random 0.3"));
    }
    let field = fields.get(name).ok_or_else(|| {
        let names: Vec<&str> = fields.iter().map(|f| f.name()).collect();
        let error = at(format!("no item field '{name}' (there are: {})", names.join(", ")));
        match nearest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean --field {near}?")),
            None => error.hint("specify one of them with --field"),
        }
    })?;
    let mut wanted = vec![false; field.values()];
    for value in values {
        let id = field.find(value).ok_or_else(|| unknown_value(&field, value).at(data.dir().display()))?;
        wanted[id as usize] = true;
    }
    let (mut in_target, mut valueless) = (Vec::with_capacity(data.items()), 0);
    for item in 0..data.items() {
        let ids = field.ids_of(item);
        valueless += u64::from(ids.is_empty());
        let decide = if which == Which::First { &ids[..ids.len().min(1)] } else { ids };
        in_target.push(decide.iter().any(|&id| wanted[id as usize]));
    }
    Ok((in_target, valueless))
}

fn unknown_value(field: &ItemField, value: &str) -> Error {
    let all = || (0..field.values()).map(|id| field.value(id));
    let error = Error::user(format!("no item has '{value}' in the field '{}'", field.name()));
    match nearest(value, all()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => {
            let some: Vec<&str> = all().take(12).collect();
            let more = if field.values() > some.len() { ", …" } else { "" };
            error.hint(format!("its {} values: {}{more}", digits(field.values() as u64), some.join(", ")))
        }
    }
}

/// Selects the items with the smallest random numbers: exactly the requested amount, and each item's number is
/// independent.
fn at_random(items: usize, amount: Amount, seed: u64) -> Result<Vec<bool>> {
    let wrong = |what: String| {
        Error::user(what).hint("--random accepts a share between 0 and 1, such as 0.3, or a number of items")
    };
    let take = match amount {
        Amount::Share(share) if share > 0.0 && share < 1.0 => (share * items as f64).round() as usize,
        Amount::Share(share) => return Err(wrong(format!("--random {share} is not a share of the items"))),
        Amount::Items(n) if n > items => {
            return Err(wrong(format!("--random {n}: there are only {} items", digits(items as u64))));
        }
        Amount::Items(n) => n,
    };
    let mut draws = Stream::new(seed, Purpose::Domain, 0);
    let mut order: Vec<(u64, usize)> =
        (0..items).map(|item| ((draws.bits() as u64) << 32 | draws.bits() as u64, item)).collect();
    order.sort_unstable();
    let mut in_target = vec![false; items];
    order[..take].iter().for_each(|&(_, item)| in_target[item] = true);
    Ok(in_target)
}

/// One of the two data sets in progress.
struct Domain<'a> {
    name: &'static str,
    data: &'a Dataset,
    in_target: &'a [bool],
    want: bool,
    last: Option<usize>,
}

impl Domain<'_> {
    /// Collects the indices of the interactions of a history that the domain keeps, oldest first; returns the number of
    /// older ones that it drops.
    fn places(&self, items: &[u32], places: &mut Vec<usize>) -> u64 {
        places.clear();
        places.extend((0..items.len()).filter(|&at| self.in_target[items[at] as usize] == self.want));
        let drop = self.last.map_or(0, |last| places.len().saturating_sub(last));
        places.drain(..drop);
        drop as u64
    }

    /// Writes the data set to its folder under `parent`. Returns its statistics and the users that it contains.
    fn write(&self, parent: &Path, options: &DomainOptions) -> Result<(DomainSummary, Vec<bool>)> {
        let (data, from) = (self.data, self.data.manifest());
        let dir = &parent.join(self.name);
        std::fs::create_dir(dir).map_err(|e| Error::io(dir, &e))?;
        // Items without any kept interaction are omitted, so every history is read first.
        let (mut old_counts, mut has, mut left_out) = (vec![0u32; data.items()], Vec::with_capacity(data.users()), 0);
        let mut places = Vec::new();
        for user in 0..data.users() {
            let items = data.items_of(user);
            // Opening a large set reads no interactions, so a damaged one is detected here.
            data.check_items(items)?;
            left_out += self.places(items, &mut places);
            has.push(!places.is_empty());
            places.iter().for_each(|&at| old_counts[items[at] as usize] += 1);
        }
        cancelled(options)?;
        let kept: Vec<usize> = (0..data.items()).filter(|&item| old_counts[item] > 0).collect();
        let mut new_id = vec![0u32; data.items()];
        kept.iter().enumerate().for_each(|(id, &item)| new_id[item] = id as u32);

        let columns = Has { times: data.has_times(), ratings: from.ratings, baskets: from.baskets };
        let mut writer = ShardWriter::new(dir, "shard", columns, options.shard_interactions.max(1), MEMORY_BYTES);
        let mut gathered = Gathered::default();
        for user in (0..data.users()).filter(|&user| has[user]) {
            let history = data.history_of(user);
            self.places(history.items, &mut places);
            gathered.clear();
            places.iter().for_each(|&at| gathered.take(history, at, new_id[history.items[at] as usize]));
            writer.push(gathered.history())?;
            if user % 4096 == 0 {
                cancelled(options)?;
            }
        }
        let mut done = writer.finish()?;

        let mut files = std::mem::take(&mut done.entries);
        let interactions = files.iter().filter_map(|e| e.interactions).sum();
        files.push(write_keys(dir, "users", (0..data.users()).filter(|&u| has[u]).map(|u| data.user_keys().key(u)))?);
        files.push(write_keys(dir, "items", kept.iter().map(|&item| data.item_keys().key(item)))?);
        files.push(write_counts(dir, &kept.iter().map(|&item| old_counts[item]).collect::<Vec<_>>())?);
        if !data.item_fields().is_empty() {
            let fields: Vec<FieldBuilder> = data.item_fields().iter().map(|f| part_of(f, &kept)).collect();
            files.push(write_fields(dir, &fields)?);
        }
        let mut filters = from.filters.clone();
        filters["split"] = json!({
            "part": self.name, "rule": options.rule, "last": self.last, "of": from.fingerprint,
        });
        let (users, items) = (done.lengths.len() as u64, kept.len() as u64);
        let written_by = concat!("mipgpu ", env!("CARGO_PKG_VERSION")).into();
        let mut manifest = Manifest { written_by, users, items, interactions, filters, files, ..from.clone() };
        write_manifest(dir, &mut manifest)?;
        let summary = DomainSummary { users, items, interactions, history: done.history(), last: self.last, left_out };
        Ok((summary, has))
    }
}

/// Returns a side field of a subset of the items; its values are renumbered by first appearance among them.
fn part_of(field: ItemField, items: &[usize]) -> FieldBuilder {
    let mut part = FieldBuilder { name: field.name().into(), offsets: vec![0], values: Vec::new(), keys: Vec::new() };
    let mut ids: HashMap<u32, u32> = HashMap::new();
    for &item in items {
        for &old in field.ids_of(item) {
            let next = ids.len() as u32;
            part.values.push(*ids.entry(old).or_insert_with(|| {
                part.keys.push(field.value(old as usize).into());
                next
            }));
        }
        part.offsets.push(part.values.len() as u64);
    }
    part
}
