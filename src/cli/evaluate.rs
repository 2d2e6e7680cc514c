//! `mipgpu eval`: evaluates a trained model on held-out events.

use std::path::PathBuf;

use super::{
    opened::{RunFlags, data_of, open_run},
    split_flags::SplitFlags,
};
use crate::{
    base::{Error, Result, atomic::write_aside, error::typed},
    cli::printer::Printer,
    data::{
        Dataset, Vocab, digits,
        split::{HeldOut, Split},
    },
    eval::{
        EvalOptions, ItemMap, RatingOptions, RatingReport, Report, UserResult,
        evaluate::{check_ks, evaluate_each, of_baskets},
        evaluate_ratings,
        metrics::{MISS, at_k, average_precision, reciprocal_rank},
        negatives::Sampling,
    },
    layers::RatingScale,
    train::OpenRun,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitPart {
    Valid,
    #[default]
    Test,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NegativeSampling {
    Uniform,
    /// In proportion to how often an item occurs in training
    Popularity,
    #[default]
    Both,
}

/// Ranks every held-out item among all items of the catalogue. Prints the protocol, then NDCG, Recall, HR and MRR
/// together with a popularity baseline, and for baskets with the user's most frequent items in earlier baskets.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu eval runs/mine
  mipgpu eval runs/mine --k 10,50 --negatives 100 --per-user ranks.tsv
  mipgpu eval runs/mine --part valid --json")]
pub struct Args {
    /// Folder of the trained run
    pub run: PathBuf,
    /// Data set folder to evaluate on [default: the data set of the run]; items are matched by key
    pub data: Option<PathBuf>,
    /// Which held-out part to rank
    #[arg(long, value_enum, default_value_t)]
    pub part: SplitPart,
    /// List lengths to evaluate, at most the catalogue size [default: 1,5,10,20]
    #[arg(long, short, value_delimiter = ',', value_name = "K,K,…")]
    pub k: Option<Vec<usize>>,
    /// Whether to rank the items of a user's history too [default: as in the run's validation]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub keep_seen: Option<bool>,
    /// Also rank the held-out item among this many sampled items, 0 for none; users with fewer items to draw from are
    /// excluded from that ranking, and counted
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub negatives: usize,
    /// How to draw them [default: both]
    #[arg(long, value_enum, value_name = "HOW")]
    pub negative_sampling: Option<NegativeSampling>,
    /// Seed of the draw [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Exclude the validation events from the history that predicts the test (as some published code does)
    #[arg(long, conflicts_with = "part")]
    pub without_validation: bool,
    /// Write one line per user: held-out items, ranks, metrics (tab-separated); for a run that predicts ratings, one
    /// per rating
    #[arg(long, value_name = "FILE")]
    pub per_user: Option<PathBuf>,
    /// Omit the slices by history length and popularity
    #[arg(long)]
    pub no_slices: bool,
    #[command(flatten)]
    pub from: RunFlags,
    /// Number of users per batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub batch: usize,
    #[command(flatten)]
    pub split: SplitFlags,
}

impl Args {
    /// A given flag that only affects sampled negatives.
    fn of_negatives(&self) -> Option<&'static str> {
        let given = [(self.negative_sampling.is_some(), "--negative-sampling"), (self.seed.is_some(), "--seed")];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    // Exiting loses nothing: files are written as a whole at the end.
    super::stop::end_with_parent(|| std::process::exit(1));
    super::thread_pool(args.from.threads)?.install(|| report(&args, printer))
}

fn report(args: &Args, printer: Printer) -> Result<()> {
    let mut run = open_run(&args.run, &args.from)?;
    let path = args.data.clone().unwrap_or_else(|| run.data.clone());
    let data = data_of(&run, args.data.as_deref(), &format!("mipgpu eval {} DATA", typed(&args.run)))?;
    let (json, text, lines, notes) = if run.ratings.is_some() {
        let (report, notes) = measure_ratings(&mut run, &data, args)?;
        (report.json(), report.text(), report.ratings, notes)
    } else {
        let (report, notes) = measure(&mut run, &data, args)?;
        (report.json(), report.text(), report.protocol.users, notes)
    };
    notes.iter().for_each(|note| printer.warn(note));
    if printer.json {
        let mut object = serde_json::json!({ "event": "eval", "run": run.name, "data": path.display().to_string() });
        if let (Some(all), serde_json::Value::Object(report)) = (object.as_object_mut(), json) {
            all.extend(report);
        }
        printer.event(&object);
    } else {
        printer.result(format_args!("model    {}", run.name));
        printer.result(format_args!(
            "data     {} ({} users, {} items, {} events)",
            path.display(),
            digits(data.users() as u64),
            digits(data.items() as u64),
            digits(data.interactions())
        ));
        printer.raw(text);
    }
    if let Some(file) = &args.per_user {
        printer.say(format_args!("wrote {} lines to {}", digits(lines), file.display()));
    }
    Ok(())
}

/// Evaluates a run on a data set as the flags specify; returns the report and warnings.
///
/// # Errors
/// Flags or data that do not fit the run; held-out events that the run was trained on.
pub fn measure(run: &mut OpenRun, data: &Dataset, args: &Args) -> Result<(Report, Vec<String>)> {
    if let (0, Some(flag)) = (args.negatives, args.of_negatives()) {
        return Err(Error::user(format!("{flag} has no effect: no negatives are sampled"))
            .hint("add --negatives 100, or omit it"));
    }
    let (ks, shortened) = list_lengths(args.k.as_deref(), run.item_keys.len())?;
    let spec = args.split.spec(data)?.unwrap_or(run.split);
    let split = Split::for_task(data, spec, run.encoder.last_basket())?;
    let (valid, test) = (split.valid(), split.test());
    let part: &dyn HeldOut = if args.part == SplitPart::Valid { &valid } else { &test };
    let mut notes = run.warnings(data, &split, part)?;
    notes.extend(shortened);
    let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
    notes.extend(map.written_otherwise(data.item_keys(), &run.item_keys));
    let options = EvalOptions {
        ks,
        keep_seen: run.keeps_seen(args.keep_seen, of_baskets(&*run.encoder, part))?,
        without_validation: args.without_validation,
        negatives: args.negatives,
        samplings: match args.negative_sampling.unwrap_or_default() {
            NegativeSampling::Uniform => vec![Sampling::Uniform],
            NegativeSampling::Popularity => vec![Sampling::Popularity],
            NegativeSampling::Both => vec![Sampling::Uniform, Sampling::Popularity],
        },
        baseline: true,
        slices: !args.no_slices,
        batch: args.batch,
        seed: args.seed.unwrap_or(1),
        item_map: Some(&map),
        users: run.user_keys.as_ref(),
    };
    let encoder = &mut *run.encoder;
    let baskets = of_baskets(encoder, part);
    let report = match &args.per_user {
        None => evaluate_each(encoder, data, part, &options, &mut |_| Ok(()))?,
        Some(path) => {
            let mut report = None;
            write_aside(path, |out| {
                let mut line = |text: String| out.write_all(text.as_bytes()).map_err(|e| Error::io(path, &e));
                line(per_user_head(&options, baskets))?;
                let keys = (data.user_keys(), &run.item_keys);
                report = Some(evaluate_each(encoder, data, part, &options, &mut |user| {
                    line(per_user_line(user, keys.0, keys.1, &options))
                })?);
                Ok(())
            })?;
            report.ok_or_else(|| Error::internal("no report"))?
        }
    };
    Ok((report, notes))
}

/// Like [`measure`], for a run that predicts ratings.
///
/// # Errors
/// Flags for lists of items; otherwise as [`measure`].
pub fn measure_ratings(run: &mut OpenRun, data: &Dataset, args: &Args) -> Result<(RatingReport, Vec<String>)> {
    let of_lists = [
        (args.k.is_some(), "--k"),
        (args.keep_seen.is_some(), "--keep-seen"),
        (args.negatives > 0, "--negatives"),
        (args.negative_sampling.is_some(), "--negative-sampling"),
        (args.seed.is_some(), "--seed"),
        (args.no_slices, "--no-slices"),
        (args.without_validation, "--without-validation"),
    ];
    if let Some((_, flag)) = of_lists.iter().find(|(given, _)| *given) {
        return Err(Error::user(format!("{flag} is for lists of items, and this run predicts ratings"))
            .hint("omit it: RMSE and MAE of all held-out ratings are reported"));
    }
    let split = Split::new(data, args.split.spec(data)?.unwrap_or(run.split))?;
    let (valid, test) = (split.valid(), split.test());
    let part: &dyn HeldOut = if args.part == SplitPart::Valid { &valid } else { &test };
    let notes = run.warnings(data, &split, part)?;
    let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
    let range = run.ratings.as_ref().map_or((0.0, 0.0), RatingScale::range);
    let options = RatingOptions { range, batch: args.batch, item_map: Some(&map), users: run.user_keys.as_ref() };
    let encoder = &mut *run.encoder;
    let Some(path) = &args.per_user else {
        return Ok((evaluate_ratings(encoder, data, part, &options, &mut |_| Ok(()))?, notes));
    };
    let mut report = None;
    write_aside(path, |out| {
        let mut line = |text: String| out.write_all(text.as_bytes()).map_err(|e| Error::io(path, &e));
        line("user\titem\trating\tpredicted\n".into())?;
        report = Some(evaluate_ratings(encoder, data, part, &options, &mut |p| {
            let (user, item) = (data.user_keys().key(p.user as usize), data.item_keys().key(p.item as usize));
            line(format!("{}\t{}\t{}\t{}\n", escape(user), escape(item), p.rating, p.predicted))
        })?);
        Ok(())
    })?;
    Ok((report.ok_or_else(|| Error::internal("no report"))?, notes))
}

/// The given ks in ascending order, and a warning if some were reduced; by default those of 1, 5, 10, 20 that fit the
/// catalogue.
fn list_lengths(asked: Option<&[usize]>, catalogue: usize) -> Result<(Vec<usize>, Option<String>)> {
    let (mut ks, shortened) = match asked {
        Some(ks) => shorten(ks, catalogue),
        None => ([1, 5, 10, 20].into_iter().filter(|k| *k <= catalogue.max(1)).collect(), None),
    };
    ks.sort_unstable();
    ks.dedup();
    check_ks(&ks, catalogue)?;
    Ok((ks, shortened))
}

/// Limits list lengths to the catalogue size; returns a warning if some were larger.
pub fn shorten(ks: &[usize], catalogue: usize) -> (Vec<usize>, Option<String>) {
    let beyond: Vec<String> = ks.iter().filter(|k| **k > catalogue).map(usize::to_string).collect();
    let note = (!beyond.is_empty()).then(|| {
        format!("--k {}: more than the {} items of the catalogue; lists are that long", beyond.join(","), catalogue)
    });
    (ks.iter().map(|k| (*k).min(catalogue)).collect(), note)
}

/// Column names of the per-user file.
fn per_user_head(options: &EvalOptions<'_>, baskets: bool) -> String {
    let mut columns: Vec<String> = ["user", "history", "held_out", "rank", "popularity_rank"].map(String::from).into();
    columns.extend(baskets.then(|| "personal_rank".into()));
    if options.negatives > 0 {
        columns.extend(options.samplings.iter().map(|s| match s {
            Sampling::Uniform => format!("rank_among_{}_uniform", options.negatives),
            Sampling::Popularity => format!("rank_among_{}_popular", options.negatives),
        }));
    }
    for k in &options.ks {
        columns.extend([format!("ndcg@{k}"), format!("recall@{k}"), format!("hr@{k}")]);
    }
    columns.extend(["mrr", "map"].map(String::from));
    columns.join("\t") + "\n"
}

/// One line of the per-user file. Several held-out items, and their ranks in the same order, are joined by `|`; the
/// rank of an item that is excluded with the history is `miss`. Ranks among sampled items are empty for a user with too
/// few items to draw from.
fn per_user_line(user: &UserResult, users: &Vocab, items: &Vocab, options: &EvalOptions<'_>) -> String {
    let rank = |r: &usize| if *r == MISS { "miss".to_string() } else { r.to_string() };
    let join = |ranks: &[usize]| ranks.iter().map(rank).collect::<Vec<_>>().join("|");
    let targets: Vec<String> = user.targets.iter().map(|t| escape(items.key(*t as usize))).collect();
    let mut cells = vec![
        escape(users.key(user.user as usize)),
        user.history.to_string(),
        targets.join("|"),
        join(&user.ranks.model),
    ];
    cells.extend(user.ranks.beside().map(|(_, ranks)| join(ranks)));
    cells.extend(user.sampled.iter().map(|ranks| ranks.as_ref().map_or(String::new(), |ranks| join(&ranks.model))));
    for &k in &options.ks {
        let m = at_k(&user.ranks.model, k);
        cells.extend([m.ndcg, m.recall, m.hr].map(|x| x.to_string()));
    }
    cells.extend([reciprocal_rank(&user.ranks.model), average_precision(&user.ranks.model)].map(|x| x.to_string()));
    cells.join("\t") + "\n"
}

/// Escapes the characters that separate cells and lists: `\t`, `\n`, `\r`, `\|`, `\\`.
pub fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for c in key.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '|' => out.push_str("\\|"),
            '\\' => out.push_str("\\\\"),
            _ => out.push(c),
        }
    }
    out
}
