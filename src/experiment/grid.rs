/*! A grid: runs and comparisons, described by a TOML file.

```toml
name = "transfer"                     # name of the folder: runs/transfer
title = "Does pre-training help in another domain?"
seeds = 3                             # 1, 2, 3; or a list

[data]
shop = { path = "data/shop", get = "mipgpu import shop.csv --out data/shop" }
halves = { split = "shop", random = 0.5 }            # halves/source and halves/target

[settings.small]                      # flags of `mipgpu train`, without leading dashes
model = "bert4rec"
width = 32

[[base]]                              # a run that rows start from
name = "pretrained"
data = "halves/source"
settings = ["small"]

[[table]]
name = "next"
title = "Next item"
data = "halves/target"
split = { kind = "leave-one-out" }
settings = ["small"]
metrics = ["NDCG@10", "HR@10"]
columns = ["transfer"]
rows = [
    { name = "none", labels = ["none"] },
    { name = "model", labels = ["model"], from = "pretrained", transfer = "model", against = "none" },
]

[[finding]]
says = "Pre-training helps."
claims = [{ what = "model over none", better = ["model"], than = ["none"] }]

[variant.quick]                       # overrides the above with --variant quick, or --quick
seeds = 1
```

The settings of a row come from the groups of its table, its own groups and `set` (a table in the row). Each overrides
the one before. A row with `from` starts with the settings of its base. Paths are relative to the working directory.

More keys:

- data: `built-in = true`; `field = "genres"`, `target-values = [...]`, `which = "first"` or `"any"` instead of `random`
  (a share, or a number of items) with `seed`; `target-last`, `source-last`: the newest interactions of each user
- split (of a base or a table): `{ kind = "leave-one-out" }`, `{ kind = "last-n", valid = 2, test = 3 }`,
  `{ kind = "ratio", valid = 0.1, test = 0.2 }`, `{ kind = "last-basket" }`, `{ kind = "time", cut = 978300000 }`
- table: `negatives = 100` (0: among all items), `percent = true`, `published = "source"` with `published = [...]` in
  rows, `without-validation = true`, metrics `NDCG@k`, `Recall@k`, `HR@k`, `MRR`, `MAP`, or `RMSE`, `MAE`
- row: `transfer = "none"`, `"embedding"`, `"model"` (default), `"patch"`
- claim: `expect = "not-better"`, `metric` (default: the table's first)
- grid: `notes = [...]`; `note` in a variant
*/

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Deserialize;

use super::{
    metric::Metric,
    overlay::{lay_over, override_setting},
    results::Expect,
    typos::{self, unknown},
};
use crate::{
    base::{Error, Result, error::nearest},
    data::{domains::Which, split::SplitSpec},
    train::{Settings, Transfer},
};

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grid {
    pub name: String,
    pub title: String,
    /// Notes for the report, one paragraph each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// An additional note of a variant.
    pub note: Option<String>,
    pub seeds: Seeds,
    pub data: BTreeMap<String, DataSpec>,
    #[serde(default)]
    pub settings: BTreeMap<String, toml::Table>,
    #[serde(default, rename = "base")]
    pub bases: Vec<BaseSpec>,
    #[serde(default, rename = "table")]
    pub tables: Vec<TableSpec>,
    #[serde(default, rename = "finding")]
    pub findings: Vec<FindingSpec>,
    /// Overrides by `--variant NAME`.
    #[serde(default)]
    pub variant: BTreeMap<String, toml::Table>,
}

/// The number of seeds, or a list of seeds.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "seeds: a number of seeds, at least 1, or a list such as [1, 2, 3]")]
pub enum Seeds {
    Count(u64),
    List(Vec<u64>),
}

impl Seeds {
    pub fn list(&self) -> Vec<u64> {
        match self {
            Seeds::Count(n) => (1..=*n).collect(),
            Seeds::List(all) => all.clone(),
        }
    }

    /// Checks the seeds.
    ///
    /// # Errors
    /// There are no seeds, too many, or duplicates.
    fn check(&self) -> Result<()> {
        if matches!(self, Seeds::Count(n) if *n > 10_000) {
            return Err(Error::user("seeds: at most 10,000 are allowed"));
        }
        let seeds = self.list();
        if seeds.is_empty() || seeds.iter().collect::<BTreeSet<_>>().len() < seeds.len() {
            return Err(Error::user("seeds: none are given, or one is given twice")
                .hint("use a number of at least 1, or a list"));
        }
        Ok(())
    }
}

impl std::str::FromStr for Seeds {
    type Err = String;
    /// Parses a number of seeds, or a list with commas.
    fn from_str(text: &str) -> std::result::Result<Seeds, String> {
        let number = |word: &str| {
            word.trim().parse().map_err(|_| format!("'{text}' is neither a number nor a list such as 4,5"))
        };
        let seeds = match text.contains(',') {
            false => Seeds::Count(number(text)?),
            true => Seeds::List(
                text.split(',').filter(|w| !w.trim().is_empty()).map(number).collect::<std::result::Result<_, _>>()?,
            ),
        };
        seeds.check().map(|()| seeds).map_err(|e| e.to_string())
    }
}

/// The source of a data set: a folder, the built-in sample, or another data set that is split into two domains.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataSpec {
    /// A folder made by `mipgpu import`.
    pub path: Option<PathBuf>,
    /// How to get the data set; printed if it is missing.
    pub get: Option<String>,
    #[serde(default)]
    pub built_in: bool,
    /// The data set that is split into `NAME/source` and `NAME/target`, by a field of the items or at random.
    pub split: Option<String>,
    pub field: Option<String>,
    #[serde(default)]
    pub target_values: Vec<String>,
    #[serde(default)]
    pub which: Which,
    /// A share or a number of items.
    pub random: Option<f64>,
    pub seed: Option<u64>,
    pub target_last: Option<usize>,
    pub source_last: Option<usize>,
}

/// A run that rows start from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BaseSpec {
    pub name: String,
    pub data: String,
    #[serde(default)]
    pub settings: Vec<String>,
    #[serde(default)]
    pub set: toml::Table,
    #[serde(default)]
    pub split: SplitSpec,
}

/// Rows that are evaluated on the same users.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TableSpec {
    pub name: String,
    pub title: String,
    pub data: String,
    #[serde(default)]
    pub split: SplitSpec,
    #[serde(default)]
    pub settings: Vec<String>,
    /// NDCG@k, Recall@k, HR@k, MRR, MAP; or RMSE, MAE.
    pub metrics: Vec<String>,
    /// Number of uniformly drawn negatives to rank among; 0: rank among all items.
    #[serde(default)]
    pub negatives: usize,
    /// Omit validation items from the history of the test.
    #[serde(default)]
    pub without_validation: bool,
    /// Print numbers in percent.
    #[serde(default)]
    pub percent: bool,
    /// Source of the published numbers.
    pub published: Option<String>,
    pub columns: Vec<String>,
    pub rows: Vec<RowSpec>,
}

/// A row of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RowSpec {
    pub name: String,
    pub labels: Vec<String>,
    /// The base of the row; a row without one is trained from scratch.
    pub from: Option<String>,
    pub transfer: Option<Transfer>,
    #[serde(default)]
    pub settings: Vec<String>,
    #[serde(default)]
    pub set: toml::Table,
    #[serde(default)]
    pub published: Vec<f64>,
    /// The row that this row is tested against.
    pub against: Option<String>,
}

/// A statement to test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FindingSpec {
    pub says: String,
    pub claims: Vec<ClaimSpec>,
}

/// A comparison of two groups of rows of a table, on the table's first metric.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClaimSpec {
    pub what: String,
    pub better: Vec<String>,
    pub than: Vec<String>,
    #[serde(default)]
    pub expect: Expect,
    /// Another metric of the table.
    pub metric: Option<String>,
}

impl Grid {
    /// Parses a grid. Each of `variants` overrides it with `[variant.NAME]`, in this order; then `set` overrides single
    /// settings (`GROUP.KEY=VALUE`).
    ///
    /// # Errors
    /// The text is not valid TOML, or a key, data set, group, row or metric does not exist. The error names the place.
    pub fn parse(text: &str, place: &str, variants: &[String], set: &[String]) -> Result<Grid> {
        let unreadable = |e: toml::de::Error| typos::unreadable(text, place, &e);
        let mut table: toml::Table = toml::from_str(text).map_err(unreadable)?;
        let known = table.remove("variant").and_then(|v| v.as_table().cloned()).unwrap_or_default();
        for name in variants {
            let Some(toml::Value::Table(over)) = known.get(name) else {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let there = if names.is_empty() { "none".into() } else { names.join(", ") };
                let near = nearest(name, names).map_or(String::new(), |near| format!("did you mean '{near}'? "));
                return Err(Error::user(format!("{place}: there is no [variant.{name}] in the grid"))
                    .hint(format!("{near}its variants: {there}")));
            };
            if let Some(toml::Value::Table(groups)) = over.get("settings") {
                let there = table.get("settings").and_then(|s| s.as_table().cloned()).unwrap_or_default();
                if let Some(group) = groups.keys().find(|group| !there.contains_key(*group)) {
                    let names: Vec<String> = there.keys().cloned().collect();
                    let e = unknown("group of settings", group, names.iter().map(String::as_str));
                    return Err(typos::at_line(text, place, e.at(format!("variant.{name}"))));
                }
            }
            lay_over(&mut table, over.clone());
        }
        for change in set {
            override_setting(&mut table, change)?;
        }
        let mut grid: Grid = match !variants.is_empty() || !set.is_empty() {
            true => table.try_into().map_err(unreadable)?,
            // Parse the text, so that errors have line numbers.
            false => toml::from_str(text).map_err(unreadable)?,
        };
        grid.check().map_err(|e| typos::at_line(text, place, e))?;
        for change in set {
            grid.check_used(change)?;
        }
        grid.notes.extend(grid.note.take());
        Ok(grid)
    }

    /// Checks that a run uses the group of settings that `--set GROUP.KEY=VALUE` changes.
    fn check_used(&self, change: &str) -> Result<()> {
        let group = change.split('.').next().unwrap_or_default();
        let rows = self.tables.iter().flat_map(|t| t.rows.iter().map(|r| &r.settings));
        let of_tables = self.tables.iter().map(|t| &t.settings);
        let mut taken = self.bases.iter().map(|b| &b.settings).chain(of_tables).chain(rows);
        if taken.any(|groups| groups.iter().any(|taken| taken == group)) {
            return Ok(());
        }
        Err(Error::user(format!("--set {change} has no effect: no run uses the group '{group}'"))
            .hint("change a group that is listed in `settings` of a base, table or row"))
    }

    /// Checks that the settings of a group or a run have the names of flags.
    fn check_settings(settings: &toml::Table) -> Result<()> {
        if settings.contains_key("seed") {
            return Err(Error::user("'seed' is not a setting of a group or a run")
                .hint("every run is repeated with each of the grid's seeds"));
        }
        let all = serde_json::json!(Settings::default());
        let known = || all.as_object().into_iter().flat_map(|all| all.keys().map(String::as_str));
        match settings.keys().find(|key| !known().any(|name| name == *key)) {
            Some(key) => {
                let near = nearest(key, known())
                    .map_or("settings have the names of the flags of `mipgpu train --help-all`".into(), |near| {
                        format!("did you mean '{near}'?")
                    });
                Err(Error::user(format!("there is no setting '{key}'")).hint(near))
            }
            None => Ok(()),
        }
    }

    /// Checks all names and references.
    fn check(&self) -> Result<()> {
        let plain = |name: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.chars().all(good) && !name.starts_with('.')
        };
        let named = |name: &str, what: &str| match plain(name) {
            true => Ok(()),
            false => Err(Error::user(format!("the {what} '{name}' cannot be used in file names"))
                .hint("use only letters, digits, '-', '_' and '.', and no '.' at the start")),
        };
        named(&self.name, "name")?;
        self.seeds.check()?;
        for (name, data) in &self.data {
            named(name, "data set")?;
            self.check_data(name, data).map_err(|e| e.at(format!("data.{name}")))?;
        }
        for (name, group) in &self.settings {
            Grid::check_settings(group).map_err(|e| e.at(format!("settings.{name}")))?;
        }
        if self.tables.is_empty() {
            return Err(Error::user("the grid has no [[table]]"));
        }
        let mut names = BTreeSet::new();
        let rows = self.tables.iter().flat_map(|t| t.rows.iter().map(|r| &r.name));
        for name in self.bases.iter().map(|b| &b.name).chain(rows) {
            named(name, "run")?;
            if !names.insert(name) {
                return Err(Error::user(format!("two runs have the name '{name}'")));
            }
        }
        for base in &self.bases {
            let checked = Grid::check_settings(&base.set).and_then(|()| self.check_run(&base.data, &base.settings));
            checked.map_err(|e| e.at(format!("base {}", base.name)))?;
        }
        for table in &self.tables {
            named(&table.name, "table")?;
            table.check(self).map_err(|e| e.at(format!("table {}", table.name)))?;
        }
        for finding in &self.findings {
            for claim in &finding.claims {
                self.table_of(claim).map_err(|e| e.at(format!("claim '{}'", claim.what)))?;
            }
        }
        Ok(())
    }

    fn check_data(&self, name: &str, data: &DataSpec) -> Result<()> {
        let ways = [data.path.is_some(), data.built_in, data.split.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err(Error::user("exactly one of path, built-in = true and split is required"));
        }
        let Some(of) = &data.split else { return Ok(()) };
        match self.data.get(of) {
            Some(whole) if whole.split.is_none() && of != name => {}
            Some(_) => {
                return Err(Error::user(format!("'{of}' is itself split and cannot be split again")));
            }
            None => return Err(unknown("data set", of, self.data.keys().map(String::as_str))),
        }
        match (&data.field, data.random) {
            (Some(_), None) if !data.target_values.is_empty() => Ok(()),
            (None, Some(share)) if share > 0.0 && (share < 1.0 || share.fract() == 0.0) => Ok(()),
            _ => Err(Error::user("no valid rule to split by").hint("use field with target-values, or random = 0.3")),
        }
    }

    /// Returns the names by which runs refer to data sets.
    pub fn data_names(&self) -> Vec<String> {
        let of = |(name, data): (&String, &DataSpec)| match data.split {
            Some(_) => vec![format!("{name}/source"), format!("{name}/target")],
            None => vec![name.clone()],
        };
        self.data.iter().flat_map(of).collect()
    }

    fn check_run(&self, data: &str, groups: &[String]) -> Result<()> {
        let all = self.data_names();
        if !all.iter().any(|name| name == data) {
            return Err(unknown("data set", data, all.iter().map(String::as_str)));
        }
        match groups.iter().find(|group| !self.settings.contains_key(*group)) {
            Some(group) => Err(unknown("group of settings", group, self.settings.keys().map(String::as_str))),
            None => Ok(()),
        }
    }

    /// Returns the table of a claim's rows.
    ///
    /// # Errors
    /// Rows do not exist or belong to two tables, or the table does not have the metric.
    pub fn table_of(&self, claim: &ClaimSpec) -> Result<&TableSpec> {
        let mut found: Option<&TableSpec> = None;
        for name in claim.better.iter().chain(&claim.than) {
            let table = self.tables.iter().find(|t| t.rows.iter().any(|r| r.name == *name)).ok_or_else(|| {
                let rows = self.tables.iter().flat_map(|t| t.rows.iter().map(|r| r.name.as_str()));
                unknown("row", name, rows)
            })?;
            if found.is_some_and(|f| f.name != table.name) {
                return Err(Error::user("its rows belong to two tables, which differ in users and metrics"));
            }
            found = Some(table);
        }
        if let Some(both) = claim.than.iter().find(|name| claim.better.contains(name)) {
            return Err(Error::user(format!("'{both}' is on both sides")));
        }
        let table = found.filter(|_| !claim.better.is_empty() && !claim.than.is_empty());
        let table = table.ok_or_else(|| Error::user("one side has no rows"))?;
        match &claim.metric {
            Some(metric) if !table.metrics.contains(metric) => {
                Err(unknown("metric", metric, table.metrics.iter().map(String::as_str)))
            }
            _ => Ok(table),
        }
    }
}

impl TableSpec {
    /// Returns whether the metrics are for ratings instead of lists.
    pub fn of_ratings(&self) -> bool {
        self.metrics.iter().any(|m| Metric::parse(m).is_ok_and(Metric::of_ratings))
    }

    fn check(&self, grid: &Grid) -> Result<()> {
        grid.check_run(&self.data, &self.settings)?;
        let metrics = self.metrics.iter().map(|m| Metric::parse(m)).collect::<Result<Vec<_>>>()?;
        let Some(first) = metrics.first() else { return Err(Error::user("metrics: the list is empty")) };
        if (1..metrics.len()).any(|m| metrics[..m].contains(&metrics[m])) {
            return Err(Error::user("metrics: the list has duplicates"));
        }
        if self.rows.is_empty() {
            return Err(Error::user("rows: the list is empty"));
        }
        if metrics.iter().any(|m| m.of_ratings() != first.of_ratings()) {
            return Err(Error::user("metrics of lists and of ratings in one table").hint("use two tables"));
        }
        if first.of_ratings() && self.negatives > 0 {
            return Err(Error::user("negatives has no effect: the metrics are for ratings"));
        }
        for row in &self.rows {
            self.check_row(grid, row).map_err(|e| e.at(format!("row {}", row.name)))?;
        }
        Ok(())
    }

    fn check_row(&self, grid: &Grid, row: &RowSpec) -> Result<()> {
        if row.labels.len() != self.columns.len() {
            let (n, m) = (row.labels.len(), self.columns.len());
            return Err(Error::user(format!("{n} labels for {m} columns ({})", self.columns.join(", "))));
        }
        if !row.published.is_empty() && row.published.len() != self.metrics.len() {
            let (n, m) = (row.published.len(), self.metrics.len());
            return Err(Error::user(format!("{n} published numbers for {m} metrics ({})", self.metrics.join(", "))));
        }
        Grid::check_settings(&row.set)?;
        grid.check_run(&self.data, &row.settings)?;
        match (&row.from, row.transfer) {
            (Some(from), _) if !grid.bases.iter().any(|b| b.name == *from) => {
                Err(unknown("base", from, grid.bases.iter().map(|b| b.name.as_str())))
            }
            (None, Some(_)) => Err(Error::user("transfer requires a base").hint("add the base: from = \"...\"")),
            _ => match &row.against {
                Some(other) if !self.rows.iter().any(|r| r.name == *other && r.name != row.name) => {
                    let others = self.rows.iter().map(|r| r.name.as_str()).filter(|name| *name != row.name);
                    Err(unknown("other row of the table", other, others))
                }
                _ => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the head comment.
    fn example() -> String {
        let file = include_str!("grid.rs");
        let (_, rest) = file.split_once("```toml\n").unwrap();
        rest.split_once("```").unwrap().0.to_string()
    }

    #[test]
    fn the_example_is_read() {
        let grid = Grid::parse(&example(), "x.toml", &[], &[]).unwrap();
        assert_eq!((grid.seeds.list(), grid.tables[0].rows.len()), (vec![1, 2, 3], 2));
        assert_eq!(grid.data_names(), ["halves/source", "halves/target", "shop"]);
        let quick =
            Grid::parse(&example(), "x.toml", &["quick".into()], &["small.width=8".into(), "small.norm=pre".into()])
                .unwrap();
        let small = &quick.settings["small"];
        assert_eq!(quick.seeds.list(), [1]);
        assert_eq!((small["width"].as_integer(), small["norm"].as_str()), (Some(8), Some("pre")));
    }

    #[test]
    fn names_that_mean_nothing_are_told_with_their_place() {
        for (old, new, place, hint) in [
            ("halves/target\"", "halves/targt\"", "table next", "did you mean 'halves/target'"),
            ("settings = [\"small\"]\nmetrics", "settings = [\"smal\"]\nmetrics", "table next", "did you mean 'small'"),
            ("from = \"pretrained\"", "from = \"pretraned\"", "row model", "did you mean 'pretrained'"),
            ("than = [\"none\"]", "than = [\"nope\"]", "claim 'model over none'", "none"),
            ("\"HR@10\"", "\"HIT@10\"", "no metric 'HIT@10'", "NDCG@k"),
            ("against = \"none\"", "against = \"model\"", "row model", "row"),
            ("labels = [\"none\"]", "labels = []", "row none", "columns"),
            ("random = 0.5", "random = 1.5", "data.halves", "no valid rule to split by"),
            ("split = \"shop\"", "split = \"shp\"", "data.halves", "did you mean 'shop'"),
            ("seeds = 3 ", "seeds = 0 ", "seeds", "at least 1"),
            ("seeds = 3 ", "sedes = 3 ", "line 3", "did you mean 'seeds'?"),
            ("width = 32", "widht = 32", "line 11: settings.small", "did you mean 'width'?"),
            ("metrics = [", "metrix = [", "line 24", "did you mean 'metrics'?"),
            ("transfer = \"model\", against", "transfer = \"modle\", against", "line 28", "did you mean 'model'?"),
            ("from = \"pretrained\"", "form = \"pretrained\"", "line 28", "did you mean 'from'?"),
            ("kind = \"leave-one-out\"", "kind = \"leave-one\"", "line 22", "did you mean 'leave-one-out'?"),
            ("better = [\"model\"]", "beter = [\"model\"]", "line 33", "did you mean 'better'?"),
            ("better = [\"model\"]", "better = [\"modle\"]", "line 33: claim", "did you mean 'model'?"),
            ("\"HR@10\"", "\"NDGC@5\"", "line 24", "did you mean 'NDCG@5'?"),
            ("\"HR@10\"", "\"recal@5\"", "line 24", "did you mean 'Recall@5'?"),
            ("\"HR@10\"", "\"ndcg@5\"", "line 24", "did you mean 'NDCG@5'?"),
            ("labels = [\"none\"] }", "labels = [\"none\"], set = { lrr = 1 } }", "line 27", "did you mean 'lr'?"),
        ] {
            assert!(example().contains(old), "{old}");
            let e = Grid::parse(&example().replacen(old, new, 1), "x.toml", &[], &[]).unwrap_err().to_string();
            assert!(e.contains(place) && e.contains(hint), "{new}: {e}");
        }
    }

    #[test]
    fn overrides_that_mean_nothing_are_refused() {
        let parse = |set: &str| Grid::parse(&example(), "x.toml", &[], &[set.into()]).unwrap_err().to_string();
        assert!(parse("smal.width=8").contains("did you mean 'small'"));
        let e = Grid::parse(&example(), "x.toml", &["tiny".into()], &[]).unwrap_err().to_string();
        assert!(e.contains("[variant.tiny]") && e.contains("quick"), "{e}");
        assert!(parse("width=8").contains("GROUP.KEY=VALUE") && parse("small").contains("GROUP.KEY"));
        assert!(parse("small.widht=8").contains("did you mean 'width'?"));
        let e = Grid::parse(&example(), "x.toml", &["quik".into()], &[]).unwrap_err().to_string();
        assert!(e.contains("did you mean 'quick'?"), "{e}");
        let spare = example().replacen("[[base]]", "[settings.spare]\nwidth = 8\n\n[[base]]", 1);
        let e = Grid::parse(&spare, "x.toml", &[], &["spare.width=4".into()]).unwrap_err().to_string();
        assert!(e.contains("--set spare.width=4 has no effect"), "{e}");
        // With a variant, the parser has no line numbers; the line is found by the name.
        let wrong = example().replacen("metrics = [", "metrix = [", 1);
        let e = Grid::parse(&wrong, "x.toml", &["quick".into()], &[]).unwrap_err().to_string();
        assert!(e.contains("line 24") && e.contains("did you mean 'metrics'?"), "{e}");
    }
}
