/*! `mipgpu clicks`: the probability of a click, learned on top of a trained run.

| topic | module |
|---|---|
| impressions and their histories | [`crate::data::impressions`] |
| held-out parts, leakage, training of the head | [`crate::train::clicks`] |
| metrics | [`crate::eval::clicks`] |

This file opens the run and the data, rejects data without both classes, has the head trained, compares it with its
baselines and writes the folder.

| file | contents |
|---|---|
| `OUT/head.safetensors` | weights, `input.mean`, `input.scale`; metadata: run, vectors and settings |
| `OUT/report.json` | protocol, learning curve, test |
*/

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{
    opened::{RunFlags, data_of, open_run},
    printer::Printer,
    split_flags::SplitFlags,
    stop::flag_on_signal,
};
use crate::{
    base::{
        Error, Result,
        atomic::{make_folder, write_aside, write_atomically},
        error::{IoContext, typed},
    },
    data::{
        Dataset, digits,
        impressions::{Impressions, trained_on},
        keyed::KeyedVectors,
        split::{HeldOut, Split},
    },
    eval::{
        ItemMap,
        clicks::{ClickReport, Rates, probability},
    },
    train::{
        OpenRun, RunFolder, Which, checkpoint,
        clicks::{ClickData, ClickEpoch, ClickSettings, Fitted, Inputs, NO_VECTOR, encode, fit},
        folder::free_name,
        lineage::seen_by_bases,
        lineage_notes,
    },
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Missing {
    /// Stop and list them
    #[default]
    Refuse,
    /// Use the mean of the training impressions
    Mean,
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu import shown.csv --out data/shown                        user, item, time, rating (1: clicked, 0: only shown)
  mipgpu import shown.csv --min-rating 1 --out data/clicked       only the clicks
  mipgpu train data/clicked --out runs/clicked
  mipgpu clicks --from runs/clicked data/shown
  mipgpu clicks --from runs/films data/films --positive 4         star ratings: four or more count as a click
  mipgpu clicks --from runs/clicked data/shown --vectors texts.npy --vector-keys items.txt

The user vector of an impression encodes the clicks in the user's earlier baskets (rows with the
same time form a basket). Earlier held-out clicks are included. A run on --task next-basket encodes
only the last basket with a click. A run with user vectors also uses the vector of the user. AUC and
log-loss are compared with two baselines from the training part: the overall click rate and the
click rate of each item.")]
pub struct Args {
    /// Imported log of impressions, with ratings [default: the data set of the run]
    data: Option<PathBuf>,
    /// Trained run that provides the vectors; it is not changed
    #[arg(long, value_name = "RUN")]
    from: PathBuf,
    /// Folder to create [default: runs/DATA-clicks-N]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Smallest rating that counts as a click
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    positive: f32,
    /// Item vectors to use instead of the run's: safetensors as written by `mipgpu export`, or .npy with --vector-keys
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// Item keys of a .npy file, one per line
    #[arg(long, value_name = "FILE", requires = "vectors")]
    vector_keys: Option<PathBuf>,
    /// How to handle items without a vector
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    missing_vectors: Missing,
    /// Write one line per test impression: user, item, clicked, probability (tab-separated)
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Widths of the hidden layers; 0: none (logistic regression)
    #[arg(long, value_delimiter = ',', default_value = "128,64", value_name = "H,H,…", help_heading = "Head")]
    hidden: Vec<usize>,
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1e-3,
        allow_negative_numbers = true,
        help = "Learning rate",
        help_heading = "Head"
    )]
    lr: f32,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 512,
        help = "Number of impressions per step",
        help_heading = "Head"
    )]
    batch: usize,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        help = "Maximum number of passes over the training impressions",
        help_heading = "Head"
    )]
    epochs: u32,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        help = "Stop after N epochs without improvement on validation; 0: never",
        help_heading = "Head"
    )]
    patience: u32,
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.01,
        allow_negative_numbers = true,
        help = "Weight decay of matrices (AdamW)",
        help_heading = "Head"
    )]
    weight_decay: f32,
    #[arg(
        long,
        value_name = "X",
        default_value_t = 5.0,
        allow_negative_numbers = true,
        help = "Clip gradients to this global norm; 0: never",
        help_heading = "Head"
    )]
    clip: f32,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help = "Seed of the initial weights and of the order of impressions",
        help_heading = "Head"
    )]
    seed: u64,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    split: SplitFlags,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let then = "training ends after this epoch, and the head is discarded";
    let stopped = flag_on_signal(printer, then, || {
        Error::user("ended at once: nothing was written").hint("run the same command to start again")
    });
    super::thread_pool(args.run.threads)?.install(|| learn(&args, &stopped, printer))
}

/// Fails after a signal. A head has no checkpoints, so nothing is kept.
///
/// # Errors
/// A signal has arrived.
fn go_on(stopped: &AtomicBool, epochs: u32) -> Result<()> {
    if stopped.load(Ordering::Relaxed) {
        return Err(Error::user(format!("stopped after {epochs} epochs: nothing was written"))
            .hint("run the same command to start again"));
    }
    Ok(())
}

fn learn(args: &Args, stopped: &AtomicBool, printer: Printer) -> Result<()> {
    let settings = settings(args)?;
    let mut run = open_run(&args.from, &args.run)?;
    if run.ratings.is_some() {
        return Err(Error::user(format!("{}: this run predicts ratings and has no vectors of histories", run.name))
            .hint("use --from with a run that was trained on the clicks with --task masked-item or next-item"));
    }
    let path = args.data.clone().unwrap_or_else(|| run.data.clone());
    let moved = format!("mipgpu clicks --from {} DATA", typed(&args.from));
    let data = data_of(&run, args.data.as_deref(), &moved)?;
    let out = args.out.clone().unwrap_or_else(|| free_name("runs", &path, "clicks"));
    if fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Error::user(format!("{}: the folder is not empty", out.display())).hint("choose a new folder with --out")
        );
    }
    let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
    let impressions = Impressions::read(&data, args.positive, |item| map.item(item))?;
    let parts = ImpressionSets::new(args, &run, &data, &impressions, &printer)?;
    check_classes(&data, &impressions, &parts.train, args.positive)?;
    if parts.valid.is_empty() {
        printer.warn("the split has no validation part: --patience has no effect, and the newest weights are used");
    }
    if args.lr == 0.0 {
        printer.warn("with --lr 0 no weight changes, and nothing is learned");
    }
    let vectors = ItemVectors::read(args, &mut run, &data, &map)?;
    if impressions.unknown_clicks > 0 {
        printer.warn(format_args!(
            "{} clicks on items that the run does not know are missing from the histories",
            digits(impressions.unknown_clicks)
        ));
    }
    if let Some(parent) = args.predictions.as_deref().and_then(Path::parent).filter(|p| *p != Path::new("")) {
        make_folder(parent)?;
    }
    run.strangers(&data).iter().for_each(|note| printer.warn(note));
    // Create the folder first, to fail early. It is removed again if a later step fails.
    let made = Made::new(&out)?;
    introduce(&printer, &path, &run, &impressions, &parts);
    let known = run.known_users(&data);
    let users = encode(&mut *run.encoder, &impressions, &known, &mut |_| {})?;
    let widths = [run.encoder.width(), vectors.width];
    // Free the memory of the model before the head allocates its own.
    let OpenRun { name, .. } = run;
    let ItemVectors { values, row, bias, from, .. } = vectors;
    let inputs = Inputs::new([users, values], widths, row, &impressions, &parts.train);
    let ImpressionSets { train, valid, test, .. } = &parts;
    let learned = ClickData { inputs: &inputs, impressions: &impressions, train, valid, test };
    go_on(stopped, 0)?;
    let fitted = fit(args.run.device, &settings, learned, &mut |epoch| {
        show(&printer, epoch, settings.epochs);
        go_on(stopped, epoch.epoch)
    })?;

    let rows = train.iter().map(|r| &impressions.rows[*r as usize]);
    let rates = Rates::count(data.items(), rows.map(|r| (r.item, r.clicked)));
    let report = |part: &'static str, rows: &[u32], logits: &[f64]| {
        let rows: Vec<_> = rows.iter().map(|r| &impressions.rows[*r as usize]).collect();
        let (items, clicked): (Vec<u32>, Vec<bool>) = rows.iter().map(|r| (r.item, r.clicked)).unzip();
        let scores = bias.as_ref().and_then(|bias| {
            rows.iter().map(|r| Some(inputs.score(r)? + bias[map.item(r.item)? as usize] as f64)).collect()
        });
        let scores: Option<Vec<f64>> = scores;
        ClickReport::new(part, logits, &items, &clicked, &rates, scores.as_deref())
    };
    let (on_valid, on_test) = (report("validation", valid, &fitted.logits[0]), report("test", test, &fitted.logits[1]));
    if on_test.model.auc.is_none() {
        printer.warn("all test impressions have the same label: AUC is undefined");
    }
    let which = if args.run.last { Which::Last } else { Which::Best };
    let checkpoint = checkpoint::open(&RunFolder::new(&args.from).checkpoint(which)?)?.sha256().to_string();
    let belongs = json!({
        "format": "mipgpu.clicks", "version": 1,
        "run": std::path::absolute(&args.from).unwrap_or(args.from.clone()), "checkpoint": checkpoint, "vectors": from,
        "columns": if inputs.product() { "u, v, u*v" } else { "u, v" }, "widths": inputs.widths(),
        "positive": args.positive, "settings": settings,
    });
    write_head(&out.join("head.safetensors"), &belongs, &inputs, &fitted)?;
    made.keep();
    let all = json!({
        "event": "clicks", "folder": out, "run": name, "data": path, "head": belongs,
        "protocol": parts.json(&impressions),
        "best_epoch": fitted.best, "curve": fitted.curve,
        "validation": if valid.is_empty() { Value::Null } else { json!(on_valid) }, "test": on_test,
    });
    write_atomically(&out.join("report.json"), |f| writeln!(f, "{all:#}"))?;
    if let Some(file) = &args.predictions {
        write_predictions(file, &data, &impressions, test, &fitted.logits[1])?;
    }
    if printer.json {
        printer.event(&all);
    } else {
        printer.raw(on_test.text());
        printer.result(format_args!(
            "\nweights of epoch {} in {}",
            fitted.best,
            out.join("head.safetensors").display()
        ));
    }
    Ok(())
}

/// A folder created for results. It is removed again if no results are written.
struct Made(Option<PathBuf>);

impl Made {
    fn new(path: &Path) -> Result<Made> {
        let there = path.exists();
        make_folder(path)?;
        Ok(Made((!there).then(|| path.into())))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // This removes empty folders only.
        let _ = self.0.as_ref().map(fs::remove_dir);
    }
}

/// Returns the settings given by the flags.
fn settings(args: &Args) -> Result<ClickSettings> {
    if !args.positive.is_finite() {
        return Err(Error::user(format!("--positive {} is not a rating", args.positive)).hint("use a finite number"));
    }
    let none = args.hidden == [0];
    let settings = ClickSettings {
        hidden: if none { Vec::new() } else { args.hidden.clone() },
        lr: args.lr,
        batch: args.batch,
        epochs: args.epochs,
        patience: args.patience,
        weight_decay: args.weight_decay,
        clip: args.clip,
        seed: args.seed,
    };
    settings.check().map(|()| settings)
}

/// The rows of each part.
struct ImpressionSets {
    split: Split,
    /// Whether the split cuts at the times at which the run's own split cuts the run's data.
    along: bool,
    train: Vec<u32>,
    valid: Vec<u32>,
    test: Vec<u32>,
    /// Number of users excluded from validation and test because the run was trained on their held-out rows; `None` if
    /// it cannot be determined.
    left_out: Option<usize>,
}

impl ImpressionSets {
    fn new(
        args: &Args,
        run: &OpenRun,
        data: &Dataset,
        impressions: &Impressions,
        printer: &Printer,
    ) -> Result<ImpressionSets> {
        let given = args.split.spec(data)?;
        let seen_data = own_data(run, data);
        let (split, along) = match (given, &seen_data) {
            (Some(spec), _) => (Split::new(data, spec)?, false),
            (None, Some(seen)) if comparable(data, seen) => {
                (Split::along(data, seen, &Split::new(seen, run.split)?)?, true)
            }
            (None, _) => (Split::new(data, run.split)?, false),
        };
        let held = |user: usize| split.valid().held_out(user).start..split.test().held_out(user).end;
        let seen = seen_by_run(run, data, seen_data.as_ref(), held)?;
        if seen.is_none() {
            printer.warn(
                "cannot determine whether the run was trained on impressions held out here: its data set is missing or \
                 has changed, or the two data sets have no comparable times",
            );
        }
        let left_out = seen.as_ref().map(|users| users.iter().filter(|seen| **seen).count());
        let with_held = (0..data.users()).filter(|user| !held(*user).is_empty()).count();
        // A few users with very few clicks can be on the wrong side of any split. More users mean that the splits
        // differ.
        if let Some(n) = left_out.filter(|n| n * 10 > with_held) {
            return Err(Error::user(format!(
                "leak: the run was trained on held-out impressions of {} of {} users (its split: {})",
                digits(n as u64),
                digits(with_held as u64),
                run.split.words(data.ticks_per_second())
            ))
            .hint(match given {
                Some(_) => {
                    "omit the split flags, so that impressions are cut at the times of the run's own split; or train a \
                     run with this split"
                }
                None => "train a run with another split, such as --split time --cut DATE, and use it with --from",
            }));
        }
        for part in [&split.valid() as &dyn HeldOut, &split.test()] {
            let bases = seen_by_bases(run.from.as_ref(), data, part)?;
            lineage_notes(&bases).iter().for_each(|note| printer.warn(format_args!("{}: {note}", part.name())));
        }
        let clean = |user: usize| seen.as_ref().is_none_or(|seen| !seen[user]);
        let of = |part: &dyn HeldOut| impressions.part(|u| if clean(u) { part.held_out(u) } else { 0..0 });
        let train = impressions.part(|u| 0..split.train().len_of(u));
        let (valid, test) = (of(&split.valid()), of(&split.test()));
        if test.is_empty() {
            return Err(Error::user("no test impressions are left")
                .hint("the run was trained on all held-out impressions: train a run with this split"));
        }
        Ok(ImpressionSets { split, along, train, valid, test, left_out })
    }

    fn json(&self, impressions: &Impressions) -> Value {
        let part = |rows: &[u32]| json!({ "impressions": rows.len(), "clicks": impressions.clicks_among(rows) });
        json!({
            "split": self.split.spec(), "cut_where_the_run_was": self.along, "summary": self.split.summary(),
            "history": "clicks in earlier baskets of the user, including earlier held-out ones",
            "train": part(&self.train), "validation": part(&self.valid), "test": part(&self.test),
            "left_out_users_trained_on": self.left_out,
        })
    }
}

/// Returns the run's own data set if it differs from `data` and is unchanged since the training.
fn own_data(run: &OpenRun, data: &Dataset) -> Option<Dataset> {
    if data.fingerprint() == run.data_fingerprint {
        return None;
    }
    Dataset::open(&run.data).ok().filter(|seen| seen.fingerprint() == run.data_fingerprint)
}

/// Returns whether the times of both data sets can be compared.
fn comparable(data: &Dataset, seen: &Dataset) -> bool {
    data.has_times() && seen.has_times() && data.ticks_per_second() == seen.ticks_per_second()
}

/// Returns for each user whether the run was trained on held-out rows of the user, or `None` if it cannot be
/// determined.
/// `own` is the result of [`own_data`].
fn seen_by_run(
    run: &OpenRun,
    data: &Dataset,
    own: Option<&Dataset>,
    held: impl Fn(usize) -> std::ops::Range<usize>,
) -> Result<Option<Vec<bool>>> {
    match own {
        _ if data.fingerprint() == run.data_fingerprint => {
            Ok(trained_on(data, held, data, &Split::new(data, run.split)?))
        }
        Some(seen) => Ok(trained_on(data, held, seen, &Split::new(seen, run.split)?)),
        None => Ok(None),
    }
}

/// Checks that the training impressions include clicks and non-clicks.
///
/// # Errors
/// All of them are clicks, or none is.
fn check_classes(data: &Dataset, impressions: &Impressions, train: &[u32], positive: f32) -> Result<()> {
    let clicks = impressions.clicks_among(train);
    if clicks > 0 && clicks < train.len() as u64 {
        return Ok(());
    }
    let ratings = (0..data.users()).flat_map(|u| data.ratings_of(u).unwrap_or_default());
    let (least, most) = ratings.fold((f32::MAX, f32::MIN), |(a, b), r| (a.min(*r), b.max(*r)));
    let kind = if clicks == 0 { "none of" } else { "all of" };
    Err(Error::user(format!(
        "{kind} the {} training impressions are clicks (ratings of {positive} or more; they run from {least} to \
         {most})",
        digits(train.len() as u64)
    ))
    .hint(
        "training requires both classes: set --positive to the smallest rating that is a click, or import the \
         impressions without a click too",
    ))
}

/// The vectors of the items of the data.
struct ItemVectors {
    values: Vec<f32>,
    width: usize,
    row: Vec<u32>,
    /// The run's item biases, if its vectors are used.
    bias: Option<Vec<f32>>,
    /// The file of the vectors, if they are not the run's.
    from: Option<PathBuf>,
}

impl ItemVectors {
    fn read(args: &Args, run: &mut OpenRun, data: &Dataset, map: &ItemMap) -> Result<ItemVectors> {
        let keys = data.item_keys();
        let vectors = match &args.vectors {
            Some(path) => {
                let file = KeyedVectors::read(path, args.vector_keys.as_deref())?;
                let row = keys.keys().map(|key| file.find(key).unwrap_or(NO_VECTOR)).collect();
                ItemVectors { values: file.values, width: file.width, row, bias: None, from: Some(path.clone()) }
            }
            None => {
                let (width, items) = (run.encoder.width(), run.encoder.items());
                let (mut values, mut bias) = (vec![0.0; items * width], vec![0.0; items]);
                run.encoder.item_vectors(0..items, &mut values)?;
                run.encoder.item_biases(&mut bias)?;
                let row = (0..keys.len() as u32).map(|item| map.item(item).unwrap_or(NO_VECTOR)).collect();
                ItemVectors { values, width, row, bias: Some(bias), from: None }
            }
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|item| vectors.row[*item] == NO_VECTOR).collect();
        let all = missing.len() == keys.len();
        if !missing.is_empty() && (all || args.missing_vectors == Missing::Refuse) {
            let names: Vec<String> = missing.iter().take(5).map(|item| format!("'{}'", keys.key(*item))).collect();
            let whose = vectors.from.as_deref().map_or("the run".to_string(), |path| path.display().to_string());
            let more = if missing.len() > names.len() { ", …" } else { "" };
            return Err(Error::user(format!(
                "{whose} has no vectors for {} of the data's {} items: {}{more}",
                digits(missing.len() as u64),
                digits(keys.len() as u64),
                names.join(", ")
            ))
            .hint(match all {
                true => "vectors are matched by item key: use the keys of the data set",
                false => "use --vectors with vectors of all items, or add --missing-vectors mean",
            }));
        }
        Ok(vectors)
    }
}

fn introduce(printer: &Printer, data: &Path, run: &OpenRun, impressions: &Impressions, parts: &ImpressionSets) {
    let part = |rows: &[u32]| {
        let share = 100.0 * impressions.clicks_among(rows) as f64 / rows.len().max(1) as f64;
        format!("{} ({share:.2} % clicked)", digits(rows.len() as u64))
    };
    printer.say(format_args!("data    {}", data.display()));
    printer.say(format_args!("from    {}", run.name));
    let ticks = parts.split.summary().ticks_per_second;
    let along = if parts.along { "; applied to the run's own data, impressions are cut at the same times" } else { "" };
    printer.say(format_args!("split   {}{along}", parts.split.spec().words(ticks)));
    printer.say(format_args!(
        "        impressions: {} train, {} validate, {} test",
        part(&parts.train),
        part(&parts.valid),
        part(&parts.test)
    ));
    if let Some(tied) = parts.split.summary().tied_test_users.filter(|n| *n > 0) {
        printer.say(format_args!(
            "        for {} users the first test row has the same time as the row before it: --split time keeps such \
             rows together",
            digits(tied as u64)
        ));
    }
    if let Some(n) = parts.left_out.filter(|n| *n > 0) {
        printer.say(format_args!(
            "        excluded from validation and test: {} users, because the run was trained on their held-out rows",
            digits(n as u64)
        ));
    }
    printer.say(format_args!("users   {} distinct histories to encode", digits(impressions.histories() as u64)));
}

fn show(printer: &Printer, row: &ClickEpoch, epochs: u32) {
    let valid = row.valid.map_or(String::new(), |v| {
        let auc = v.auc.map_or("-".into(), |auc| format!("{auc:.4}"));
        format!("   validation log-loss {:.4}, AUC {auc}", v.log_loss)
    });
    printer.say(format_args!("epoch {:>3}/{epochs}   loss {:.4}{valid}", row.epoch, row.loss));
}

/// Writes the weights and the mean and scale of the inputs as named tensors.
fn write_head(path: &Path, belongs: &Value, inputs: &Inputs, fitted: &Fitted) -> Result<()> {
    let columns = vec![inputs.width()];
    let mut tensors = vec![("input.mean", &columns, &inputs.mean), ("input.scale", &columns, &inputs.scale)];
    tensors.extend(fitted.weights.iter().map(|(name, shape, values)| (name.as_str(), shape, values)));
    let broken = |e: safetensors::SafeTensorError| Error::internal(format!("{}: {e}", path.display()));
    let views: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            let bytes = bytemuck::cast_slice(values.as_slice());
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(broken)?;
    let metadata = HashMap::from([("mipgpu".to_string(), belongs.to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
    write_aside(path, |out| out.write_all(&bytes).at_path(path))
}

fn write_predictions(
    path: &Path,
    data: &Dataset,
    impressions: &Impressions,
    rows: &[u32],
    logits: &[f64],
) -> Result<()> {
    write_aside(path, |out| {
        let mut line = |text: String| out.write_all(text.as_bytes()).at_path(path);
        line("user\titem\tclicked\tprobability\n".into())?;
        rows.iter().zip(logits).try_for_each(|(row, z)| {
            let r = &impressions.rows[*row as usize];
            let (user, item) = (data.user_keys().key(r.user as usize), data.item_keys().key(r.item as usize));
            line(format!("{user}\t{item}\t{}\t{:.6}\n", u8::from(r.clicked), probability(*z)))
        })
    })
}
