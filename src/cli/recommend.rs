//! `mipgpu recommend`: the best items for users of the data, or for new histories.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{
    evaluate::{SplitPart, shorten},
    keys::{keys_in, keys_of},
    opened::{RunFlags, data_of, open_run},
    split_flags::SplitFlags,
};
use crate::{
    base::{
        Error, Result,
        error::{nearest, typed},
    },
    cli::printer::Printer,
    data::{
        Dataset, Titles, Vocab, digits,
        split::{HeldOut, Split},
    },
    eval::{evaluate::check_ks, item_map::alike},
    recommender::{Lookup, Recommendation, Recommender, Rejected, Request},
    train::OpenRun,
};

/// Recommends items that a user has not interacted with yet (for baskets: any items). One of --users, --users-file,
/// --all-users, --history, --history-file and --stdin selects the users or histories.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(false))]
#[command(after_help = "\
Examples:
  mipgpu recommend runs/mine --users 42,108 --k 5
  mipgpu recommend runs/mine --history 318,858,296
  mipgpu recommend runs/mine --history '[\"Tea, green\",\"Cup\"]'        keys that hold commas
  mipgpu recommend runs/mine --all-users --json > lists.jsonl
  echo '{\"id\": \"me\", \"history\": [318, 858]}' | mipgpu recommend runs/mine --stdin --json")]
pub struct Args {
    /// Folder of the trained run
    pub run: PathBuf,
    /// Keys of users in the data, or a JSON list of them
    #[arg(long, value_name = "KEY,KEY,…", group = "whom")]
    pub users: Vec<String>,
    /// File with keys of users in the data, one per line
    #[arg(long, value_name = "FILE", group = "whom")]
    pub users_file: Option<PathBuf>,
    /// All users in the data
    #[arg(long, group = "whom")]
    pub all_users: bool,
    /// A new history: item keys (`mipgpu items` finds them), oldest first, or a JSON list of them; for a run with
    /// --task next-basket: a basket
    #[arg(long, value_name = "KEY,KEY,…", group = "whom")]
    pub history: Vec<String>,
    /// File with a new history, one item key per line, oldest first
    #[arg(long, value_name = "FILE", group = "whom")]
    pub history_file: Option<PathBuf>,
    /// Read requests from standard input, one JSON object per line: {"id": …, "history": [key, …], "user": key, "k": …,
    /// "keep_seen": …}; history or user is required. An invalid line is answered with its error, and the exit code at
    /// the end is 1
    #[arg(long, group = "whom")]
    pub stdin: bool,
    /// Data set folder with the users [default: the data set of the run]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Number of items to recommend, at most the catalogue size [default: 10]
    #[arg(long, short, value_name = "N")]
    pub k: Option<usize>,
    /// Whether to recommend items of the history too [default: as in the run's validation]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub keep_seen: Option<bool>,
    /// For users in the data: hide what the split holds out, so that the lists are those that `eval` evaluates
    #[arg(long, value_enum, value_name = "PART")]
    pub hold_out: Option<SplitPart>,
    #[command(flatten)]
    pub from: RunFlags,
    /// Number of histories per batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub batch: usize,
    #[command(flatten)]
    pub split: SplitFlags,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    super::thread_pool(args.from.threads)?.install(|| serve(&args, printer))
}

fn serve(args: &Args, printer: Printer) -> Result<()> {
    let mut run = open_run(&args.run, &args.from)?;
    // New histories need no data; if the run's data set exists, item titles come from it.
    let needed = args.of_data() || args.data.is_some();
    let moved = format!("mipgpu recommend {} --data DIR", typed(&args.run));
    let data = if needed { Some(data_of(&run, args.data.as_deref(), &moved)?) } else { Dataset::open(&run.data).ok() };
    if args.stdin && std::io::stdin().is_terminal() {
        printer.say("reading histories from the keyboard, one JSON object per line; end with Ctrl-D");
    }
    let notes = answer(&mut run, data.as_ref(), args, printer.json, std::io::stdin(), &mut |text| printer.raw(text))?;
    notes.iter().for_each(|note| printer.warn(note));
    Ok(())
}

impl Args {
    /// Whether the flags select users of the data, not new histories.
    fn of_data(&self) -> bool {
        self.all_users || !self.users.is_empty() || self.users_file.is_some()
    }
}

/// Answers the requests given by the flags, batch by batch, through `print`; returns warnings. `data` is required for
/// users of the data; for new histories it provides titles.
///
/// # Errors
/// Unknown users, a k outside the catalogue, a --history without a known item, invalid --stdin input.
pub fn answer(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    args: &Args,
    json: bool,
    input: impl Read,
    print: &mut dyn FnMut(&str),
) -> Result<Vec<String>> {
    let catalogue = run.item_keys.len();
    let (k, shortened) = shorten(&[args.k.unwrap_or(10.min(catalogue))], catalogue);
    let k = k[0];
    check_ks(&[k], catalogue)?;
    if args.batch == 0 {
        return Err(Error::user("--batch 0 is out of range").hint("give --batch a number from 1 up"));
    }
    if args.hold_out.is_some() && !args.of_data() {
        return Err(Error::user("--hold-out is for users of the data").hint("use it with --users or --all-users"));
    }
    if let (None, Some(flag)) = (args.hold_out, args.split.first_given()) {
        return Err(Error::user(format!("--{flag} has no effect: nothing is held out"))
            .hint("add --hold-out test (with --users or --all-users), or omit it"));
    }
    let split = data.map(|data| args.split.spec(data)).transpose()?.flatten().unwrap_or(run.split);
    let basket = run.encoder.last_basket();
    // As in `eval`: in repeat and basket data, users buy items again.
    let keep_seen = run.keeps_seen(args.keep_seen, split.repeats() || basket)?;
    let recommender = Recommender::new(run, data, k)?.keep_seen(keep_seen);
    let show_history = !args.history.is_empty() || args.history_file.is_some();
    let mut output = Output {
        recommender,
        json,
        show_history,
        unknown: 0,
        examples: Vec::new(),
        empty: 0,
        notes: shortened.into_iter().collect(),
    };
    if args.of_data() {
        let data = data.ok_or_else(|| Error::internal("users of the data, without the data"))?;
        let wanted = wanted_users(data, args, &output.recommender)?;
        let keys = output.recommender.keys();
        output.notes.extend(output.recommender.item_map()?.written_otherwise(data.item_keys(), keys));
        let split = match args.hold_out {
            Some(_) => Some(Split::for_task(data, split, basket)?),
            None => None,
        };
        let end = |user: usize| match (&split, args.hold_out) {
            (Some(split), Some(SplitPart::Valid)) => Some(split.valid().held_out(user).start),
            (Some(split), _) => Some(split.test().held_out(user).start),
            _ => None,
        };
        for wanted in wanted.chunks(args.batch) {
            let of = |user: &usize| output.recommender.user_of_data(*user, end(*user));
            let batch = wanted.iter().map(of).collect::<Result<Vec<_>>>()?;
            print(&output.answer(&batch)?);
        }
    } else if args.stdin {
        output.stream(BufReader::new(input), args.batch, print)?;
    } else {
        let keys = match &args.history_file {
            Some(file) => keys_in(file)?,
            None => keys_of("--history", &args.history, output.recommender.keys())?,
        };
        let lookup = output.recommender.look_up(Request::history(keys))?;
        if lookup.history.is_empty() {
            let recommender = &output.recommender;
            return Err(nothing_known(&lookup.unknown, recommender.keys(), recommender.titles(), args));
        }
        print(&output.answer(&[lookup])?);
    }
    Ok(output.notes())
}

fn nothing_known(unknown: &[String], keys: &Vocab, titles: Option<&Titles<'_>>, args: &Args) -> Error {
    let Some(first) = unknown.first() else {
        return Error::user("the history is empty").hint(match args.history_file {
            Some(_) => "write item keys into the file, one per line",
            None => "give item keys: --history a,b,c",
        });
    };
    let e = Error::user(match unknown.len() {
        1 => format!("the model does not know the item '{first}'"),
        n => format!("the model knows none of the {n} items of the history ('{first}' …)"),
    });
    if let Some(hint) = titles.and_then(|titles| keys_of_titles(unknown, keys, titles, args)) {
        return e.hint(hint);
    }
    match (alike(first, keys), nearest(first, keys.keys()), titles) {
        (Some(known), ..) => e.hint(format!("the model has '{known}' where '{first}' was typed")),
        (None, Some(close), _) => e.hint(format!("did you mean '{close}'?")),
        (None, None, Some(_)) => {
            e.hint(format!("find keys by title: mipgpu items {} {}", typed(&args.run), typed(first)))
        }
        (None, None, None) => e.hint(format!("its item keys look like '{}'", keys.key(0))),
    }
}

/// A hint with the keys of titles that were typed instead of keys; `None` if one of the words is not a title.
fn keys_of_titles(unknown: &[String], keys: &Vocab, titles: &Titles<'_>, args: &Args) -> Option<String> {
    let key_of = |title: &str| titles.key_of(title).filter(|key| keys.find(key).is_some());
    // A title with a comma was split at it, so look up the argument as typed first.
    let whole: Option<Vec<(&str, &str)>> =
        args.history.iter().map(|text| Some((text.as_str(), key_of(text)?))).collect();
    let found = match whole.filter(|found| !found.is_empty()) {
        Some(found) => found,
        None => unknown.iter().map(|text| Some((text.as_str(), key_of(text)?))).collect::<Option<Vec<_>>>()?,
    };
    let list = match found.iter().any(|(_, key)| key.contains(',') || key.starts_with('[')) {
        true => json!(found.iter().map(|(_, key)| key).collect::<Vec<_>>()).to_string(),
        false => found.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(","),
    };
    Some(match &found[..] {
        [(title, key)] => format!("'{title}' is the title of item '{key}': --history {}", typed(list)),
        _ => format!("these are titles; give the keys of the items: --history {}", typed(list)),
    })
}

/// The ids of the users that the flags select.
fn wanted_users(data: &Dataset, args: &Args, recommender: &Recommender<'_>) -> Result<Vec<usize>> {
    if args.all_users {
        return Ok((0..data.users()).collect());
    }
    let keys = match &args.users_file {
        Some(file) => keys_in(file)?,
        None => keys_of("--users", &args.users, data.user_keys())?,
    };
    if keys.is_empty() {
        return Err(Error::user("no users are named").hint("give their keys, or add --all-users"));
    }
    keys.iter().map(|key| recommender.find_user(key)).collect()
}

/// Formats answers as text or JSON lines, and collects the warnings for the end.
struct Output<'a> {
    recommender: Recommender<'a>,
    json: bool,
    /// Whether text output names the items of a history, if titles are known.
    show_history: bool,
    /// Number of events with items that the model does not know, and a few of their keys.
    unknown: usize,
    examples: Vec<String>,
    /// Requests without a known item.
    empty: usize,
    notes: Vec<String>,
}

impl Output<'_> {
    /// Reads requests to the end of the input. A batch is answered when it is full or when no more input is buffered,
    /// so that a program that writes a line and waits for the answer gets it. An invalid line is answered with its
    /// error, and reading continues.
    ///
    /// # Errors
    /// At the end: the first invalid line.
    fn stream(&mut self, mut input: BufReader<impl Read>, batch: usize, print: &mut dyn FnMut(&str)) -> Result<()> {
        let (mut line, mut number, mut requests) = (Vec::new(), 0u64, Vec::new());
        let (mut bad, mut first) = (0u64, None);
        loop {
            line.clear();
            number += 1;
            let read =
                input.read_until(b'\n', &mut line).map_err(|e| Error::internal(format!("standard input: {e}")))?;
            if !line.trim_ascii().is_empty() {
                let looked_up = Request::parse(&line).and_then(|request| {
                    let id = request.id.clone();
                    self.recommender.look_up(request).map_err(|error| Rejected { id, error: Box::new(error) })
                });
                match looked_up {
                    Ok(lookup) => requests.push(lookup),
                    Err(rejected) => {
                        // Answer the requests before the invalid line first.
                        print(&self.answer(&requests)?);
                        requests.clear();
                        print(&self.bad_line(number, &rejected));
                        bad += 1;
                        first.get_or_insert((number, *rejected.error));
                    }
                }
            }
            if requests.len() == batch || (!requests.is_empty() && (read == 0 || input.buffer().is_empty())) {
                print(&self.answer(&requests)?);
                requests.clear();
            }
            if read == 0 {
                break;
            }
        }
        let Some((number, e)) = first else { return Ok(()) };
        let others = if bad > 1 { format!(", and {} more invalid lines", digits(bad - 1)) } else { String::new() };
        Err(Error { what: format!("standard input, line {number}: {}{others}", e.what), ..e })
    }

    /// The answer to an invalid line.
    fn bad_line(&self, number: u64, rejected: &Rejected) -> String {
        let Rejected { id, error } = rejected;
        if self.json {
            return format!("{}\n", json!({ "id": id, "line": number, "error": error.what, "hint": error.hint }));
        }
        match id {
            Value::Null => format!("line {number}: error: {}\n", error.what),
            Value::String(id) => format!("{id}: error: {}\n", error.what),
            id => format!("{id}: error: {}\n", error.what),
        }
    }

    /// The answers to a batch, as lines to print.
    fn answer(&mut self, batch: &[Lookup]) -> Result<String> {
        let mut out = String::new();
        for (lookup, list) in batch.iter().zip(self.recommender.recommend(batch)?) {
            self.unknown += lookup.unknown.len();
            self.examples.extend(lookup.unknown.iter().take(5 - self.examples.len().min(5)).cloned());
            self.empty += usize::from(lookup.history.is_empty());
            if self.json {
                out.push_str(&format!("{}\n", list.json()));
            } else {
                self.text_block(lookup, &list, &mut out);
            }
        }
        Ok(out)
    }

    /// The titles of a history; of a long one only the newest.
    fn named(&self, history: &[u32]) -> Option<String> {
        const SHOWN: usize = 10;
        let titles = self.recommender.titles().filter(|_| self.show_history && !history.is_empty())?;
        let from = history.len().saturating_sub(SHOWN);
        let name = |item: &u32| {
            let key = self.recommender.keys().key(*item as usize);
            titles.title(key).unwrap_or_else(|| key.to_string())
        };
        let names: Vec<String> = history[from..].iter().map(name).collect();
        Some(format!("{}{}", if from > 0 { "…; " } else { "" }, names.join("; ")))
    }

    fn text_block(&self, lookup: &Lookup, list: &Recommendation, out: &mut String) {
        match &lookup.id {
            Value::Null => {}
            Value::String(id) => out.push_str(&format!("{id}: ")),
            id => out.push_str(&format!("{id}: ")),
        }
        out.push_str(&match list.history {
            0 => "no known item in the history; the same list for every user".to_owned(),
            n => format!("from a history of {}", count(n, "item", "items")),
        });
        if !list.unknown.is_empty() {
            out.push_str(&format!(" ({} unknown)", list.unknown.len()));
        }
        if let Some(named) = self.named(&lookup.history) {
            out.push_str(&format!(": {named}"));
        }
        out.push('\n');
        let wide = list.items.iter().map(|item| item.key.chars().count()).max().unwrap_or(0);
        for (i, item) in list.items.iter().enumerate() {
            let title = item.title.as_deref().unwrap_or_default();
            let line = format!("{:>5}  {:<wide$}  {:>9.4}  {title}", i + 1, item.key, item.score);
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if let Some(why) = &list.short {
            let none = if list.items.is_empty() { "no items" } else { "no more" };
            out.push_str(&format!("       {none}: {why}\n"));
        }
    }

    fn notes(self) -> Vec<String> {
        let (mut notes, keys) = (self.notes, self.recommender.keys());
        if self.unknown > 0 {
            let more = if self.unknown > self.examples.len() { ", …" } else { "" };
            let named = |key: &String| {
                let titled = self.recommender.titles().and_then(|titles| titles.key_of(key));
                match (alike(key, keys), titled) {
                    (Some(known), _) => format!("{key} (the model has '{known}')"),
                    (None, Some(titled)) => format!("{key} (the title of item '{titled}')"),
                    (None, None) => key.clone(),
                }
            };
            let commas = match keys.keys().any(|key| key.contains(',')) {
                true => "; keys that hold commas are given as a JSON list, or one per line in --history-file",
                false => "",
            };
            notes.push(format!(
                "skipped in the histories: {} of items that the model does not know: {}{more}{commas}",
                count(self.unknown, "event", "events"),
                self.examples.iter().map(named).collect::<Vec<_>>().join(", ")
            ));
        }
        if self.empty > 0 {
            notes.push(format!(
                "without an item that the model knows: {}; their lists do not depend on the user",
                count(self.empty, "history", "histories")
            ));
        }
        notes
    }
}

/// "1 item", "2,000 items".
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", digits(n as u64), if n == 1 { one } else { many })
}
