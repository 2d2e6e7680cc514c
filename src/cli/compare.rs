//! `mipgpu compare`: tests whether one run is better than another over the same users.

use std::{collections::HashMap, path::PathBuf};

use serde::Serialize;

use super::{
    evaluate::{SplitPart, shorten},
    opened::{RunFlags, data_of, open_run},
    printer::Printer,
};
use crate::{
    base::{Error, Result, table::Table},
    data::{
        Dataset, digits,
        split::{HeldOut, Split},
    },
    eval::{
        EvalOptions, ItemMap, RatingOptions,
        evaluate::{check_ks, evaluate_each, of_baskets},
        evaluate_ratings,
        metrics::{at_k, average_precision, reciprocal_rank},
        significance::{Paired, holm, paired},
        slices::{HISTORY_FROM, history_name, history_slice},
    },
    layers::RatingScale,
    train::OpenRun,
};

/// Compares every run with the first one over the same users. Prints the difference, a bootstrap interval, a paired
/// t-test corrected for the number of comparisons, and the effect size, over all users and by history length.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu compare runs/scratch runs/tuned
  mipgpu compare runs/a runs/b runs/c --k 20 --json")]
pub struct Args {
    /// Folders of trained runs with the same data and split; the others are compared with the first one
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Held-out part to compare on
    #[arg(long, value_enum, default_value_t)]
    pub part: SplitPart,
    /// Length of the lists, at most the size of the catalogue [default: 10]
    #[arg(long, short, value_name = "N")]
    pub k: Option<usize>,
    /// Rank the items of a user's history too, or exclude them [default: as in the validation of the runs]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub keep_seen: Option<bool>,
    /// Number of bootstrap samples
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub samples: usize,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Omit the slices by history length
    #[arg(long)]
    pub no_slices: bool,
    #[command(flatten)]
    pub from: RunFlags,
    /// Number of users per batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub batch: usize,
}

impl Args {
    fn list_length(&self) -> usize {
        self.k.unwrap_or(10)
    }
}

/// The results of a run for each user.
struct RunResults {
    name: String,
    /// (user, events in the history, value of each metric).
    users: Vec<(u32, usize, Vec<f64>)>,
}

/// One significance test.
#[derive(Clone, Debug, Serialize)]
struct ComparisonRow {
    run: String,
    metric: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<String>,
    #[serde(flatten)]
    result: Paired,
    /// p, corrected for all tests of its table.
    p_holm: Option<f64>,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    super::thread_pool(args.from.threads)?.install(|| compare(args, printer))
}

fn compare(mut args: Args, printer: Printer) -> Result<()> {
    if args.samples < 100 {
        return Err(Error::user(format!("--samples {} is out of range", args.samples)).hint("it must be at least 100"));
    }
    let mut opened = Vec::with_capacity(args.runs.len());
    for path in &args.runs {
        opened.push(open_run(path, &args.from)?);
    }
    check_alike(&opened, args.keep_seen)?;
    let first = &opened[0];
    let data = data_of(first, None, &format!("`data` in {}/config.toml", args.runs[0].display()))?;
    if data.fingerprint() != first.data_fingerprint {
        return Err(Error::user(format!(
            "{}: the data set has changed since {} was trained",
            first.data.display(),
            first.name
        ))
        .hint("import the same data again, or train new runs"));
    }
    let split = Split::for_task(&data, first.split, first.encoder.last_basket())?;
    let (valid, test) = (split.valid(), split.test());
    let part: &dyn HeldOut = if args.part == SplitPart::Valid { &valid } else { &test };
    let rated = first.ratings.is_some();
    let for_lists = [(args.k.is_some(), "--k"), (args.keep_seen.is_some(), "--keep-seen")];
    if let Some((_, flag)) = for_lists.iter().find(|(given, _)| *given && rated) {
        return Err(Error::user(format!("{flag} is for lists of items, and these runs predict ratings"))
            .hint("omit it: the errors of all held-out ratings are compared"));
    }
    let keep_seen = first.keeps_seen(args.keep_seen, of_baskets(&*first.encoder, part))?;
    let (ks, shortened) = shorten(&[args.list_length()], first.item_keys.len());
    args.k = Some(ks[0]);
    shortened.iter().for_each(|note| printer.warn(note));
    let metrics: Vec<String> = match rated {
        true => ["squared error", "absolute error"].map(String::from).into(),
        false => {
            let k = args.list_length();
            let all = [format!("NDCG@{k}"), format!("Recall@{k}"), format!("HR@{k}"), "MRR".into(), "MAP".into()];
            all.into()
        }
    };
    let mut results = Vec::with_capacity(opened.len());
    for (mut run, path) in opened.into_iter().zip(&args.runs) {
        for note in run.warnings(&data, &split, part)? {
            printer.warn(format_args!("{}: {note}", run.name));
        }
        printer.say(format_args!("evaluating {}", run.name));
        let users = if rated {
            of_ratings(&mut run, &data, part, &args)?
        } else {
            of_lists(&mut run, &data, part, keep_seen, &args)?
        };
        results.push(RunResults { name: path.display().to_string(), users });
    }
    let kept = keep_common(&mut results);
    if kept == 0 {
        return Err(Error::user("the runs have no common evaluated users").hint("compare runs with the same catalogue"));
    }
    let (whole, slices) = tests(&results, &metrics, &args);
    if printer.json {
        printer.event(&serde_json::json!({
            "event": "compare", "data": data.fingerprint(), "part": part.name(), "split": split.spec(), "users": kept,
            "keep_seen": keep_seen, "samples": args.samples, "seed": args.seed,
            "baseline": results[0].name, "all": whole, "by_history": slices,
        }));
        return Ok(());
    }
    let kind = if rated { "errors of ratings, lower is better" } else { "full ranking, higher is better" };
    printer.result(format_args!(
        "compare  {} part of {}, {kind}; {} users",
        part.name(),
        split.spec().words(data.ticks_per_second()),
        digits(kept as u64)
    ));
    printer.result(format_args!("with     {}", results[0].name));
    if !rated {
        let seen = if keep_seen { "ranked too" } else { "excluded" };
        printer.result(format_args!("ranking  items of the history are {seen}"));
    }
    printer.raw(table("all users", &whole));
    if !slices.is_empty() {
        printer.raw(table(&format!("by events in the history, {}", metrics[0]), &slices));
    }
    Ok(())
}

/// Checks that all runs were evaluated on the same held-out events.
///
/// # Errors
/// Two runs differ in data, split, protocol or the kind of prediction.
fn check_alike(runs: &[OpenRun], keep_seen: Option<bool>) -> Result<()> {
    let first = &runs[0];
    for run in &runs[1..] {
        let refuse = |what: &str, hint: &str| {
            Err(Error::user(format!("{} and {} {what}", first.name, run.name)).hint(hint.to_string()))
        };
        if run.data_fingerprint != first.data_fingerprint {
            return refuse(
                "were trained on different data",
                "compare runs of the same data set, so that both are evaluated on the same users",
            );
        }
        if run.split != first.split {
            return refuse(
                "have different splits",
                "compare runs of the same split, so that the same events are held out",
            );
        }
        if keep_seen.is_none() && run.keep_seen != first.keep_seen {
            return refuse(
                "were validated under different protocols: one ranks the items of the history, the other does not",
                "choose the protocol of both: --keep-seen true or --keep-seen false",
            );
        }
        if run.ratings.is_some() != first.ratings.is_some() {
            return refuse("predict different things", "compare runs that rank items, or runs that predict ratings");
        }
    }
    Ok(())
}

fn of_lists(
    run: &mut OpenRun,
    data: &Dataset,
    part: &dyn HeldOut,
    keep_seen: bool,
    args: &Args,
) -> Result<Vec<(u32, usize, Vec<f64>)>> {
    let k = args.list_length();
    check_ks(&[k], run.item_keys.len())?;
    let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
    let options = EvalOptions {
        ks: vec![k],
        keep_seen,
        batch: args.batch,
        item_map: Some(&map),
        users: run.user_keys.as_ref(),
        ..EvalOptions::default()
    };
    let mut users = Vec::new();
    evaluate_each(&mut *run.encoder, data, part, &options, &mut |user| {
        let (ranks, at) = (&user.ranks.model, at_k(&user.ranks.model, k));
        let values = vec![at.ndcg, at.recall, at.hr, reciprocal_rank(ranks), average_precision(ranks)];
        users.push((user.user, part.held_out(user.user as usize).start, values));
        Ok(())
    })?;
    Ok(users)
}

/// Returns the mean squared and mean absolute error of the held-out ratings of each user.
fn of_ratings(
    run: &mut OpenRun,
    data: &Dataset,
    part: &dyn HeldOut,
    args: &Args,
) -> Result<Vec<(u32, usize, Vec<f64>)>> {
    let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
    let range = run.ratings.as_ref().map_or((0.0, 0.0), RatingScale::range);
    let options = RatingOptions { range, batch: args.batch, item_map: Some(&map), users: run.user_keys.as_ref() };
    let mut sums: HashMap<u32, (f64, f64, f64)> = HashMap::new();
    evaluate_ratings(&mut *run.encoder, data, part, &options, &mut |p| {
        let error = f64::from(p.predicted) - f64::from(p.rating);
        let (squared, absolute, n) = sums.entry(p.user).or_default();
        (*squared, *absolute, *n) = (*squared + error * error, *absolute + error.abs(), *n + 1.0);
        Ok(())
    })?;
    let mean = |(user, (squared, absolute, n)): (u32, (f64, f64, f64))| {
        (user, part.held_out(user as usize).start, vec![squared / n, absolute / n])
    };
    let mut users: Vec<_> = sums.into_iter().map(mean).collect();
    users.sort_by_key(|(user, ..)| *user);
    Ok(users)
}

/// Keeps only the users that all runs were evaluated on, and returns their number.
fn keep_common(results: &mut [RunResults]) -> usize {
    let mut seen: HashMap<u32, usize> = HashMap::new();
    results.iter().flat_map(|o| &o.users).for_each(|(user, ..)| *seen.entry(*user).or_default() += 1);
    let all = results.len();
    results.iter_mut().for_each(|o| o.users.retain(|(user, ..)| seen[user] == all));
    results[0].users.len()
}

/// Returns the tests of all metrics over all users, and those of the first metric by history length.
fn tests(results: &[RunResults], metrics: &[String], args: &Args) -> (Vec<ComparisonRow>, Vec<ComparisonRow>) {
    let (first, others) = (&results[0], &results[1..]);
    let test = |other: &RunResults, metric: usize, slice: Option<usize>| {
        let within = |history: usize| slice.is_none_or(|slice| history_slice(history) == slice);
        let of = |o: &RunResults| -> Vec<f64> {
            o.users.iter().filter(|(_, history, _)| within(*history)).map(|(_, _, values)| values[metric]).collect()
        };
        let (a, b) = (of(first), of(other));
        (!a.is_empty()).then(|| ComparisonRow {
            run: other.name.clone(),
            metric: metrics[metric].clone(),
            history: slice.map(history_name),
            result: paired(&a, &b, args.samples, args.seed),
            p_holm: None,
        })
    };
    // With one held-out item per user, Recall equals HR and MAP equals MRR, so each test is run once.
    let twice = |m: usize| {
        let same = |with: usize| first.users.iter().all(|(_, _, v)| v[m] == v[with]);
        match metrics[m].split('@').next() {
            Some("Recall") => same(m + 1),
            Some("MAP") => same(m - 1),
            _ => false,
        }
    };
    let wanted: Vec<usize> = (0..metrics.len()).filter(|m| !twice(*m)).collect();
    let mut whole: Vec<ComparisonRow> =
        wanted.iter().flat_map(|m| others.iter().filter_map(|o| test(o, *m, None))).collect();
    let bands = if args.no_slices { 0 } else { HISTORY_FROM.len() };
    let test = &test;
    let mut slices: Vec<ComparisonRow> =
        (0..bands).flat_map(|band| others.iter().filter_map(move |o| test(o, 0, Some(band)))).collect();
    for rows in [&mut whole, &mut slices] {
        let p: Vec<f64> = rows.iter().filter_map(|row| row.result.p).collect();
        let mut corrected = holm(&p).into_iter();
        rows.iter_mut().filter(|row| row.result.p.is_some()).for_each(|row| row.p_holm = corrected.next());
    }
    (whole, slices)
}

fn table(title: &str, rows: &[ComparisonRow]) -> String {
    let named = rows.iter().any(|row| row.history.is_some());
    let mut table = Table::new()
        .left(if named { "history" } else { "metric" })
        .left("run")
        .right("users")
        .right("first")
        .right("this")
        .right("difference")
        .left("95 % interval")
        .right("t")
        .right("p (Holm)")
        .right("effect");
    let chance = |p: Option<f64>| match p {
        None => "-".to_string(),
        Some(p) if p < 1e-4 => "<0.0001".into(),
        Some(p) => format!("{p:.4}"),
    };
    let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.2}"));
    for row in rows {
        let r = &row.result;
        table.row([
            row.history.as_ref().unwrap_or(&row.metric).clone(),
            row.run.clone(),
            digits(r.n as u64),
            format!("{:.4}", r.means[0]),
            format!("{:.4}", r.means[1]),
            format!("{:+.4}", r.difference),
            r.interval.map_or("unknown".into(), |[low, high]| format!("[{low:+.4}, {high:+.4}]")),
            number(r.t),
            chance(row.p_holm),
            number(r.effect),
        ]);
    }
    format!("\n{title}\n{table}")
}
