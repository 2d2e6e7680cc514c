//! `mipgpu items`: finds item keys by title or key.

use std::{cmp::Reverse, path::PathBuf};

use serde_json::json;

use super::printer::Printer;
use crate::{
    base::{Error, Result, error::typed, table::Table},
    data::{Dataset, Titles, Vocab, digits},
    train::RunFolder,
};

/// Finds items by title or key. Exact matches come first, then items that begin with the text, then items that contain
/// all of its words; within each group, the most frequent come first. If nothing matches, the nearest spellings are
/// listed. Without a text, the most frequent items are listed.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu items runs/mine toy story
  mipgpu items data/ml-1m matrix --limit 5
  mipgpu items runs/mine --json --limit 100000 > items.jsonl")]
pub struct Args {
    /// Folder of a trained run or of a data set
    #[arg(value_name = "RUN")]
    folder: PathBuf,
    /// Words that must all occur in the title or the key; case is ignored
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
    /// Maximum number of items to list
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// How an item matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Exact,
    Prefix,
    Contains,
    /// Similar spelling; used only if nothing else matches.
    Nearest,
}

impl Match {
    fn name(self) -> &'static str {
        match self {
            Match::Exact => "exact",
            Match::Prefix => "prefix",
            Match::Contains => "contains",
            Match::Nearest => "nearest",
        }
    }
}

/// An item to search.
struct Item {
    key: String,
    title: Option<String>,
    /// Number of events in the data, if the data set is available.
    events: Option<u32>,
}

/// Runs the command.
pub fn run(args: &Args, printer: Printer) -> Result<()> {
    if args.limit == 0 {
        return Err(Error::user("--limit 0 shows nothing").hint("use a number of at least 1"));
    }
    let items = items_of(args, &printer)?;
    let text = args.text.join(" ");
    let found = find(&items, &text);
    if found.is_empty() {
        return Err(Error::user(format!("no item matches '{text}'"))
            .hint(format!("use fewer words; `mipgpu items {}` lists the most frequent items", typed(&args.folder))));
    }
    if found[0].1 == Some(Match::Nearest) {
        printer.say(format_args!("no item contains '{text}'; the nearest spellings:"));
    }
    let shown = &found[..found.len().min(args.limit)];
    if printer.json {
        for (item, how) in shown {
            let mut line = json!({ "item": item.key });
            if let Some(title) = &item.title {
                line["title"] = title.as_str().into();
            }
            if let Some(events) = item.events {
                line["events"] = events.into();
            }
            if let Some(how) = how {
                line["match"] = how.name().into();
            }
            printer.event(&line);
        }
    } else {
        printer.raw(table(shown));
    }
    if found.len() > shown.len() {
        let more = digits((found.len() - shown.len()) as u64);
        printer.say(format_args!("and {more} more: --limit N shows N items"));
    }
    Ok(())
}

fn table(shown: &[(&Item, Option<Match>)]) -> Table {
    let titled = shown.iter().any(|(item, _)| item.title.is_some());
    let counted = shown.iter().any(|(item, _)| item.events.is_some());
    let mut table = Table::new().left("key");
    if counted {
        table = table.right("events");
    }
    if titled {
        table = table.left("title");
    }
    for (item, _) in shown {
        let mut row = vec![item.key.clone()];
        if counted {
            row.push(item.events.map_or("-".into(), |n| digits(n.into())));
        }
        if titled {
            row.push(item.title.clone().unwrap_or_default());
        }
        table.row(row);
    }
    table
}

/// Returns the items of a data set, or the items of a run with titles and counts from its data.
fn items_of(args: &Args, printer: &Printer) -> Result<Vec<Item>> {
    let folder = &args.folder;
    if folder.join("manifest.json").is_file() {
        let data = Dataset::open(folder)?;
        return Ok(described(data.item_keys(), Some(&data)));
    }
    if !folder.is_dir() {
        return Err(Error::user(format!("{}: there is no such folder", folder.display()))
            .hint("use the folder of a trained run or of a data set"));
    }
    let run = RunFolder::new(folder);
    let config = run.config()?;
    let keys = Vocab::open(&run.items())?;
    let data = Dataset::open(&config.data);
    if data.is_err() {
        printer.say(format_args!(
            "titles and counts are not available: the data set of the run cannot be opened ({})",
            config.data.display()
        ));
    }
    Ok(described(&keys, data.ok().as_ref()))
}

fn described(keys: &Vocab, data: Option<&Dataset>) -> Vec<Item> {
    let titles = data.and_then(Titles::of);
    let item = |key: &str| Item {
        key: key.to_string(),
        title: titles.as_ref().and_then(|titles| titles.title(key)),
        events: data.map(|data| data.item_keys().find(key).map_or(0, |item| data.item_counts()[item as usize])),
    };
    keys.keys().map(item).collect()
}

/// Returns the matching items, best first. Without a text, returns all items, the most frequent first.
fn find<'a>(items: &'a [Item], text: &str) -> Vec<(&'a Item, Option<Match>)> {
    let text = text.trim().to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    // The sort is stable: items with equal counts keep their order.
    let often = |item: &Item| Reverse(item.events.unwrap_or(0));
    if words.is_empty() {
        let mut all: Vec<_> = items.iter().map(|item| (item, None)).collect();
        all.sort_by_key(|(item, _)| often(item));
        return all;
    }
    let mut found: Vec<(&Item, Option<Match>)> =
        items.iter().filter_map(|item| Some((item, Some(matched(item, &text, &words)?)))).collect();
    found.sort_by_key(|(item, how)| (*how, often(item)));
    if !found.is_empty() {
        return found;
    }
    let mut near: Vec<(f64, &Item)> =
        items.iter().map(|item| (likeness(item, &text, &words), item)).filter(|(alike, _)| *alike >= 0.6).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| often(a.1).cmp(&often(b.1))));
    near.into_iter().map(|(_, item)| (item, Some(Match::Nearest))).collect()
}

fn matched(item: &Item, text: &str, words: &[&str]) -> Option<Match> {
    let names = [Some(item.key.to_lowercase()), item.title.as_ref().map(|title| title.to_lowercase())];
    let names = || names.iter().flatten();
    if names().any(|name| name == text) {
        return Some(Match::Exact);
    }
    if names().any(|name| name.starts_with(text)) {
        return Some(Match::Prefix);
    }
    words.iter().all(|word| names().any(|name| name.contains(word))).then_some(Match::Contains)
}

/// Returns the similarity (0 to 1) of a text and an item's title or key, as a whole or word by word.
fn likeness(item: &Item, text: &str, words: &[&str]) -> f64 {
    let of = |name: &str| {
        let name = name.to_lowercase();
        let nearest = |word: &&str| {
            name.split(|c: char| !c.is_alphanumeric())
                .map(|other| strsim::normalized_damerau_levenshtein(word, other))
                .fold(0.0, f64::max)
        };
        let by_word = words.iter().map(nearest).sum::<f64>() / words.len() as f64;
        strsim::normalized_damerau_levenshtein(text, &name).max(by_word)
    };
    item.title.as_deref().map_or(0.0, of).max(of(&item.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_matches_come_first() {
        let item =
            |key: &str, title: &str, events| Item { key: key.into(), title: Some(title.into()), events: Some(events) };
        let items = [
            item("1", "Toy Story (1995)", 50),
            item("2", "Toy Story 2 (1999)", 90),
            item("3", "The Story of a Toy", 200),
            item("4", "Heat (1995)", 10),
            item("toy", "Something else", 1),
        ];
        let keys =
            |text: &str| find(&items, text).into_iter().map(|(item, how)| (&item.key[..], how)).collect::<Vec<_>>();
        assert_eq!(
            keys("TOY"),
            [
                ("toy", Some(Match::Exact)),
                ("2", Some(Match::Prefix)),
                ("1", Some(Match::Prefix)),
                ("3", Some(Match::Contains))
            ]
        );
        assert_eq!(keys("story toy").len(), 3, "words in any order");
        assert_eq!(keys("toy story (1995)")[0], ("1", Some(Match::Exact)));
        assert_eq!(keys("haet"), [("4", Some(Match::Nearest))]);
        assert_eq!(keys("toy stroy")[0].1, Some(Match::Nearest));
        assert!(keys("qqqqqqqq").is_empty());
        assert_eq!(keys("").iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["3", "2", "1", "4", "toy"]);
    }
}
