//! Importing: every format, every filter, every kind of bad input, from the library and from the command line.

mod bad_input;
mod baskets;
mod columns;
mod doubts;
mod filter;
mod formats;
mod forms;
mod get;
mod jsonl;
mod keys;
mod misreads;
mod moments;
mod quotes;
mod sequences;
mod sources;
mod times;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flate2::read::GzDecoder;
use mipgpu::{
    base::{Error, Result, rng::Purpose, rng::Stream},
    data::{Dataset, Duplicates, ImportOptions, ImportSummary, import},
};

/// A temporary folder with a log and a place for the output.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Desk { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("made").join("out")
    }

    fn import(&self, sources: &[PathBuf], options: &ImportOptions) -> Result<(Dataset, ImportSummary, String)> {
        let mut talk = String::new();
        let summary = import(sources, &self.out(), options, &mut |line| talk.push_str(&format!("{line}\n")))?;
        let data = Dataset::open(&self.out())?;
        data.verify()?;
        Ok((data, summary, talk))
    }
}

/// Imports one log given as text.
fn imported(text: impl AsRef<[u8]>, options: ImportOptions) -> (Dataset, ImportSummary, String) {
    let desk = Desk::new();
    let log = desk.write("log.csv", text);
    desk.import(&[log], &options).unwrap()
}

/// Returns the error of an import; asserts that it leaves no files.
fn refusal_of(name: &str, bytes: impl AsRef<[u8]>, options: ImportOptions) -> Error {
    let desk = Desk::new();
    let log = desk.write(name, bytes);
    let error = desk.import(&[log], &options).expect_err("the import is refused");
    let left = fs::read_dir(desk.out().parent().unwrap()).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "nothing is left behind after: {error}");
    error
}

fn refusal(text: impl AsRef<[u8]>) -> String {
    refusal_of("log.csv", text, ImportOptions::default()).to_string()
}

/// Returns all histories by external keys, which are the same for every correct import of a log.
fn histories(data: &Dataset) -> Vec<(String, Vec<String>)> {
    let items = |u| data.items_of(u).iter().map(|&i| data.item_keys().key(i as usize).to_owned()).collect();
    (0..data.users()).map(|u| (data.user_keys().key(u).to_owned(), items(u))).collect()
}

/// Returns the bytes of every file except the manifest, which names its source.
fn files(dir: &Path) -> HashMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != "manifest.json").collect()
}

fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ml-small-2016/ratings.csv.gz")
}

type Record = (String, String, f64, i64);

/// Returns the rows of the built-in log, read without the importer.
fn builtin_rows() -> Vec<Record> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(builtin()).unwrap()).read_to_string(&mut text).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let row = |r: csv::StringRecord| (r[0].into(), r[1].into(), r[2].parse().unwrap(), r[3].parse().unwrap());
    reader.records().map(|r| row(r.unwrap())).collect()
}

#[test]
fn the_built_in_log_is_imported_as_a_plain_reading_gives_it() {
    let desk = Desk::new();
    let (data, summary, talk) = desk.import(&[builtin()], &ImportOptions::default()).unwrap();
    assert_eq!((data.users(), data.items(), data.interactions()), (671, 9066, 100_004));
    assert_eq!((summary.rows, summary.history, summary.time_unit.as_deref()), (100_004, [20, 71, 2391], Some("s")));
    assert!(talk.contains("comma-separated, with a header, gzip") && talk.contains("seconds since 1970"), "{talk}");

    let rows = builtin_rows();
    let mut expected: Vec<(String, Vec<&Record>)> = Vec::new();
    let mut place = HashMap::new();
    for row in &rows {
        let at = *place.entry(&row.0).or_insert(expected.len());
        if at == expected.len() {
            expected.push((row.0.clone(), Vec::new()));
        }
        expected[at].1.push(row);
    }
    for (user, (key, history)) in expected.iter_mut().enumerate() {
        history.sort_by_key(|r| r.3);
        assert_eq!(data.user_keys().key(user), key);
        assert_eq!(data.user_keys().find(key), Some(user as u32));
        let items: Vec<&str> = data.items_of(user).iter().map(|&i| data.item_keys().key(i as usize)).collect();
        assert_eq!(items, history.iter().map(|r| r.1.as_str()).collect::<Vec<_>>());
        assert_eq!(data.times_of(user).unwrap(), history.iter().map(|r| r.3).collect::<Vec<_>>());
        assert_eq!(data.ratings_of(user).unwrap(), history.iter().map(|r| r.2 as f32).collect::<Vec<_>>());
    }
    let mut counts = vec![0; data.items()];
    rows.iter().for_each(|r| counts[data.item_keys().find(&r.1).unwrap() as usize] += 1);
    assert_eq!(data.item_counts(), counts);
    // Numbered by first appearance.
    assert_eq!(data.item_keys().key(0), rows[0].1);
    assert_eq!(data.ticks_per_second(), Some(1));
}

#[test]
fn a_tiny_memory_gives_the_same_bytes_as_a_large_one() {
    let mut made = Vec::new();
    for memory_bytes in [1 << 20, 2 << 20, 1 << 30] {
        let desk = Desk::new();
        let options = ImportOptions {
            memory_bytes,
            shard_interactions: 7000,
            min_user: 25,
            min_item: 3,
            duplicates: Duplicates::Last,
            ..Default::default()
        };
        let (data, _, _) = desk.import(&[builtin()], &options).unwrap();
        assert!(files(&desk.out()).len() > 10, "several shards");
        made.push((files(&desk.out()), data.fingerprint().to_owned()));
    }
    assert!(made.iter().all(|m| m == &made[0]));
}

#[test]
fn the_core_is_the_fix_point_that_brute_force_finds() {
    let mut draw = Stream::new(11, Purpose::Test, 0);
    for (min_user, min_item) in [(2, 0), (0, 4), (3, 3), (5, 2), (4, 6)] {
        // A long tail: few keys occur often, many once or twice.
        let mut key = || {
            let most = 1 + draw.below(60);
            draw.below(most).to_string()
        };
        let rows: Vec<(String, String)> = (0..400).map(|_| (key(), key())).collect();
        // Remove rows until every user and item has enough.
        let mut left = rows.clone();
        loop {
            let count = |key: &dyn Fn(&(String, String)) -> String| {
                left.iter().fold(HashMap::<String, u32>::new(), |mut m, r| {
                    *m.entry(key(r)).or_default() += 1;
                    m
                })
            };
            let (users, items) = (count(&|r| r.0.clone()), count(&|r| r.1.clone()));
            let before = left.len();
            left.retain(|r| users[&r.0] >= min_user && items[&r.1] >= min_item);
            if left.len() == before {
                break;
            }
        }
        assert!(!left.is_empty() && left.len() < rows.len(), "a case that tells");
        let text: String = rows.iter().map(|(u, i)| format!("{u},{i}\n")).collect();
        let options = ImportOptions { min_user, min_item, ..Default::default() };
        let (data, summary, _) = imported(text, options);
        let mut expected: Vec<(String, Vec<String>)> = Vec::new();
        for (user, item) in &left {
            match expected.iter_mut().find(|(key, _)| key == user) {
                Some((_, items)) => items.push(item.clone()),
                None => expected.push((user.clone(), vec![item.clone()])),
            }
        }
        // Users are numbered by first appearance in the whole log.
        let order: Vec<&String> = rows.iter().map(|r| &r.0).collect();
        expected.sort_by_key(|(user, _)| order.iter().position(|u| *u == user));
        assert_eq!(histories(&data), expected, "min {min_user}, {min_item}");
        assert_eq!(summary.dropped_core, (rows.len() - left.len()) as u64);
        let distinct: HashSet<&String> = left.iter().map(|r| &r.1).collect();
        assert_eq!(data.items(), distinct.len());
    }
}

#[test]
fn equal_times_keep_the_order_of_the_log() {
    let (data, _, _) = imported("user,item,time\na,x,5\nb,p,9\na,y,5\na,w,1\na,z,5\nb,q,9\n", Default::default());
    let expected = [("a", vec!["w", "x", "y", "z"]), ("b", vec!["p", "q"])];
    let found = histories(&data);
    for ((user, items), (key, wanted)) in found.iter().zip(&expected) {
        assert_eq!((user.as_str(), items.iter().map(String::as_str).collect::<Vec<_>>()), (*key, wanted.clone()));
    }
}

#[test]
fn duplicates_are_kept_or_reduced_to_the_first_or_last() {
    let log = "user,item,rating,time\na,x,1,10\na,y,2,20\na,x,3,30\na,x,4,5\nb,x,5,1\n";
    for (duplicates, items, ratings, dropped) in [
        (Duplicates::Keep, vec!["x", "x", "y", "x"], vec![4.0, 1.0, 2.0, 3.0], 0),
        (Duplicates::First, vec!["x", "y"], vec![4.0, 2.0], 2),
        (Duplicates::Last, vec!["y", "x"], vec![2.0, 3.0], 2),
    ] {
        let (data, summary, _) = imported(log, ImportOptions { duplicates, ..Default::default() });
        assert_eq!(histories(&data)[0].1, items, "{duplicates:?}");
        assert_eq!(data.ratings_of(0).unwrap(), ratings);
        assert_eq!(summary.dropped_duplicates, dropped);
        assert_eq!(data.item_counts().iter().sum::<u32>() as u64, data.interactions());
    }
}

#[test]
fn ratings_filter_before_duplicates_and_core() {
    let log = "user,item,rating\na,x,1\na,x,5\na,y,5\nb,x,5\nb,y,2\n";
    let options =
        ImportOptions { min_rating: Some(4.0), duplicates: Duplicates::First, min_user: 2, ..Default::default() };
    let (data, summary, _) = imported(log, options);
    assert_eq!(histories(&data), [("a".to_owned(), vec!["x".to_owned(), "y".to_owned()])]);
    assert_eq!((summary.dropped_rating, summary.dropped_duplicates, summary.dropped_core), (2, 0, 1));
}

#[test]
fn side_fields_of_items_are_joined_by_key() {
    let desk = Desk::new();
    let options = ImportOptions {
        items: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ml-small-2016/movies.csv.gz")),
        item_fields: vec!["genres".into(), "year".into()],
        ..Default::default()
    };
    let (data, _, talk) = desk.import(&[builtin()], &options).unwrap();
    assert!(talk.contains("9,066 of 9,066 items found"), "{talk}");
    let toy_story = data.item_keys().find("1").unwrap() as usize;
    let fields = data.item_fields();
    assert_eq!(fields.iter().map(|f| f.name()).collect::<Vec<_>>(), ["genres", "year"]);
    let genres: Vec<&str> = fields.get("genres").unwrap().values_of(toy_story).collect();
    assert_eq!(genres, ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]);
    assert_eq!(fields.get("year").unwrap().values_of(toy_story).collect::<Vec<_>>(), ["1995"]);
    let comedy = fields.get("genres").unwrap().find("Comedy").unwrap();
    assert!(fields.get("genres").unwrap().ids_of(toy_story).contains(&comedy));

    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item\na,1\na,2\nb,3\n");
    let table = |text: &[u8], fields: &[&str]| ImportOptions {
        items: Some(desk.write("movies.dat", text)),
        item_fields: fields.iter().map(|f| f.to_string()).collect(),
        force: true,
        ..Default::default()
    };
    // Latin-1, like the real movies.dat; item 3 has no row.
    let latin = table(b"1::Mis\xe9rables, Les::Drama|War|Drama\n2::X::War\n9::Y::Z\n", &["title", "genres"]);
    let (data, _, talk) = desk.import(std::slice::from_ref(&log), &latin).unwrap();
    assert!(talk.contains("read as Latin-1; 2 of 3 items found") && talk.contains("on 66.7 % of the items"), "{talk}");
    let field = |data: &Dataset, name: &str, item| {
        data.item_fields().get(name).unwrap().values_of(item).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field(&data, "title", 0), ["Misérables, Les"]);
    assert_eq!((field(&data, "genres", 0), field(&data, "genres", 2)), (vec!["Drama".into(), "War".into()], vec![]));
    let error =
        desk.import(std::slice::from_ref(&log), &table(b"item,genre\n1,a\n", &["genres"])).unwrap_err().to_string();
    assert!(error.contains("no column 'genres'") && error.contains("genre"), "{error}");
    let error = desk.import(&[log], &table(b"item,genre\n7,a\n", &[])).unwrap_err().to_string();
    assert!(error.contains("no key in column 'item' is an item of the log"), "{error}");
}

/// A cell with very many values takes linear time; each value counts once, in order of appearance.
#[test]
fn a_cell_may_hold_hundreds_of_thousands_of_values() {
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item\na,x\na,y\nb,z\n");
    let values: Vec<String> = (0..300_000).map(|v| format!("v{}", v * 7 % 200_000)).collect();
    let table = format!("item,tags\nx,{}\ny,v7|v0|v7|new\nz,\n", values.join("|"));
    let options = ImportOptions { items: Some(desk.write("items.csv", table)), ..Default::default() };
    let (data, ..) = desk.import(&[log], &options).unwrap();
    let tags = data.item_fields().get("tags").unwrap();
    let of = |item: &str| tags.values_of(data.item_keys().find(item).unwrap() as usize).collect::<Vec<_>>();
    // 7 and 200,000 are coprime: the first 200,000 values are distinct, the others repeat them.
    assert_eq!(of("x"), values[..200_000]);
    assert_eq!((of("y"), of("z"), tags.values()), (vec!["v7", "v0", "new"], vec![], 200_001));
}

fn cli(args: &[&str], threads: &str) -> (i32, String, String) {
    cli_fed(args, threads, Stdio::null())
}

fn cli_fed(args: &[&str], threads: &str, input: Stdio) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
        .args(args)
        .env("RAYON_NUM_THREADS", threads)
        .stdin(input)
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_prints_a_summary_and_what_to_do_next() {
    let desk = Desk::new();
    let (log, out) = (builtin(), desk.dir.path().join("ml"));
    let (log, out) = (log.to_str().unwrap(), out.to_str().unwrap());
    let (code, stdout, stderr) = cli(&["import", log, "--out", out], "1");
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("671 users, 9,066 items, 100,004 interactions"), "{stdout}");
    assert!(stderr.contains(&format!("next: mipgpu train {out}")), "{stderr}");

    let again = desk.dir.path().join("again");
    let (code, stdout, stderr) = cli(&["--json", "-q", "import", log, "--out", again.to_str().unwrap()], "3");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let summary: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&summary["users"], &summary["rows"]), (&671.into(), &100_004.into()));
    assert!(summary["rows_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(files(Path::new(out)), files(&again), "one thread or three: the same bytes");

    let (code, _, stderr) = cli(&["import", log, "--out", out], "1");
    assert_eq!(code, 1);
    assert!(stderr.starts_with("mipgpu: error: ") && stderr.contains("\n  hint: "), "{stderr}");
    let (code, _, stderr) = cli(&["import", log, "--out", out, "--user-col", "userid2", "--force"], "1");
    assert!(code == 1 && stderr.contains("did you mean --user-col userId?"), "{stderr}");
}
