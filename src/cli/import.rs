//! `mipgpu import`: converts a log of interactions to a data set folder.

use std::path::{Path, PathBuf};

use crate::{
    base::{Error, Result, error::typed},
    cli::printer::Printer,
    data::{Duplicates, Encoding, ImportOptions, ImportSummary, Missing, Quotes, Where, digits, import},
};

/// The flags of `mipgpu import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu import ratings.csv --out data/mine
  mipgpu import clicks.parquet --out data/clicks --min-user 5 --min-item 5
  mipgpu import events.csv --where event=addtocart,transaction --out data/shop
  zcat events.jsonl.gz | mipgpu import - --item-col product.id --out data/shop
  mipgpu import log.txt.gz --no-header --user-col 2 --item-col 1 --time-col 4 --out data/log
  mipgpu import ml-1m/ratings.dat --items ml-1m/movies.dat --item-fields genres --out data/ml-1m

Formats: CSV, TSV and similar, MovieLens .dat, RecBole .inter, plain `user item` lines, JSON lines,
lines of a user and all of the user's items; each also as .gz or .zst; Parquet. All files of a
folder are read; `-` is standard input.
Times are numbers (s, ms, us, ns since 1970) or ISO 8601 dates. Without times, the order of the rows
is used.
Filters apply in this order: --where, bad rows, --min-rating, --duplicates, --min-user/--min-item.")]
pub struct Args {
    /// Log to import: a file (CSV, TSV, JSON lines, Parquet, …), a folder of parts, or `-` for standard input; several
    /// are read as one log, in this order
    #[arg(required = true, value_name = "LOG")]
    sources: Vec<PathBuf>,
    /// Folder to create; it must not exist yet (see --force)
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    /// Column of the user, by name or by number from 1 (default: detected and printed)
    #[arg(long, value_name = "COL", help_heading = "Reading")]
    user_col: Option<String>,
    /// Column of the item
    #[arg(long, value_name = "COL", help_heading = "Reading")]
    item_col: Option<String>,
    /// Column of the time; `none`: use the order of the rows
    #[arg(long, value_name = "COL", help_heading = "Reading")]
    time_col: Option<String>,
    /// Format of dates, as in strptime: '%m/%d/%Y %H:%M' (default: ISO 8601, such as 2015-03-09 18:30)
    #[arg(long, value_name = "FORMAT", help_heading = "Reading")]
    time_format: Option<String>,
    /// Time zone of dates without one, such as Europe/Berlin (default: UTC)
    #[arg(long, value_name = "ZONE", help_heading = "Reading")]
    time_zone: Option<String>,
    /// Column of the rating; `none`: ignore ratings
    #[arg(long, value_name = "COL", help_heading = "Reading")]
    rating_col: Option<String>,
    /// Column of the basket: rows of a user with the same value form a basket (default: rows with the same time do)
    #[arg(long, value_name = "COL", help_heading = "Reading")]
    basket_col: Option<String>,
    /// Separator of columns: one character, `::`, tab, comma, semicolon, pipe or space (default: detected)
    #[arg(long, value_name = "SEP", help_heading = "Reading")]
    delimiter: Option<String>,
    /// Separator of items in rows that hold whole histories, oldest first: one character, space, tab, comma, semicolon
    /// or pipe; `none`: rows hold no histories (default: detected if it is unambiguous)
    #[arg(long, value_name = "SEP", help_heading = "Reading")]
    list_sep: Option<String>,
    /// Meaning of quotes; with auto, a row with ambiguous quotes is a bad row
    #[arg(long, value_enum, default_value_t, value_name = "RULE", help_heading = "Reading")]
    quotes: Quotes,
    /// Encoding of the text
    #[arg(long, value_enum, default_value_t, value_name = "NAME", help_heading = "Reading")]
    encoding: Encoding,
    /// The first row is data, not names
    #[arg(long, help_heading = "Reading")]
    no_header: bool,
    /// Range of valid ratings, both ends included; a row with another rating is a bad row
    #[arg(long, value_name = "LEAST,MOST", value_parser = range, allow_hyphen_values = true, help_heading = "Reading")]
    rating_range: Option<Range>,
    /// Range of valid times, both ends included, as dates or as numbers in the log's unit; a row with another time is a
    /// bad row
    #[arg(
        long,
        value_name = "FROM,TO",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true,
        help_heading = "Reading"
    )]
    time_range: Vec<String>,
    /// How to handle rows without a user or an item: an empty cell, a null, or a word like NA, nan, None, null, \N
    /// [default: warn if such a word looks like a missing value]
    #[arg(long, value_enum, value_name = "RULE", help_heading = "Reading")]
    missing: Option<Missing>,
    /// Read keys like 3.0 and 3.00 as 3
    #[arg(long, help_heading = "Reading")]
    whole_keys: bool,
    /// Skip bad rows (counted, the first few printed) instead of stopping at the first one
    #[arg(long, help_heading = "Reading")]
    skip_bad: bool,

    /// Keep only rows in which the column has one of the values, such as event=purchase,addtocart; if repeated, all
    /// conditions must hold
    #[arg(long = "where", value_name = "COL=VALUES", help_heading = "Filters")]
    wheres: Vec<Where>,
    /// Drop rows with a rating below X
    #[arg(long, value_name = "X", help_heading = "Filters")]
    min_rating: Option<f32>,
    /// How to handle repeated items of a user
    #[arg(long, value_enum, default_value_t, value_name = "RULE", help_heading = "Filters")]
    duplicates: Duplicates,
    /// Drop users with fewer than N interactions (with --min-item a k-core: repeated until no user or item is below)
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Filters")]
    min_user: u32,
    /// Drop items with fewer than N interactions
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Filters")]
    min_item: u32,

    /// Table of side fields of the items (genres, director, …), one row per item, several values separated by `|`; the
    /// log itself if it holds the fields
    #[arg(long, value_name = "FILE", help_heading = "Items")]
    items: Option<PathBuf>,
    /// Columns of --items to import (default: all)
    #[arg(long, value_name = "COLS", value_delimiter = ',', help_heading = "Items")]
    item_fields: Vec<String>,

    /// Replace an existing data set
    #[arg(long, help_heading = "Work")]
    force: bool,
    /// Memory to use; further rows are stored in temporary files next to the output
    #[arg(long, default_value_t = 2048, value_name = "MB", value_parser = at_least_one(), help_heading = "Work")]
    memory_mb: u64,
}

/// The minimum and the maximum rating.
type Range = [f32; 2];

fn range(text: &str) -> std::result::Result<Range, String> {
    let ends: Option<Vec<f32>> = text.split(',').map(|end| end.trim().parse().ok()).collect();
    match ends.as_deref() {
        Some(&[least, most]) if least.is_finite() && most.is_finite() && least <= most => Ok([least, most]),
        _ => Err("write the minimum and the maximum rating, such as 0.5,5".into()),
    }
}

fn times(ends: Vec<String>) -> Result<Option<[String; 2]>> {
    match <[String; 2]>::try_from(ends) {
        Ok(ends) => Ok(Some(ends)),
        Err(ends) if ends.is_empty() => Ok(None),
        Err(_) => Err(Error::user("--time-range requires two times")
            .hint("write the earliest and the latest: --time-range 2000-01-01,2030-01-01")),
    }
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..)
}

/// Runs the import.
pub fn run(args: Args, printer: Printer) -> Result<()> {
    let cancel = super::stop::cancel_on_signal(printer);
    if args.min_rating.is_some_and(f32::is_nan) {
        return Err(Error::user("--min-rating is not a number"));
    }
    if let (Some(field), None) = (args.item_fields.first(), &args.items) {
        let log = args.sources.first().map_or_else(|| "FILE".into(), typed);
        return Err(Error::user(format!("--item-fields {field} requires a table of items")).hint(format!(
            "add --items FILE, a table with one row per item; if the log itself has these columns: --items {log}"
        )));
    }
    let options = ImportOptions {
        user_col: args.user_col,
        item_col: args.item_col,
        time_col: args.time_col,
        rating_col: args.rating_col,
        basket_col: args.basket_col,
        delimiter: args.delimiter,
        list_sep: args.list_sep,
        time_format: args.time_format,
        time_zone: args.time_zone,
        wheres: args.wheres,
        quotes: args.quotes,
        encoding: args.encoding,
        no_header: args.no_header,
        min_rating: args.min_rating,
        rating_range: args.rating_range,
        duplicates: args.duplicates,
        min_user: args.min_user,
        min_item: args.min_item,
        items: args.items,
        item_fields: args.item_fields,
        time_range: times(args.time_range)?,
        missing: args.missing,
        whole_keys: args.whole_keys,
        skip_bad: args.skip_bad,
        force: args.force,
        memory_bytes: args.memory_mb.saturating_mul(1 << 20),
        cancel: Some(cancel),
        ..ImportOptions::default()
    };
    let summary = import(&args.sources, &args.out, &options, &mut |notice| printer.notice(notice))?;
    finish(&args.out, &summary, &options, "import", &printer)
}

/// Prints the summary of an import as text, or as a JSON object of type `event`.
pub(super) fn finish(
    out: &Path,
    summary: &ImportSummary,
    options: &ImportOptions,
    event: &str,
    printer: &Printer,
) -> Result<()> {
    if let (Some([least, most]), Some(below)) = (summary.ratings, summary.other_ratings_below) {
        let far = if -least > most { least } else { most };
        printer.warn(format_args!(
            "a rating of {far} is far from the others, which are below {below}; if it is invalid, give the valid range \
             with --rating-range LEAST,MOST"
        ));
    }
    if printer.json {
        let summary = serde_json::to_value(summary).map_err(|e| Error::internal(e.to_string()))?;
        let mut event = serde_json::json!({ "event": event, "out": out.display().to_string() });
        if let (Some(all), serde_json::Value::Object(summary)) = (event.as_object_mut(), summary) {
            all.extend(summary);
        }
        printer.event(&event);
        return Ok(());
    }
    printer.raw(describe(&out.display().to_string(), summary, options));
    printer.say(format!("next: mipgpu train {}", typed(out)));
    Ok(())
}

/// Formats the summary as text.
fn describe(out: &str, s: &ImportSummary, options: &ImportOptions) -> String {
    let mut lines = vec![format!(
        "{out}: {} users, {} items, {} interactions",
        digits(s.users),
        digits(s.items),
        digits(s.interactions)
    )];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<11} {text}"));
    line("rows read", digits(s.rows));
    for (count, what) in [
        (s.dropped_bad, "bad rows"),
        (s.dropped_where, "not of --where"),
        (s.dropped_rating, "rated below --min-rating"),
        (s.dropped_missing, "rows without a user or an item"),
        (s.dropped_duplicates, "duplicates"),
    ] {
        if count > 0 {
            line("dropped", format!("{} {what}", digits(count)));
        }
    }
    if options.min_user > 1 || options.min_item > 1 {
        let rounds = format!("{} round{}", s.core_rounds, if s.core_rounds == 1 { "" } else { "s" });
        let below = format!("users below {} or items below {}", options.min_user.max(1), options.min_item.max(1));
        line("dropped", format!("{} of {below}, in {rounds} to the fixed point", digits(s.dropped_core)));
    }
    line("histories", format!("{} to {}, median {}", s.history[0], digits(s.history[2] as u64), s.history[1]));
    if let Some([least, greatest]) = s.ratings {
        line("ratings", format!("{least} to {greatest}"));
    }
    if let Some(baskets) = s.baskets {
        line("baskets", format!("{}, {:.1} items each", digits(baskets), s.interactions as f64 / baskets as f64));
    }
    line(
        "duplicates",
        match options.duplicates {
            Duplicates::Keep if s.equal_rows > 0 => {
                let rows = if s.equal_rows == 1 { "row repeats" } else { "rows repeat" };
                format!(
                    "kept (a user may have an item several times); {} {rows} an earlier one exactly",
                    digits(s.equal_rows)
                )
            }
            Duplicates::Keep => "kept (a user may have an item several times)".into(),
            Duplicates::First => "the earliest of each user and item kept".into(),
            Duplicates::Last => "the latest of each user and item kept".into(),
        },
    );
    let files = format!("{:.1} MB in {} shard{}", s.bytes as f64 / 1e6, s.shards, if s.shards == 1 { "" } else { "s" });
    line("on disk", files);
    line("took", format!("{:.2} s, {:.2} million rows/s", s.seconds, s.rows_per_s / 1e6));
    lines.join("\n") + "\n"
}
