//! `mipgpu export`: item and user vectors with their keys, for other programs.

use std::path::PathBuf;

use super::opened::{OpenRun, RunFlags, open_data, open_run};
use crate::{
    base::{Error, Result},
    cli::printer::Printer,
    data::{Dataset, digits},
    eval::{
        ItemMap,
        vectors::{Format, Sheet, export},
    },
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

/// Writes `items.*` and `users.*` into a folder. The score of an item for a user is the product of their vectors plus the
/// item's bias. A user's vector is that of the whole history, held-out events included.
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
    /// What to write
    #[arg(long, value_enum, value_delimiter = ',', default_value = "items,users", value_name = "WHAT,…")]
    pub what: Vec<What>,
    /// How to write it
    #[arg(long, value_enum, value_delimiter = ',', default_value = "safetensors,parquet", value_name = "FORMAT,…")]
    pub format: Vec<FormatFlag>,
    /// Imported data whose users are written [default: what the run was trained on]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub from: RunFlags,
    /// Users computed at a time
    #[arg(long, default_value_t = 256)]
    pub batch: usize,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let mut run = open_run(&args.run, &args.from)?;
    let data =
        if args.what.contains(&What::Users) { Some(open_data(args.data.as_ref().unwrap_or(&run.data))?) } else { None };
    for (path, rows) in write(&mut run, data.as_ref(), &args)? {
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

/// Writes what the flags ask; gives each file with its number of rows. `data` is needed for users.
///
/// # Errors
/// Data of another vocabulary; what the model and the file system report.
pub fn write(run: &mut OpenRun, data: Option<&Dataset>, args: &Args) -> Result<Vec<(PathBuf, usize)>> {
    if args.batch == 0 {
        return Err(Error::user("a batch of 0 users").hint("give --batch a number from 1 up"));
    }
    // Both have an items.safetensors of their own.
    for (file, what) in [("config.toml", "a run"), ("manifest.json", "a data set")] {
        if args.out.join(file).exists() {
            return Err(Error::user(format!("{}: the folder holds {what}", args.out.display()))
                .hint("choose another folder with --out"));
        }
    }
    let formats: Vec<Format> = [Format::Safetensors, Format::Parquet]
        .into_iter()
        .zip([FormatFlag::Safetensors, FormatFlag::Parquet])
        .filter_map(|(format, flag)| args.format.contains(&flag).then_some(format))
        .collect();
    let width = run.encoder.width();
    let mut written = Vec::new();
    if args.what.contains(&What::Items) {
        let mut bias = vec![0.0; run.item_keys.len()];
        // The biases stand behind or beside the vectors: they are known before the first block is written.
        run.encoder.item_biases(&mut bias)?;
        let sheet = Sheet { name: "items", keys: &run.item_keys, width, bias: Some(&bias) };
        let paths = export(sheet, &args.out, &formats, &mut |rows, out| run.encoder.item_vectors(rows, out))?;
        written.extend(paths.into_iter().map(|p| (p, run.item_keys.len())));
    }
    if let (true, Some(data)) = (args.what.contains(&What::Users), data) {
        let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
        let sheet = Sheet { name: "users", keys: data.user_keys(), width, bias: None };
        let basket = run.encoder.last_basket();
        let encoder = &mut run.encoder;
        let paths = export(sheet, &args.out, &formats, &mut |rows, out| {
            let users: Vec<usize> = rows.collect();
            for (users, out) in users.chunks(args.batch).zip(out.chunks_mut(args.batch * width)) {
                let all = |user: usize| data.items_of(user);
                let events = |user| if basket { data.last_basket_of(user, all(user).len()) } else { all(user) };
                let sequences: Vec<_> = users.iter().map(|u| map.sequence(events(*u))).collect();
                let histories: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
                encoder.encode(&histories, out)?;
            }
            Ok(())
        })?;
        written.extend(paths.into_iter().map(|p| (p, data.users())));
    }
    Ok(written)
}
