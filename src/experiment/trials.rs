/*! Trials of a search: their names, results and files.

| file | contents |
|---|---|
| `DIR/search.json` | the request |
| `DIR/trials/NAME` | the run of a trial |
| `DIR/trials.json`, `DIR/trials.tsv` | the table |

Trials are ranked by the best validation in their learning curve. Their test is not used.
*/

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{results::RunState, space::Choice};
use crate::{
    base::{
        Error, Result,
        atomic::write_atomically,
        error::{IoContext, typed},
        table::{Align, Table},
    },
    train::checkpoint::EpochRow,
};

/// Maximum length of a name. File names have at most 255 bytes, and long names are hard to read.
const LONGEST_NAME: usize = 96;

/// Returns the name of a trial: `lr=0.001,dropout=0.2`. A digest is appended if special characters are replaced or the
/// name is shortened.
pub fn name_of(choice: &Choice) -> String {
    let whole = choice.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let plain = |c: char| if c.is_ascii_alphanumeric() || "=,.-_+".contains(c) { c } else { '_' };
    // A value that contains a comma would be read as two.
    let mut name: String = whole.chars().map(plain).collect();
    if name == whole && name.len() <= LONGEST_NAME && !choice.iter().any(|(_, value)| value.contains(',')) {
        return name;
    }
    name.truncate(LONGEST_NAME);
    name + "-" + &digest(&whole)[..8]
}

/// Returns the SHA-256 in hexadecimal.
pub fn digest(text: impl AsRef<[u8]>) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The best validation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Best {
    pub epoch: u32,
    /// NDCG@10, or RMSE for ratings.
    pub measure: &'static str,
    pub value: f64,
    /// Higher is better.
    #[serde(skip)]
    pub goodness: f64,
}

/// Reads the learning curve of a run, which is empty if there is none yet.
///
/// # Errors
/// A line cannot be parsed.
pub fn curve_of(run: &Path) -> Result<Vec<EpochRow>> {
    let path = run.join("metrics.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).at_path(&path)?;
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::user(format!("{}: line {}: {e}", path.display(), i + 1))
                .hint(format!("remove {} to repeat this trial", typed(run)))
        })
    };
    text.lines().enumerate().map(row).collect()
}

/// Returns the newest epoch with the best validation, as the run itself selects it, or `None` without any validation.
pub fn best_of(curve: &[EpochRow]) -> Option<Best> {
    let all = curve.iter().filter_map(|row| {
        let measure = if row.ndcg.is_some() { "NDCG@10" } else { "RMSE" };
        Some(Best { epoch: row.epoch, measure, value: row.measure()?, goodness: row.goodness()? })
    });
    all.reduce(|best, row| if row.goodness >= best.goodness { row } else { best })
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub name: String,
    #[serde(serialize_with = "as_map")]
    pub settings: Choice,
    /// Best validation, if the trial is done.
    pub best: Option<Best>,
    /// Number of the rung, from 1; 1 without halving.
    pub rung: usize,
    /// Requested epochs.
    pub epochs: u32,
    pub epochs_done: u32,
    /// Total seconds of its processes.
    pub seconds: f64,
    pub state: RunState,
    pub run: PathBuf,
    /// The command that repeats it.
    pub command: String,
}

fn as_map<S: serde::Serializer>(choice: &Choice, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_map(choice.iter().map(|(name, value)| (name, value)))
}

impl Trial {
    /// Describes the state in a few words.
    pub fn stands(&self) -> String {
        match &self.state {
            RunState::Done if self.epochs_done < self.epochs => format!("done, stopped early at {}", self.epochs_done),
            RunState::Done => "done".into(),
            RunState::Waiting if self.epochs_done > 0 => "interrupted".into(),
            RunState::Waiting => "waiting".into(),
            RunState::Failed(why) => format!("failed: {}", why.lines().next().unwrap_or_default()),
            RunState::Stale(what) => format!("stale: {what}"),
        }
    }
}

/// Sorts trials, best first: finished trials of the last rung by their validation, then those of the rung before, then
/// stale, failed and waiting trials.
pub fn rank(trials: &mut [Trial]) {
    let group = |t: &Trial| match t.state {
        RunState::Done => 0,
        RunState::Stale(_) => 1,
        RunState::Failed(_) => 2,
        RunState::Waiting => 3,
    };
    let good = |t: &Trial| t.best.map_or(f64::NEG_INFINITY, |best| best.goodness);
    trials.sort_by(|a, b| group(a).cmp(&group(b)).then(b.rung.cmp(&a.rung)).then_with(|| good(b).total_cmp(&good(a))));
}

/// Returns the validation metric of the trials.
///
/// # Errors
/// Trials have different metrics and cannot be compared.
pub fn measure_of(trials: &[Trial]) -> Result<Option<&'static str>> {
    let mut all = trials.iter().filter_map(|t| t.best.map(|best| best.measure));
    let first = all.next();
    match all.find(|m| Some(*m) != first) {
        None => Ok(first),
        Some(other) => {
            let what = format!("trials measured by {} and {other} cannot be ranked", first.unwrap_or_default());
            Err(Error::user(what).hint("use separate searches for rating models and ranking models"))
        }
    }
}

/// Returns the table as tab-separated text.
fn tsv(trials: &[Trial]) -> String {
    let names: Vec<&str> =
        trials.first().map_or(Vec::new(), |t| t.settings.iter().map(|(name, _)| name.as_str()).collect());
    let mut out = names.join("\t") + "\tmeasure\tvalue\tbest_epoch\trung\tepochs\tepochs_done\tseconds\tstate\trun\n";
    for t in trials {
        let mut cells: Vec<String> = t.settings.iter().map(|(_, value)| value.clone()).collect();
        cells.extend(match t.best {
            Some(best) => [best.measure.to_string(), best.value.to_string(), best.epoch.to_string()],
            None => [const { String::new() }; 3],
        });
        cells.extend([
            t.rung.to_string(),
            t.epochs.to_string(),
            t.epochs_done.to_string(),
            format!("{:.1}", t.seconds),
        ]);
        cells.extend([t.stands(), t.run.display().to_string()]);
        out += &(cells.iter().map(|c| c.replace(['\t', '\n'], " ")).collect::<Vec<_>>().join("\t") + "\n");
    }
    out
}

/// Returns the table for the terminal, best first.
pub fn table_text(table: &[Trial]) -> String {
    let Some(first) = table.first() else { return String::new() };
    let measure = table.iter().find_map(|t| t.best.map(|best| best.measure)).unwrap_or("NDCG@10");
    let mut shown = Table::new();
    first.settings.iter().for_each(|(name, _)| shown.column(name, Align::Left));
    for name in [measure, "best epoch", "epochs", "seconds"] {
        shown.column(name, Align::Right);
    }
    shown.column("state", Align::Left);
    for t in table {
        let mut row: Vec<String> = t.settings.iter().map(|(_, value)| value.clone()).collect();
        row.extend(match t.best {
            Some(best) => [format!("{:.4}", best.value), best.epoch.to_string()],
            None => ["-".to_string(), "-".to_string()],
        });
        let seconds = if t.seconds > 0.0 { format!("{:.0}", t.seconds) } else { "-".into() };
        row.extend([t.epochs.to_string(), seconds, t.stands()]);
        shown.row(row);
    }
    let better = if measure == "RMSE" { "lower" } else { "higher" };
    let rungs = if table.iter().any(|t| t.rung > 1) { ", the last rung first" } else { "" };
    format!("\nbest validation of each trial, {better} is better{rungs}; the test part is not used\n\n{shown}")
}

/// Writes `trials.json` and `trials.tsv`, each atomically.
///
/// # Errors
/// A file cannot be written.
pub fn write_tables(folder: &Path, asked: &Asked, trials: &[Trial]) -> Result<()> {
    let all = json!({ "search": asked, "trials": trials });
    write_atomically(&folder.join("trials.json"), |f| writeln!(f, "{all:#}"))?;
    write_atomically(&folder.join("trials.tsv"), |f| f.write_all(tsv(trials).as_bytes()))
}

/// The request of a search (`search.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub version: u32,
    /// The command after `--`.
    pub command: Vec<String>,
    pub over: Vec<String>,
    pub random: Option<usize>,
    pub halving: Option<u32>,
    pub seed: u64,
}

impl Asked {
    pub const VERSION: u32 = 1;

    fn path(folder: &Path) -> PathBuf {
        folder.join("search.json")
    }

    /// Reads the earlier request of this folder. Returns `None` for a new folder.
    ///
    /// # Errors
    /// The folder holds something else, or the file cannot be read or has another version.
    pub fn read(folder: &Path) -> Result<Option<Asked>> {
        let path = Asked::path(folder);
        if !path.exists() {
            // A temporary file that a killed process left does not count.
            let foreign = |e: fs::DirEntry| e.file_name() != ".search.json.tmp";
            if fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(foreign)) {
                return Err(Error::user(format!(
                    "{}: the folder is not empty and does not hold a search",
                    folder.display()
                ))
                .hint("choose a new folder with --out"));
            }
            return Ok(None);
        }
        let text = fs::read_to_string(&path).at_path(&path)?;
        let bad = |what: String| {
            Error::user(format!("{}: {what}", path.display()))
                .hint("choose a new folder with --out, or remove this one")
        };
        let value: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if value["version"] != Asked::VERSION {
            return Err(bad(format!("version {}, this program reads {}", value["version"], Asked::VERSION)));
        }
        serde_json::from_value(value).map(Some).map_err(|e| bad(e.to_string()))
    }

    /// Writes the request and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = Asked::path(folder);
        write_atomically(&path, |f| writeln!(f, "{:#}", json!(self)))?;
        Ok(path)
    }
}

/// Returns the words of a command as flags with values, and positional arguments, in a canonical order. The result does
/// not depend on the order of flags, or on the form `--lr 1` or `--lr=1`.
pub fn flags_of(command: &[String]) -> Vec<(String, String)> {
    let is_flag = |word: &str| word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err();
    let (mut all, mut words) = (Vec::new(), command.iter().peekable());
    while let Some(word) = words.next() {
        match word.split_once('=') {
            _ if !is_flag(word) => all.push((String::new(), word.clone())),
            Some((flag, value)) => all.push((flag.into(), value.into())),
            None => {
                let value = words.next_if(|next| !is_flag(next)).cloned().unwrap_or_default();
                all.push((word.clone(), value));
            }
        }
    }
    // The sort is stable: positional arguments keep their order.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Describes the differences between two commands; empty if there are none.
pub fn changes(old: &[String], new: &[String]) -> Vec<String> {
    let (old, new) = (flags_of(old), flags_of(new));
    let of = |side: &[(String, String)], flag: &str| -> Option<String> {
        let values: Vec<String> = side.iter().filter(|(f, _)| f == flag).map(|(_, v)| typed(v)).collect();
        (!values.is_empty()).then(|| values.join(" "))
    };
    let mut names: Vec<&String> = old.iter().chain(&new).map(|(flag, _)| flag).collect();
    names.sort();
    names.dedup();
    let told = |flag: &str| {
        let said = format!("{flag}{}", if flag.is_empty() { "" } else { " " });
        match (of(&old, flag), of(&new, flag)) {
            (a, b) if a == b => None,
            (Some(a), Some(b)) => Some(format!("{said}{a} is now {b}")),
            (Some(a), None) => Some(format!("{said}{a} is removed")),
            (_, b) => Some(format!("{said}{} is new", b.unwrap_or_default())),
        }
    };
    names.into_iter().filter_map(|flag| told(flag)).collect()
}

/// Returns the names of runs in the folder of trials that are not `known`.
pub fn others(trials: &Path, known: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(trials).into_iter().flatten().flatten();
    let runs = entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = runs.filter(|name| !known(name)).collect();
    names.sort();
    names
}

/// Returns the trials and the request as one JSON event.
pub fn as_event(asked: &Asked, trials: &[Trial], more: Value) -> Value {
    let mut event = Map::from_iter([("event".to_string(), json!("search"))]);
    event.insert("search".into(), json!(asked));
    event.insert("trials".into(), json!(trials));
    if let Value::Object(more) = more {
        event.extend(more);
    }
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(pairs: &[(&str, &str)]) -> Choice {
        pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn names_can_be_read_and_are_file_names() {
        assert_eq!(name_of(&choice(&[("lr", "0.001"), ("dropout", "0.2")])), "lr=0.001,dropout=0.2");
        let (a, b) = (name_of(&choice(&[("fields", "a b/c")])), name_of(&choice(&[("fields", "a b_c")])));
        assert!(a != b && a.starts_with("fields=a_b_c-") && a.len() == 13 + 8, "{a}");
        // Choices with the same plain text have different names.
        let (a, b) = (choice(&[("fields", "x,lr=1")]), choice(&[("fields", "x"), ("lr", "1")]));
        assert_ne!(name_of(&a), name_of(&b));
        let long = |end: &str| choice(&[("fields", &("x".repeat(300) + end))]);
        assert_ne!(name_of(&long("a")), name_of(&long("b")));
        assert!(name_of(&long("a")).len() < 120);
    }

    #[test]
    fn the_best_epoch_is_the_newest_of_the_best() {
        let row = |epoch, ndcg, rmse| EpochRow { epoch, step: 1, loss: 1.0, ndcg, hit: None, rmse, mae: None };
        let curve = [row(1, Some(0.1), None), row(2, None, None), row(3, Some(0.3), None), row(4, Some(0.3), None)];
        let best = best_of(&curve).unwrap();
        assert_eq!((best.epoch, best.value, best.measure), (4, 0.3, "NDCG@10"));
        let best = best_of(&[row(1, None, Some(1.2)), row(2, None, Some(0.9)), row(3, None, Some(1.0))]).unwrap();
        assert_eq!((best.epoch, best.value, best.measure), (2, 0.9, "RMSE"));
        assert_eq!(best_of(&[row(1, None, None)]), None);
    }

    #[test]
    fn commands_are_compared_by_what_they_say() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let old = words("train data --model sasrec --epochs 40 --cut -5");
        assert!(changes(&old, &words("train data --epochs=40 --cut -5 --model sasrec")).is_empty());
        assert_eq!(
            changes(&old, &words("train other --model sasrec --epochs 80 --width 8")),
            ["train data is now train other", "--cut -5 is removed", "--epochs 40 is now 80", "--width 8 is new"]
        );
    }

    #[test]
    fn done_trials_come_first_the_best_before_the_others() {
        let trial = |name: &str, rung, value: Option<f64>, state| Trial {
            name: name.into(),
            settings: Vec::new(),
            best: value.map(|value| Best { epoch: 1, measure: "NDCG@10", value, goodness: value }),
            rung,
            epochs: 9,
            epochs_done: 9,
            seconds: 0.0,
            state,
            run: PathBuf::new(),
            command: String::new(),
        };
        let mut all = [
            trial("waits", 2, None, RunState::Waiting),
            trial("failed", 2, None, RunState::Failed("why\n  hint: x".into())),
            trial("short", 1, Some(0.9), RunState::Done),
            trial("worse", 2, Some(0.1), RunState::Done),
            trial("best", 2, Some(0.2), RunState::Done),
            trial("blind", 2, None, RunState::Done),
            trial("old", 2, Some(1.0), RunState::Stale("the data".into())),
        ];
        rank(&mut all);
        let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["best", "worse", "blind", "short", "old", "failed", "waits"]);
        assert_eq!(all[5].stands(), "failed: why");
        assert_eq!(measure_of(&all).unwrap(), Some("NDCG@10"));
        all[0].best.as_mut().unwrap().measure = "RMSE";
        assert!(measure_of(&all).unwrap_err().to_string().contains("cannot be ranked"));
    }
}
