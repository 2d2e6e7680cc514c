//! Writes the vectors of a run into a folder: `items.*` and `users.*`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::OpenRun;
use crate::{
    base::{Error, Result, atomic::make_folder, error::IoContext},
    data::Dataset,
    eval::{
        ItemMap, Query,
        vectors::{Format, Sheet, checkpoint_of, export},
    },
};

/// What is written, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    pub items: bool,
    pub users: bool,
    pub formats: Vec<Format>,
    /// Whether vectors of another run or checkpoint in the folder are replaced; they are an error otherwise.
    pub force: bool,
    /// Number of users per batch.
    pub batch: usize,
}

impl Default for ExportOptions {
    /// Items and users in all formats.
    fn default() -> Self {
        ExportOptions { items: true, users: true, formats: FORMATS.to_vec(), force: false, batch: 256 }
    }
}

/// A file of vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub path: PathBuf,
    /// Number of vectors.
    pub rows: usize,
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

/// Writes vectors into the folder `out`. `data` is required for users, `checkpoint` is the SHA-256 of the weights. All
/// files are renamed to their final names once all are complete.
///
/// # Errors
/// The folder holds a run, a data set or vectors of another checkpoint; the data have another vocabulary; the model or
/// the file system fails.
pub fn export_vectors(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    checkpoint: &str,
    out: &Path,
    options: &ExportOptions,
) -> Result<Vec<Exported>> {
    let made = !out.exists();
    let written = write_into(run, data, checkpoint, out, options);
    if made && written.is_err() {
        // Removes the folder only if it is empty and was created here.
        let _ = fs::remove_dir(out);
    }
    written
}

fn write_into(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    checkpoint: &str,
    out: &Path,
    options: &ExportOptions,
) -> Result<Vec<Exported>> {
    if options.batch == 0 {
        return Err(Error::user("--batch 0 is out of range").hint("give --batch a number from 1 up"));
    }
    // Run and data folders have a different items.safetensors.
    for (file, what) in [("config.toml", "a run"), ("manifest.json", "a data set")] {
        if out.join(file).exists() {
            return Err(Error::user(format!("{}: the folder holds {what}", out.display()))
                .hint("choose another folder with --out"));
        }
    }
    let formats: Vec<Format> = FORMATS.into_iter().filter(|format| options.formats.contains(format)).collect();
    let stems = [(options.items, "items"), (options.users, "users")].into_iter().filter(|(wanted, _)| *wanted);
    let written: Vec<PathBuf> =
        stems.flat_map(|(_, stem)| formats.iter().map(move |format| place(out, stem, *format))).collect();
    let mut strangers = strangers(out, checkpoint)?;
    if let (Some(first), false) = (strangers.first(), options.force) {
        return Err(Error::user(format!(
            "{}: vectors of another run or checkpoint are in the folder ({} files)",
            first.display(),
            strangers.len()
        ))
        .hint("choose another folder with --out, or replace them with --force"));
    }
    // Rewritten files are replaced; other files of another checkpoint must be removed.
    strangers.retain(|path| !written.contains(path));
    make_folder(out)?;
    let width = run.encoder.width();
    let mut written = Vec::new();
    if options.items {
        let mut bias = vec![0.0; run.item_keys.len()];
        // Depending on the format, biases come after the vectors or next to them, so they are computed before the first
        // block is written.
        run.encoder.item_biases(&mut bias)?;
        let sheet = Sheet { name: "items", keys: &run.item_keys, width, bias: Some(&bias), checkpoint };
        let files = export(sheet, out, &formats, &mut |rows, block| run.encoder.item_vectors(rows, block))?;
        written.extend(files.into_iter().map(|file| (file, run.item_keys.len())));
    }
    if let (true, Some(data)) = (options.users, data) {
        let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
        let sheet = Sheet { name: "users", keys: data.user_keys(), width, bias: None, checkpoint };
        let basket = run.encoder.last_basket();
        let (encoder, known) = (&mut run.encoder, &run.user_keys);
        let files = export(sheet, out, &formats, &mut |rows, block| {
            let users: Vec<usize> = rows.collect();
            for (users, out) in users.chunks(options.batch).zip(block.chunks_mut(options.batch * width)) {
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
    written.into_iter().map(|(file, rows)| Ok(Exported { path: file.put()?, rows })).collect()
}
