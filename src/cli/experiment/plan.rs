//! Converts a grid to jobs: opens or creates data sets, checks settings and generates the commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Parser;

use super::Args;
use crate::{
    backend,
    base::{Error, Result, error::IoContext},
    cli::{builtin, clap_error, opened::open_data, printer::Printer, split_flags::SplitFlags},
    data::{
        Dataset,
        domains::{Amount, DomainOptions, Rule, split_domains},
        split::{HeldOut, Split, SplitSpec},
    },
    experiment::{
        grid::{DataSpec, Grid, RowSpec, TableSpec},
        jobs::RunJob,
        trials,
    },
    layers::{DataSummary, RatingScale},
    train::{
        Flags, RunConfig, Settings, SideTables, Transfer,
        resolve::{rating_scale, resolve_settings},
        run,
        transfer::check_plans,
    },
};

/// A data set of the grid.
pub struct Opened {
    pub path: PathBuf,
    /// `None` if the data set is missing, which `--dry-run` allows.
    there: Option<Dataset>,
}

impl Opened {
    pub fn there(&self) -> Option<&Dataset> {
        self.there.as_ref()
    }

    /// Returns the data set.
    ///
    /// # Panics
    /// The data set is missing.
    pub fn data(&self) -> &Dataset {
        self.there.as_ref().expect("all data sets of a plan that is run are open")
    }
}

/// A base or a row of a table, which is run once per seed.
pub struct Spec {
    pub name: String,
    pub data: String,
    pub split: SplitSpec,
    /// Index of the base's spec, and the transfer.
    pub from: Option<(usize, Transfer)>,
    /// Flags of its settings, without the seed.
    pub flags: Vec<String>,
    /// Its configuration, with the default seed.
    pub config: RunConfig,
    /// Indices of table and row; `None` for a base.
    pub row: Option<(usize, usize)>,
}

/// All runs of an experiment.
pub struct Plan {
    pub out: PathBuf,
    pub seeds: Vec<u64>,
    pub data: BTreeMap<String, Opened>,
    pub specs: Vec<Spec>,
    /// Ordered by seed, then by spec: spec i with seed number k is job k * specs + i.
    pub jobs: Vec<RunJob>,
}

impl Plan {
    pub fn job(&self, spec: usize, seed: usize) -> usize {
        seed * self.specs.len() + spec
    }

    /// Returns whether the data set of a job is available.
    pub fn has_data(&self, job: usize) -> bool {
        self.data[&self.specs[job % self.specs.len()].data].there().is_some()
    }

    /// Returns the file with the results of each user of a row.
    pub fn answers(&self, job: usize) -> Option<&PathBuf> {
        self.jobs[job].leaves.first()
    }

    /// Plans all runs of a grid.
    ///
    /// # Errors
    /// Data are missing or cannot be split, or settings are invalid; the error names the run.
    pub fn new(grid: &Grid, args: &Args, (out, aside): (&Path, Option<&Path>), printer: &Printer) -> Result<Plan> {
        let data = open_all(grid, args, (out, aside), printer)?;
        let mut plan = Plan { out: out.into(), seeds: grid.seeds.list(), data, specs: Vec::new(), jobs: Vec::new() };
        for base in &grid.bases {
            let flags = flags_of(grid, &[&base.settings], &base.set);
            plan.add(&base.name, &base.data, base.split, None, flags, None)
                .map_err(|e| e.at(format!("base {}", base.name)))?;
        }
        for (t, table) in grid.tables.iter().enumerate() {
            plan.check_negatives(table, printer).map_err(|e| e.at(format!("table {}", table.name)))?;
            for (r, row) in table.rows.iter().enumerate() {
                let place = |e: Error| e.at(format!("table {}, row {}", table.name, row.name));
                plan.add_row(grid, (t, table), (r, row)).map_err(place)?;
            }
        }
        plan.write_jobs(grid, args);
        Ok(plan)
    }

    fn add_row(&mut self, grid: &Grid, (t, table): (usize, &TableSpec), (r, row): (usize, &RowSpec)) -> Result<()> {
        let flags = flags_of(grid, &[&table.settings, &row.settings], &row.set);
        let from = row.from.as_ref().and_then(|from| {
            let base = self.specs.iter().position(|s| s.name == *from)?;
            Some((base, row.transfer.unwrap_or(Transfer::Model)))
        });
        self.add(&row.name, &table.data, table.split, from, flags, Some((t, r)))?;
        let rated = self.specs.last().is_some_and(|s| s.config.ratings.is_some());
        let wanted = table.metrics.iter().any(|m| m == "RMSE" || m == "MAE");
        if rated != wanted {
            let what = if rated {
                "it predicts ratings, but the metrics of the table are for lists"
            } else {
                "it ranks items, but the metrics of the table are for ratings"
            };
            return Err(Error::user(what).hint("the metrics RMSE and MAE require runs with task = \"rating\""));
        }
        let keeps = |spec: &Spec| spec.config.settings.keep_seen;
        let here = self.specs.last().map(keeps);
        let first = self.specs.iter().find(|spec| spec.row.is_some_and(|(table, _)| table == t));
        if let Some(first) = first.filter(|first| Some(keeps(first)) != here) {
            let what =
                format!("its keep-seen differs from that of row {}, so their results are not comparable", first.name);
            return Err(Error::user(what).hint("use the same keep-seen for all rows of a table"));
        }
        Ok(())
    }

    /// Checks that test users have enough items left for the negatives of a table. Warns about users that do not, which
    /// are left out.
    ///
    /// # Errors
    /// No user has enough items left.
    fn check_negatives(&self, table: &TableSpec, printer: &Printer) -> Result<()> {
        let Some(data) = self.data[&table.data].there() else { return Ok(()) };
        let had = |user: u32| data.items_of(user as usize).iter().collect::<BTreeSet<_>>().len();
        let split = Split::new(data, table.split)?;
        let left: Vec<usize> = split.test().users().into_iter().map(|user| data.items() - had(user)).collect();
        let (few, most) = (left.iter().filter(|n| **n < table.negatives).count(), left.iter().max().unwrap_or(&0));
        if few > 0 && few == left.len() {
            return Err(Error::user(format!(
                "{} negatives, but no user has more than {most} items left to draw from",
                table.negatives
            ))
            .hint(format!("use at most {most}, or 0 to rank all items that the user has not had")));
        }
        if few > 0 {
            printer.warn(format_args!(
                "table {}: {few} of {} users have fewer than {} items left to draw negatives from: they are left out",
                table.name,
                left.len(),
                table.negatives
            ));
        }
        Ok(())
    }

    /// Adds a spec and checks it as `train` or `finetune` will, before any run starts.
    fn add(
        &mut self,
        name: &str,
        data_name: &str,
        split: SplitSpec,
        from: Option<(usize, Transfer)>,
        flags: Vec<String>,
        row: Option<(usize, usize)>,
    ) -> Result<()> {
        #[derive(clap::Parser)]
        #[command(no_binary_name = true, disable_help_flag = true)]
        struct Only {
            #[command(flatten)]
            flags: Flags,
        }
        let given = Only::try_parse_from(&flags).map_err(|e| match clap_error(&e).at("settings") {
            e if e.hint.is_some() => e,
            e => e.hint("settings have the names and values of the flags of `mipgpu train --help-all`"),
        })?;
        let opened = &self.data[data_name];
        let mut settings = match from {
            Some((base, _)) => Settings { seed: 1, ..self.specs[base].config.settings.clone() },
            None => Settings::default(),
        };
        given.flags.check()?;
        given.flags.apply(&mut settings);
        let transfer = from.map(|(_, transfer)| transfer);
        let (data_fingerprint, ratings) = match opened.there() {
            Some(data) => {
                resolve_settings(&given.flags.given(), &mut settings, data, transfer)?;
                (data.fingerprint().into(), rating_scale(&settings, data, split)?)
            }
            None => {
                settings.name_task()?;
                settings.check()?;
                settings.refuse_idle(&given.flags.given(), transfer)?;
                (String::new(), settings.find()?.1.rated.then(RatingScale::default))
            }
        };
        let config = RunConfig {
            version: RunConfig::VERSION,
            data: opened.path.clone(),
            data_fingerprint,
            split,
            from: None,
            ratings,
            settings,
        };
        if let Some(data) = opened.there() {
            run::check(&config, data, &Split::for_task(data, split, config.settings.find()?.1.baskets)?)?;
        }
        let of_base = from.and_then(|(base, transfer)| {
            let base = &self.specs[base];
            Some((base, transfer, self.data[&base.data].there()?, opened.there()?))
        });
        if let Some((base, transfer, base_data, data)) = of_base {
            let summary = |config: &RunConfig, data: &Dataset| -> Result<DataSummary> {
                Ok(DataSummary { ratings: config.ratings.clone(), ..SideTables::data_summary(&config.settings, data)? })
            };
            let (theirs, mine) = (summary(&base.config, base_data)?, summary(&config, data)?);
            check_plans(&base.name, (&base.config.settings, &theirs), (&config.settings, &mine), transfer)?;
        }
        self.specs.push(Spec { name: name.into(), data: data_name.into(), split, from, flags, config, row });
        Ok(())
    }

    /// Generates the commands and their digests.
    fn write_jobs(&mut self, grid: &Grid, args: &Args) {
        let folder = self.out.join("runs");
        let machine = format!("mipgpu {} on {}", env!("CARGO_PKG_VERSION"), backend::choose(args.device).0);
        for (k, seed) in self.seeds.clone().into_iter().enumerate() {
            for spec in &self.specs {
                let name = format!("{}-s{seed}", spec.name);
                let run = folder.join(&name).display().to_string();
                let opened = &self.data[&spec.data];
                let base = spec.from.map(|(base, transfer)| (self.job(base, k), transfer));
                let mut train: Vec<String> = match &base {
                    None => vec!["train".into()],
                    Some((base, transfer)) => {
                        let from = self.jobs[*base].run().display().to_string();
                        vec!["finetune".into(), "--from".into(), from, "--transfer".into(), transfer.to_string()]
                    }
                };
                train.push(opened.path.display().to_string());
                let common = [&spec.flags[..], &SplitFlags::args(spec.split)[..]].concat();
                train.extend(common.iter().cloned());
                train.extend(["--seed".into(), seed.to_string(), "--device".into(), args.device.to_string()]);
                train.extend(["--out".into(), run.clone()]);
                let settings = &spec.config.settings;
                let kept = counted(settings);
                let key = serde_json::json!({
                    "data": spec.config.data_fingerprint, "settings": kept, "split": spec.split, "seed": seed,
                    "from": base.as_ref().map(|(base, transfer)| (&self.jobs[*base].key, transfer)),
                });
                let key = digest(&key, 16);
                let asked =
                    spec.row.map(|(t, _)| eval_flags(&grid.tables[t], opened.there().map_or(10, Dataset::items)));
                // The name holds digests of the run and of the evaluation flags. Other flags evaluate the same run
                // again without training it.
                let file = |flags: &Vec<String>| format!("{name}-{}-{}.tsv", &key[..6], digest(flags, 6));
                let leaves: Vec<PathBuf> = asked.iter().map(|flags| self.out.join("users").join(file(flags))).collect();
                let then = asked.iter().zip(&leaves).map(|(flags, users)| {
                    let mut eval = vec!["eval".to_string(), run.clone(), "--device".into(), args.device.to_string()];
                    eval.extend(flags.iter().cloned());
                    eval.extend(["--per-user".into(), users.display().to_string()]);
                    eval
                });
                let then = then.collect();
                let job = RunJob {
                    name,
                    folder: folder.clone(),
                    train,
                    then,
                    leaves,
                    key,
                    after: base.iter().map(|(base, _)| *base).collect(),
                    seconds: 0.0,
                    epochs: settings.epochs,
                    machine: machine.clone(),
                };
                self.jobs.push(job);
            }
        }
    }
}

/// Returns the settings as they enter the key of a run. A run of an earlier version keeps its key exactly if this
/// version would produce the same run.
fn counted(settings: &Settings) -> serde_json::Value {
    let mut counted = serde_json::json!(settings);
    let Some(map) = counted.as_object_mut() else { return counted };
    // With the defaults of these settings, runs equal those of earlier versions, which did not have them.
    for (key, default) in [("keep-seen", !settings.keep_seen), ("keep-side", !settings.keep_side)] {
        if default {
            map.remove(key);
        }
    }
    // Revision 2: the logit of the target is not lowered by log q.
    if settings.loss.correctable() {
        map.insert("loss-revision".into(), 2.into());
    }
    counted
}

/// Returns the first hexadecimal digits of the digest of a value.
fn digest(value: &impl serde::Serialize, digits: usize) -> String {
    trials::digest(serde_json::json!(value).to_string())[..digits].to_string()
}

/// Returns the flags of `mipgpu eval` for the rows of a table.
fn eval_flags(table: &TableSpec, items: usize) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    if !table.metrics.iter().any(|m| m == "RMSE" || m == "MAE") {
        // Metrics at all cutoffs are computed from the ranks; this length is not used.
        flags.extend(["--no-slices".into(), "--k".into(), items.min(10).to_string()]);
    }
    if table.negatives > 0 {
        flags.extend([
            "--negatives".into(),
            table.negatives.to_string(),
            "--negative-sampling".into(),
            "uniform".into(),
        ]);
    }
    if table.without_validation {
        flags.push("--without-validation".into());
    }
    flags
}

/// Returns groups of settings as flags. Each group overrides the one before, and `set` overrides all.
fn flags_of(grid: &Grid, groups: &[&Vec<String>], set: &toml::Table) -> Vec<String> {
    let mut all = toml::Table::new();
    for group in groups.iter().flat_map(|groups| groups.iter()) {
        all.extend(grid.settings[group].clone());
    }
    all.extend(set.clone());
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    all.iter().flat_map(|(key, value)| [format!("--{key}"), text(value)]).collect()
}

/// Opens all data sets and creates missing domains. They are created in `aside` if the folder of the experiment must
/// not change. With --dry-run, other data sets may be missing.
fn open_all(
    grid: &Grid,
    args: &Args,
    (out, aside): (&Path, Option<&Path>),
    printer: &Printer,
) -> Result<BTreeMap<String, Opened>> {
    let mut given = BTreeMap::new();
    for text in &args.data {
        let (name, path) = text.split_once('=').ok_or_else(|| {
            Error::user(format!("--data {text}")).hint("write NAME=DIR, with the name of a data set of the grid")
        })?;
        if !grid.data.contains_key(name) {
            let names: Vec<&str> = grid.data.keys().map(String::as_str).collect();
            return Err(Error::user(format!("--data {text}: the grid has no data set '{name}'"))
                .hint(format!("its data sets: {}", names.join(", "))));
        }
        given.insert(name, PathBuf::from(path));
    }
    let mut opened = BTreeMap::new();
    for (name, spec) in grid.data.iter().filter(|(_, spec)| spec.split.is_none()) {
        let path = match (given.remove(name.as_str()), &spec.path) {
            (Some(path), _) => path,
            (None, Some(path)) => path.clone(),
            (None, None) => builtin::import(printer)?,
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        if args.dry_run && !path.exists() {
            let get = spec.get.as_ref().map_or(String::new(), |get| format!("; {}", get.trim()));
            printer.say(format_args!("data    {name}: not available yet ({}){get}", path.display()));
            opened.insert(name.clone(), Opened { path, there: None });
            continue;
        }
        let data = open_data(&path).map_err(|e| match (&spec.get, path.exists()) {
            (Some(get), false) => Error::user(format!("{}: the data set '{name}' is missing", path.display()))
                .hint(format!("{}; or give its folder: --data {name}=DIR", get.trim())),
            _ => e,
        })?;
        opened.insert(name.clone(), Opened { path, there: Some(data) });
    }
    for (name, spec) in &grid.data {
        let Some(whole) = &spec.split else { continue };
        let Some(data) = opened[whole].there() else {
            // The name holds a digest of the data.
            let folder = out.join("data").join(format!("{name}-DIGEST"));
            for part in ["source", "target"] {
                opened.insert(format!("{name}/{part}"), Opened { path: folder.join(part), there: None });
            }
            continue;
        };
        // The name holds a digest of the rule, so that data sets of an earlier grid are kept.
        let made = digest(&(data.fingerprint(), format!("{spec:?}")), 6);
        let folder = Path::new("data").join(format!("{name}-{made}"));
        let there = std::path::absolute(out.join(&folder)).at_path(out)?;
        let folder = match aside {
            Some(aside) if !there.exists() => aside.join(&folder),
            _ => there,
        };
        divide(spec, data, &folder, printer).map_err(|e| e.at(format!("data.{name}")))?;
        for part in ["source", "target"] {
            let path = folder.join(part);
            opened.insert(format!("{name}/{part}"), Opened { there: Some(open_data(&path)?), path });
        }
    }
    Ok(opened)
}

/// Creates the two domains unless they exist.
fn divide(spec: &DataSpec, data: &Dataset, folder: &Path, printer: &Printer) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let rule = match (&spec.field, spec.random) {
        (Some(field), _) => Rule::Field { field: field.clone(), values: spec.target_values.clone(), which: spec.which },
        (None, Some(share)) if share < 1.0 => {
            Rule::Random { amount: Amount::Share(share), seed: spec.seed.unwrap_or(1) }
        }
        (None, items) => {
            Rule::Random { amount: Amount::Items(items.unwrap_or(1.0) as usize), seed: spec.seed.unwrap_or(1) }
        }
    };
    let options =
        DomainOptions { target_last: spec.target_last, source_last: spec.source_last, ..DomainOptions::new(rule) };
    let made = split_domains(data, folder, &options)?;
    printer.say(format_args!(
        "created {}: source {} items, {} interactions; target {} items, {} interactions",
        folder.display(),
        made.source.items,
        made.source.interactions,
        made.target.items,
        made.target.interactions
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::LossKind;

    #[test]
    fn runs_of_earlier_versions_keep_their_keys_where_they_come_out_the_same() {
        let plain = counted(&Settings::default());
        let has = |value: &serde_json::Value, key: &str| value.get(key).is_some();
        assert!(["keep-seen", "keep-side", "loss-revision"].iter().all(|key| !has(&plain, key)), "{plain}");
        let seen = counted(&Settings { keep_seen: true, ..Settings::default() });
        let side = counted(&Settings { keep_side: true, ..Settings::default() });
        assert!(has(&seen, "keep-seen") && has(&side, "keep-side"));
        for loss in [LossKind::SampledSoftmax, LossKind::SampledUniform, LossKind::SampledPopularity] {
            assert_eq!(counted(&Settings { loss, ..Settings::default() })["loss-revision"], 2);
        }
    }
}
