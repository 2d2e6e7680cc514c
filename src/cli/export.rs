//! `mipgpu export`: writes item and user vectors with their keys, for other programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::opened::{RunFlags, data_of, open_run};
use crate::{
    base::{
        Error, Result,
        atomic::make_folder,
        error::{IoContext, typed},
    },
    cli::printer::Printer,
    data::{Dataset, digits},
    eval::{
        ItemMap, Query,
        vectors::{Format, Sheet, checkpoint_of, export},
    },
    train::{OpenRun, RunFolder, Which, checkpoint},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    Items,
    Users,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatFlag {
    Safetensors,
    Parquet,
}

/// Writes `items.*` and `users.*` into a folder. The score of an item for a user is the dot product of their vectors
/// plus the item's bias. A user's vector encodes the whole history, including held-out events.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu export runs/mine --out vectors
  mipgpu export runs/mine --out vectors --what items --format parquet")]
pub struct Args {
    /// Folder of the trained run
    pub run: PathBuf,
    /// Folder to write into
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which vectors to write
    #[arg(long, value_enum, value_delimiter = ',', default_value = "items,users", value_name = "WHAT,…")]
    pub what: Vec<What>,
    /// File formats
    #[arg(long, value_enum, value_delimiter = ',', default_value = "safetensors,parquet", value_name = "FORMAT,…")]
    pub format: Vec<FormatFlag>,
    /// Data set folder with the users to write [default: the data set of the run]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Replace vectors of another run or checkpoint; those of its files that are not rewritten are removed
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub from: RunFlags,
    /// Number of users per batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub batch: usize,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    super::thread_pool(args.from.threads)?.install(|| put(&args, printer))
}

fn put(args: &Args, printer: Printer) -> Result<()> {
    let mut run = open_run(&args.run, &args.from)?;
    let moved = format!("mipgpu export {} --data DIR", typed(&args.run));
    let users = args.what.contains(&What::Users);
    let data = users.then(|| data_of(&run, args.data.as_deref(), &moved)).transpose()?;
    let which = if args.from.last { Which::Last } else { Which::Best };
    let checkpoint = checkpoint::open(&RunFolder::new(&args.run).checkpoint(which)?)?;
    for (path, rows) in write(&mut run, data.as_ref(), checkpoint.sha256(), args)? {
        if printer.json {
            let width = run.encoder.width();
            let path = path.display().to_string();
            printer.event(&serde_json::json!({ "event": "export", "file": path, "rows": rows, "width": width }));
        } else {
            printer.result(format_args!(
                "{}  {} vectors of {}",
                path.display(),
                digits(rows as u64),
                run.encoder.width()
            ));
        }
    }
    Ok(())
}

/// Returns vector files in a folder that are not of this checkpoint. Items of one checkpoint and users of another have
/// the same shapes, but their products are meaningless.
///
/// # Errors
/// A file has the name of a vector file but is not one.
fn strangers(out: &Path, checkpoint: &str) -> Result<Vec<PathBuf>> {
    let mut strangers = Vec::new();
    for path in ["items", "users"].into_iter().flat_map(|stem| FORMATS.map(|format| place(out, stem, format))) {
        if !path.exists() {
            continue;
        }
        match checkpoint_of(&path) {
            Some(theirs) if theirs == checkpoint => {}
            Some(_) => strangers.push(path),
            None => {
                return Err(Error::user(format!("{}: this file holds no vectors of mipgpu", path.display()))
                    .hint("move it away, or choose another folder with --out"));
            }
        }
    }
    Ok(strangers)
}

/// The path of one kind of vectors.
fn place(out: &Path, stem: &str, format: Format) -> PathBuf {
    out.join(format!("{stem}.{}", format.extension()))
}

const FORMATS: [Format; 2] = [Format::Safetensors, Format::Parquet];

/// Writes the vectors that the flags select; returns each file with its number of rows. `data` is required for users,
/// `checkpoint` is the SHA-256 of the weights. All files are renamed to their final names once all are complete.
///
/// # Errors
/// The folder has vectors of another checkpoint; the data have another vocabulary; the model or the file system fails.
pub fn write(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    checkpoint: &str,
    args: &Args,
) -> Result<Vec<(PathBuf, usize)>> {
    let made = !args.out.exists();
    let written = write_into(run, data, checkpoint, args);
    if made && written.is_err() {
        // Removes the folder only if it is empty and was created here.
        let _ = fs::remove_dir(&args.out);
    }
    written
}

fn write_into(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    checkpoint: &str,
    args: &Args,
) -> Result<Vec<(PathBuf, usize)>> {
    if args.batch == 0 {
        return Err(Error::user("--batch 0 is out of range").hint("give --batch a number from 1 up"));
    }
    // Run and data folders have a different items.safetensors.
    for (file, what) in [("config.toml", "a run"), ("manifest.json", "a data set")] {
        if args.out.join(file).exists() {
            return Err(Error::user(format!("{}: the folder holds {what}", args.out.display()))
                .hint("choose another folder with --out"));
        }
    }
    let formats: Vec<Format> = FORMATS
        .into_iter()
        .zip([FormatFlag::Safetensors, FormatFlag::Parquet])
        .filter_map(|(format, flag)| args.format.contains(&flag).then_some(format))
        .collect();
    let stems =
        [(What::Items, "items"), (What::Users, "users")].into_iter().filter(|(what, _)| args.what.contains(what));
    let written: Vec<PathBuf> =
        stems.flat_map(|(_, stem)| formats.iter().map(move |format| place(&args.out, stem, *format))).collect();
    let mut strangers = strangers(&args.out, checkpoint)?;
    if let (Some(first), false) = (strangers.first(), args.force) {
        return Err(Error::user(format!(
            "{}: vectors of another run or checkpoint are in the folder ({} files)",
            first.display(),
            strangers.len()
        ))
        .hint("choose another folder with --out, or replace them with --force"));
    }
    // Rewritten files are replaced; other files of another checkpoint must be removed.
    strangers.retain(|path| !written.contains(path));
    make_folder(&args.out)?;
    let width = run.encoder.width();
    let mut written = Vec::new();
    if args.what.contains(&What::Items) {
        let mut bias = vec![0.0; run.item_keys.len()];
        // Depending on the format, biases come after the vectors or next to them, so they are computed before the first
        // block is written.
        run.encoder.item_biases(&mut bias)?;
        let sheet = Sheet { name: "items", keys: &run.item_keys, width, bias: Some(&bias), checkpoint };
        let files = export(sheet, &args.out, &formats, &mut |rows, out| run.encoder.item_vectors(rows, out))?;
        written.extend(files.into_iter().map(|file| (file, run.item_keys.len())));
    }
    if let (true, Some(data)) = (args.what.contains(&What::Users), data) {
        let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
        let sheet = Sheet { name: "users", keys: data.user_keys(), width, bias: None, checkpoint };
        let basket = run.encoder.last_basket();
        let (encoder, known) = (&mut run.encoder, &run.user_keys);
        let files = export(sheet, &args.out, &formats, &mut |rows, out| {
            let users: Vec<usize> = rows.collect();
            for (users, out) in users.chunks(args.batch).zip(out.chunks_mut(args.batch * width)) {
                let all = |user: usize| data.items_of(user);
                let events = |user| if basket { data.last_basket_of(user, all(user).len()) } else { all(user) };
                let sequences: Vec<_> = users.iter().map(|u| map.sequence(events(*u))).collect();
                let user = |user: &usize| known.as_ref()?.find(data.user_keys().key(*user));
                let ask = |(history, of): (_, &usize)| Query { history, user: user(of), ..Query::default() };
                let queries: Vec<Query> = sequences.iter().map(|s| &s[..]).zip(users).map(ask).collect();
                encoder.encode(&queries, out)?;
            }
            Ok(())
        })?;
        written.extend(files.into_iter().map(|file| (file, data.users())));
    }
    // Remove all old vector files first, so that old and new ones never coexist.
    for path in &strangers {
        fs::remove_file(path).at_path(path)?;
    }
    written.into_iter().map(|(file, rows)| Ok((file.put()?, rows))).collect()
}
