//! What an import is asked for: how to read a log, which rows to drop, how much memory to use, when to stop.

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use crate::{
    base::{Error, Result},
    data::import::{decode::Encoding, grammar::Quotes, keys::Missing},
};

/// What to do when a user has the same item more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Repeats are part of the history
    #[default]
    Keep,
    /// Only the earliest counts
    First,
    /// Only the latest counts
    Last,
}

/// Selects rows with one of some values in a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Where {
    pub column: String,
    pub values: Vec<String>,
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Where, String> {
        match text.split_once('=') {
            Some((column, values)) if !column.trim().is_empty() => Ok(Where {
                column: column.trim().to_owned(),
                values: values.split(',').map(|v| v.trim().to_owned()).collect(),
            }),
            _ => Err("write the column and its values, such as event=purchase,addtocart".into()),
        }
    }
}

/// How to read a log, which rows to drop, and how much memory to use.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Columns by name or by number from 1; `None` = guess. Time and rating may be `none`, which ignores them.
    /// Rows of one user with the same text in `basket_col` form a basket; `None` = rows with equal times do.
    pub user_col: Option<String>,
    pub item_col: Option<String>,
    pub time_col: Option<String>,
    pub rating_col: Option<String>,
    pub basket_col: Option<String>,
    /// One character, `::`, `tab`, `comma`, `semicolon`, `pipe` or `space`; `None` = guess.
    pub delimiter: Option<String>,
    /// What separates the elements of a list: as for `delimiter`; `none`: there are no lists; `None` = guess.
    pub list_sep: Option<String>,
    /// Format of dates, as in strptime; `None` = ISO 8601.
    pub time_format: Option<String>,
    /// Time zone of dates without one; `None` = UTC.
    pub time_zone: Option<String>,
    /// How to read quotes in delimited text.
    pub quotes: Quotes,
    /// How text is encoded.
    pub encoding: Encoding,
    /// Treat the first row as data, whatever it contains.
    pub no_header: bool,
    /// Read only rows with one of the values in each of these columns. Applied before all other filters.
    pub wheres: Vec<Where>,
    /// Drop rows rated below this, before anything else is counted.
    pub min_rating: Option<f32>,
    /// Lowest and highest valid rating: rows rated outside are bad rows.
    pub rating_range: Option<[f32; 2]>,
    pub duplicates: Duplicates,
    /// The k-core: every user keeps at least `min_user` interactions and every item `min_item`. 0 and 1 keep all.
    pub min_user: u32,
    pub min_item: u32,
    /// A table with side fields of the items.
    pub items: Option<PathBuf>,
    /// Columns of that table to read; empty = all.
    pub item_fields: Vec<String>,
    /// Earliest and latest valid time, as numbers in the log's unit or as dates: rows outside are bad rows.
    pub time_range: Option<[String; 2]>,
    /// What to do with rows without a user or an item. `None`: words like NA are keys, with a warning if they have
    /// suspiciously many rows.
    pub missing: Option<Missing>,
    /// Read keys like `3.0` as `3`.
    pub whole_keys: bool,
    /// Drop bad rows instead of stopping at the first.
    pub skip_bad: bool,
    /// Replace an existing data set at the output path.
    pub force: bool,
    /// Memory limit of the import, in bytes. Rows beyond it go to temporary files next to the output.
    pub memory_bytes: u64,
    /// Shard size in interactions. A user is never split.
    pub shard_interactions: u64,
    /// Set by the caller (Ctrl-C) to stop the import; it then leaves no files behind.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions {
            user_col: None,
            item_col: None,
            time_col: None,
            rating_col: None,
            basket_col: None,
            delimiter: None,
            list_sep: None,
            time_format: None,
            time_zone: None,
            wheres: Vec::new(),
            quotes: Quotes::Auto,
            encoding: Encoding::Utf8,
            no_header: false,
            min_rating: None,
            rating_range: None,
            duplicates: Duplicates::Keep,
            min_user: 0,
            min_item: 0,
            items: None,
            item_fields: Vec::new(),
            time_range: None,
            missing: None,
            whole_keys: false,
            skip_bad: false,
            force: false,
            memory_bytes: 2048 << 20,
            shard_interactions: 32 << 20,
            cancel: None,
        }
    }
}

/// Fails if the caller has stopped the import.
pub(crate) fn cancelled(options: &ImportOptions) -> Result<()> {
    match &options.cancel {
        Some(flag) if flag.load(Ordering::Relaxed) => {
            Err(Error::user("interrupted; nothing was written").hint("run the import again"))
        }
        _ => Ok(()),
    }
}
