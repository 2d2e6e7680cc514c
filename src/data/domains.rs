/*! Two data sets out of one: a *source* domain to pre-train on and a *target* domain to transfer to.

Items are dealt out, by the values of a side field or at random; every interaction follows its item. Users act in
both, which is what a transfer between domains lives on, and keep their keys; a user who is left with nothing in a
domain is not in it. Either domain may be cut to the newest N interactions of each user, as a target with little data
is. Users and items keep their order and are numbered anew with the gaps closed.

The output is one folder with `source`, `target` (data sets like any other) and `split.json`, which says how they were
made. It is made aside and appears under its name when both are whole and on disk.
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
/// Columns of a shard wait in this much memory, then on disk.
const MEMORY_BYTES: u64 = 512 << 20;

/// Which values of an item with several decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The one named first
    #[default]
    First,
    /// Any of them
    Any,
}

/// How many of the items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Amount {
    Share(f64),
    Items(usize),
}

/// Which items make the target.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Rule {
    /// Those with one of these values in a side field.
    Field { field: String, values: Vec<String>, which: Which },
    /// So many, drawn by a seed. Under one seed a smaller target is part of a larger one.
    Random { amount: Amount, seed: u64 },
}

/// How to make two domains of a data set.
#[derive(Clone, Debug)]
pub struct DomainOptions {
    pub rule: Rule,
    /// Of each user, the newest so many interactions of the domain; `None` = all.
    pub target_last: Option<usize>,
    pub source_last: Option<usize>,
    /// Replace an earlier split at the output.
    pub force: bool,
    /// Where to cut shards, in interactions.
    pub shard_interactions: u64,
    /// Set from outside (Ctrl-C) to stop and leave nothing behind.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl DomainOptions {
    /// Splits by `rule` and cuts nothing short.
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
    /// Each user's newest so many were kept, where that was asked for.
    pub last: Option<usize>,
    /// Interactions of the domain's items that were older.
    pub left_out: u64,
}

/// What a split did.
#[derive(Clone, Debug, Serialize)]
pub struct SplitSummary {
    pub source: DomainSummary,
    pub target: DomainSummary,
    /// Users in both domains.
    pub shared_users: u64,
    /// Items without any value in the field that decides: they are in the source.
    pub valueless_items: u64,
}

/// Makes the folder `out` with the data sets `source` and `target` out of `data`.
///
/// # Errors
/// A field or value that the data do not have, a rule that leaves one of the two empty, an output that is already
/// there unless `force`, a full disk.
pub fn split_domains(data: &Dataset, out: &Path, options: &DomainOptions) -> Result<SplitSummary> {
    for (flag, last) in [("--target-last", options.target_last), ("--source-last", options.source_last)] {
        if last == Some(0) {
            return Err(Error::user(format!("{flag} 0 would leave nothing")).hint("give it a number from 1 up"));
        }
    }
    // The data are read in place: replacing a folder around them would take them away.
    if let (Ok(from), Ok(to)) = (data.dir().canonicalize(), out.canonicalize())
        && from.starts_with(&to)
    {
        return Err(Error::user(format!("--out {}: the data to split are in there", out.display()))
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

/// Which items are in the target (V), and how many have no value in the field that decides.
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
        .hint("--which any takes items that have one of them in any place")),
        _ if taken == 0 => Err(Error::user(format!("{name}: the target would be empty: no item falls into it"))
            .hint("name more values, or raise --random")),
        _ if rest == 0 => {
            Err(Error::user(format!("{name}: the source would be empty: all {taken} items fall into the target"))
                .hint("name fewer values, or lower --random"))
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
            None => error.hint("name one of them with --field"),
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

/// The items whose draws are the smallest: exactly as many as asked for, and each item's draw its own.
fn at_random(items: usize, amount: Amount, seed: u64) -> Result<Vec<bool>> {
    let wrong = |what: String| {
        Error::user(what).hint("--random takes a share between 0 and 1, such as 0.3, or a number of items")
    };
    let take = match amount {
        Amount::Share(share) if share > 0.0 && share < 1.0 => (share * items as f64).round() as usize,
        Amount::Share(share) => return Err(wrong(format!("--random {share} is no share of the items"))),
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

/// One of the two data sets that are being made.
struct Domain<'a> {
    name: &'static str,
    data: &'a Dataset,
    in_target: &'a [bool],
    want: bool,
    last: Option<usize>,
}

impl Domain<'_> {
    /// Places, in a user's history, of what the domain keeps of it, oldest first; gives how many older ones it drops.
    fn places(&self, items: &[u32], places: &mut Vec<usize>) -> u64 {
        places.clear();
        places.extend((0..items.len()).filter(|&at| self.in_target[items[at] as usize] == self.want));
        let drop = self.last.map_or(0, |last| places.len().saturating_sub(last));
        places.drain(..drop);
        drop as u64
    }

    /// Writes the data set into a folder of its name under `parent`. Gives what it holds, and which users are in it.
    fn write(&self, parent: &Path, options: &DomainOptions) -> Result<(DomainSummary, Vec<bool>)> {
        let (data, from) = (self.data, self.data.manifest());
        let dir = &parent.join(self.name);
        std::fs::create_dir(dir).map_err(|e| Error::io(dir, &e))?;
        // Which items are left is known only after a look at every history: one that occurs in none is no item here.
        let (mut old_counts, mut has, mut left_out) = (vec![0u32; data.items()], Vec::with_capacity(data.users()), 0);
        let mut places = Vec::new();
        for user in 0..data.users() {
            let items = data.items_of(user);
            // Opening a large set reads no interactions, so this is where a damaged one would show.
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

/// A side field of some of the items; its values are numbered anew, by first appearance among these items.
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
