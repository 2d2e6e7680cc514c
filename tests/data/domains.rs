//! `mipgpu split`: two data sets from one, compared with a plain reading of the same log.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::read::GzDecoder;
use mipgpu::{
    base::Result,
    data::{
        Dataset, ImportOptions,
        domains::{Amount, DomainOptions, Rule, SplitSummary, Which, split_domains},
        import,
        split::{Split, SplitSpec},
    },
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ml-small-2016").join(name)
}

/// A folder that contains a data set `data`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn builtin() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let options = ImportOptions { items: Some(file("movies.csv.gz")), ..Default::default() };
        import(&[file("ratings.csv.gz")], &folder.path("data"), &options, &mut |_| {}).unwrap();
        folder
    }

    /// Four users; a has genres A|B, b has B|A, c has C, d has no genre, e has "x, y".
    fn small() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let log = "user,item,rating,time\n\
            u,a,1,10\nu,b,2,20\nu,c,3,30\nu,a,4,40\nu,d,5,50\nv,c,1,5\nv,d,2,6\nw,a,3,7\nx,e,4,8\nx,b,5,9\nx,a,1,10\n";
        fs::write(folder.path("log.csv"), log).unwrap();
        fs::write(
            folder.path("items.csv"),
            "item,genre,year\na,A|B,1999\nb,B|A,2001\nc,C,\nd,,2003\ne,\"x, y\",1999\n",
        )
        .unwrap();
        let options = ImportOptions { items: Some(folder.path("items.csv")), ..Default::default() };
        import(&[folder.path("log.csv")], &folder.path("data"), &options, &mut |_| {}).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> Dataset {
        Dataset::open(&self.path("data")).unwrap()
    }

    fn split(&self, options: &DomainOptions) -> Result<SplitSummary> {
        split_domains(&self.data(), &self.path("out"), options)
    }

    /// Returns source and target, verified.
    fn made(&self) -> [Dataset; 2] {
        ["source", "target"].map(|name| {
            let data = Dataset::open(&self.path("out").join(name)).unwrap();
            data.verify().unwrap();
            data
        })
    }

    /// Returns the error of a rejected split; asserts that nothing is left behind.
    fn refusal(&self, options: &DomainOptions) -> String {
        let before = self.names();
        let error = self.split(options).expect_err("refused").to_string();
        assert_eq!(self.names(), before, "{error}");
        error
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn by(field: &str, values: &[&str], which: Which) -> DomainOptions {
    let values = values.iter().map(|v| v.to_string()).collect();
    DomainOptions::new(Rule::Field { field: field.into(), values, which })
}

fn at_random(amount: Amount, seed: u64) -> DomainOptions {
    DomainOptions::new(Rule::Random { amount, seed })
}

/// A user's key, and item, time and rating of each interaction.
type History = (String, Vec<(String, i64, f32)>);

/// Returns all histories in external keys with times and ratings.
fn histories(data: &Dataset) -> Vec<History> {
    let key = |i: u32| data.item_keys().key(i as usize).to_owned();
    let history = |u: usize| {
        let (items, times, ratings) = (data.items_of(u), data.times_of(u).unwrap(), data.ratings_of(u).unwrap());
        (0..items.len()).map(|i| (key(items[i]), times[i], ratings[i])).collect()
    };
    (0..data.users()).map(|u| (data.user_keys().key(u).to_owned(), history(u))).collect()
}

fn item_keys(data: &Dataset) -> HashSet<String> {
    data.item_keys().keys().map(str::to_owned).collect()
}

fn table(name: &str) -> Vec<csv::StringRecord> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(file(name)).unwrap()).read_to_string(&mut text).unwrap();
    csv::Reader::from_reader(text.as_bytes()).records().map(|r| r.unwrap()).collect()
}

/// Splits the built-in log by plain code: per domain, the histories by user in the order of the log.
fn by_hand(values: &[&str], which: Which, last: [Option<usize>; 2]) -> [Vec<History>; 2] {
    let genres: HashMap<String, String> =
        table("movies.csv.gz").iter().map(|r| (r[0].to_owned(), r[3].to_owned())).collect();
    let target = |item: &str| {
        let genres = genres.get(item).map_or("", String::as_str);
        match which {
            Which::First => values.contains(&genres.split('|').next().unwrap()),
            Which::Any => genres.split('|').any(|g| values.contains(&g)),
        }
    };
    let mut users: Vec<String> = Vec::new();
    let mut rows: HashMap<String, Vec<(String, i64, f32)>> = HashMap::new();
    for r in table("ratings.csv.gz") {
        if !rows.contains_key(&r[0]) {
            users.push(r[0].to_owned());
        }
        rows.entry(r[0].to_owned()).or_default().push((r[1].to_owned(), r[3].parse().unwrap(), r[2].parse().unwrap()));
    }
    rows.values_mut().for_each(|h| h.sort_by_key(|r| r.1));
    [false, true].map(|want| {
        let part = |user: &String| {
            let mut all: Vec<_> = rows[user].iter().filter(|r| target(&r.0) == want).cloned().collect();
            if let Some(n) = last[usize::from(want)] {
                all.reverse();
                all.truncate(n);
                all.reverse();
            }
            (user.clone(), all)
        };
        users.iter().map(part).filter(|(_, history)| !history.is_empty()).collect()
    })
}

const DARK: &[&str] = &["Action", "Crime", "Film-Noir", "Horror", "Sci-Fi", "Thriller"];

#[test]
fn the_built_in_data_split_as_a_plain_reading_splits_them() {
    let folder = Folder::builtin();
    for (n, (which, last)) in
        [(Which::First, [None, None]), (Which::Any, [None, Some(14)]), (Which::First, [Some(5), Some(1)])]
            .into_iter()
            .enumerate()
    {
        let options = DomainOptions {
            source_last: last[0],
            target_last: last[1],
            force: n > 0,
            shard_interactions: [u64::MAX, 1000, 9000][n],
            ..by("genres", DARK, which)
        };
        let summary = folder.split(&options).unwrap();
        let expected = by_hand(DARK, which, last);
        let shared = expected[0].iter().filter(|(u, _)| expected[1].iter().any(|(v, _)| u == v)).count();
        assert_eq!(summary.shared_users, shared as u64);
        for ((data, expected), got) in folder.made().iter().zip(&expected).zip([&summary.source, &summary.target]) {
            assert_eq!(&histories(data), expected);
            let items: HashSet<String> = expected.iter().flat_map(|(_, h)| h.iter().map(|r| r.0.clone())).collect();
            let rows: usize = expected.iter().map(|(_, h)| h.len()).sum();
            assert_eq!(item_keys(data), items);
            assert_eq!((got.users, got.items), (expected.len() as u64, items.len() as u64));
            assert_eq!((got.interactions, data.interactions()), (rows as u64, rows as u64));
            let lengths: Vec<u32> = expected.iter().map(|(_, h)| h.len() as u32).collect();
            assert_eq!(
                (got.history[0], got.history[2]),
                (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap())
            );
        }
    }
}

/// The numbers in the documentation of the built-in data's split.
#[test]
fn the_numbers_of_the_built_in_data() {
    let folder = Folder::builtin();
    let s = folder.split(&by("genres", DARK, Which::First)).unwrap();
    let numbers = |d: &mipgpu::data::domains::DomainSummary| (d.users, d.items, d.interactions);
    assert_eq!(numbers(&s.source), (671, 6438, 62_654));
    assert_eq!(numbers(&s.target), (671, 2628, 37_350));
}

#[test]
fn every_column_field_and_key_is_kept() {
    let folder = Folder::small();
    let summary = folder.split(&by("genre", &["A", "x, y"], Which::First)).unwrap();
    let [source, target] = folder.made();
    let rows = |h: &[(&str, i64, f32)]| h.iter().map(|r| (r.0.to_owned(), r.1, r.2)).collect::<Vec<_>>();
    assert_eq!(
        histories(&source),
        [
            ("u".to_owned(), rows(&[("b", 20, 2.0), ("c", 30, 3.0), ("d", 50, 5.0)])),
            ("v".to_owned(), rows(&[("c", 5, 1.0), ("d", 6, 2.0)])),
            ("x".to_owned(), rows(&[("b", 9, 5.0)])),
        ]
    );
    assert_eq!(
        histories(&target),
        [
            ("u".to_owned(), rows(&[("a", 10, 1.0), ("a", 40, 4.0)])),
            ("w".to_owned(), rows(&[("a", 7, 3.0)])),
            ("x".to_owned(), rows(&[("e", 8, 4.0), ("a", 10, 1.0)])),
        ]
    );
    assert_eq!((summary.shared_users, summary.valueless_items), (2, 1));
    assert_eq!(target.item_counts(), [4, 1], "a, then e: the order of the data");
    let values = |data: &Dataset, item: &str, field: &str| -> Vec<String> {
        let id = data.item_keys().find(item).unwrap() as usize;
        data.item_fields().get(field).unwrap().values_of(id).map(str::to_owned).collect()
    };
    assert_eq!(values(&source, "b", "genre"), ["B", "A"]);
    assert_eq!(values(&source, "d", "genre"), [""; 0]);
    assert_eq!(values(&source, "d", "year"), ["2003"]);
    assert_eq!(values(&target, "e", "genre"), ["x, y"]);
    assert_eq!(source.item_fields().get("genre").unwrap().values(), 3, "B, A and C; nobody is \"x, y\" here");
    assert_eq!(
        (source.ticks_per_second(), source.sources()),
        (folder.data().ticks_per_second(), folder.data().sources())
    );
    // Both can be trained on.
    for data in [&source, &target] {
        assert!(Split::new(data, SplitSpec::LastN { valid: 0, test: 1 }).unwrap().summary().test_users > 0);
    }
    // Repeating the split gives the same data.
    let fingerprints = [source.fingerprint().to_owned(), target.fingerprint().to_owned()];
    folder.split(&DomainOptions { force: true, ..by("genre", &["x, y", "A"], Which::First) }).unwrap();
    assert_eq!(folder.made().map(|d| d.fingerprint().to_owned()), fingerprints);
}

#[test]
fn random_targets_have_their_size_and_grow_into_each_other() {
    let folder = Folder::builtin();
    let target = |amount: Amount, seed: u64| {
        folder.split(&DomainOptions { force: true, ..at_random(amount, seed) }).unwrap();
        let [source, target] = folder.made();
        let (source, target) = (item_keys(&source), item_keys(&target));
        assert!(source.is_disjoint(&target));
        assert_eq!(source.len() + target.len(), 9066);
        target
    };
    let (some, more, others) =
        (target(Amount::Items(700), 1), target(Amount::Share(0.25), 1), target(Amount::Items(700), 2));
    assert_eq!((some.len(), more.len(), others.len()), (700, 2267, 700));
    assert!(some.is_subset(&more));
    // Two draws of 700 of 9,066 share 54 on average, with a deviation of 7.
    assert!(some.intersection(&others).count() < 100);
    assert_eq!(target(Amount::Items(700), 1), some);
}

#[test]
fn splits_that_cannot_be_are_refused_and_leave_nothing() {
    let folder = Folder::small();
    let says = |options: DomainOptions, words: &[&str]| {
        let error = folder.refusal(&options);
        words.iter().for_each(|word| assert!(error.contains(word), "'{word}' is missing in: {error}"));
    };
    says(by("genres", &["A"], Which::First), &["no item field 'genres'", "genre, year", "did you mean --field genre?"]);
    says(by("genre", &["A", "x y"], Which::First), &["no item has 'x y'", "did you mean 'x, y'?"]);
    says(by("year", &["drama"], Which::First), &["no item has 'drama'", "its 3 values: 1999, 2001, 2003"]);
    says(by("genre", &[], Which::First), &["the target would be empty"]);
    says(at_random(Amount::Items(5), 1), &["the source would be empty", "decrease --random"]);
    says(at_random(Amount::Items(6), 1), &["there are only 5 items"]);
    says(at_random(Amount::Share(0.01), 1), &["the target would be empty", "increase --random"]);
    says(at_random(Amount::Share(1.5), 1), &["--random 1.5 is not a share"]);
    let none = DomainOptions { target_last: Some(0), ..by("genre", &["A"], Which::First) };
    says(none, &["--target-last 0 would leave nothing"]);
}

#[test]
fn outputs_that_are_taken_are_left_alone() {
    let folder = Folder::small();
    let options = by("genre", &["A"], Which::Any);
    let forced = DomainOptions { force: true, ..options.clone() };
    folder.split(&options).unwrap();
    assert!(folder.refusal(&options).contains("a split of a data set is already there"));
    folder.split(&forced).unwrap();
    // Neither a data set nor the data being read is replaced, with or without --force.
    let into = |out: &Path, data: &Path| {
        split_domains(&Dataset::open(data).unwrap(), out, &forced).expect_err("refused").to_string()
    };
    import(&[folder.path("log.csv")], &folder.path("other"), &ImportOptions::default(), &mut |_| {}).unwrap();
    assert!(into(&folder.path("other"), &folder.path("data")).contains("something that is not a split"));
    assert!(into(&folder.path("data"), &folder.path("data")).contains("this folder contains the data to split"));
    assert!(into(&folder.path("out"), &folder.path("out/target")).contains("this folder contains the data to split"));
    folder.made();
    let error = Dataset::open(&folder.path("out")).unwrap_err().to_string();
    assert!(error.contains("out/source or ") && error.contains("out/target"), "{error}");
}

#[test]
fn baskets_stay_baskets() {
    let folder = Folder(tempfile::tempdir().unwrap());
    fs::write(folder.path("log.csv"), "user,item,order\nu,a,1\nu,b,1\nu,a,2\nu,b,3\nu,c,3\nu,b,3\nu,a,4\n").unwrap();
    fs::write(folder.path("items.csv"), "item,kind\na,A\nb,B\nc,B\n").unwrap();
    let options =
        ImportOptions { basket_col: Some("order".into()), items: Some(folder.path("items.csv")), ..Default::default() };
    import(&[folder.path("log.csv")], &folder.path("data"), &options, &mut |_| {}).unwrap();
    folder.split(&DomainOptions { target_last: Some(3), ..by("kind", &["B"], Which::First) }).unwrap();
    let [source, target] = folder.made();
    assert_eq!(source.baskets_of(0).collect::<Vec<_>>(), [0..1, 1..2, 2..3]);
    assert!(target.baskets_of(0).eq(std::iter::once(0..3)), "the first b has gone, and its basket");
}

#[test]
fn data_without_fields_split_at_random_only() {
    let folder = Folder(tempfile::tempdir().unwrap());
    fs::write(folder.path("log.csv"), "a x\na y\nb x\nb z\n").unwrap();
    import(&[folder.path("log.csv")], &folder.path("data"), &ImportOptions::default(), &mut |_| {}).unwrap();
    let error = folder.refusal(&by("genre", &["A"], Which::First));
    assert!(error.contains("no side fields") && error.contains("--items") && error.contains("--random"), "{error}");
    folder.split(&at_random(Amount::Items(1), 1)).unwrap();
    assert_eq!(folder.made().map(|d| d.items()), [2, 1]);
    assert!(folder.made().iter().all(|d| !d.has_times() && d.item_fields().is_empty()));
}

#[test]
fn the_command_splits_and_says_what_it_did() {
    let folder = Folder::small();
    let run = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_mipgpu")).current_dir(folder.0.path()).args(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let (code, out, err) = run(&[
        "split",
        "data",
        "--out",
        "out",
        "--field",
        "genre",
        "--target-values",
        "A,C",
        "--target-values",
        "x, y",
        "--target-last",
        "1",
    ]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("target 4 users, 2 items, 4 interactions")
            && out.contains("newest 1 of each user, 3 older dropped"),
        "{out}"
    );
    assert!(out.contains("users in both 3") && err.contains("next: mipgpu train out/source"), "{out}{err}");
    let (code, out, _) = run(&["split", "data", "--out", "out", "--random", "2", "--seed", "9", "--force", "--json"]);
    let event: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &event["event"], &event["target"]["items"]), (Some(0), &"split".into(), &2.into()));
    assert_eq!(event["rule"], serde_json::json!({ "by": "random", "amount": { "items": 2 }, "seed": 9 }));
    for (words, says) in [
        (&["split", "data", "--out", "o"][..], "--field <FIELD>|--random <N>"),
        (&["split", "data", "--out", "o", "--random", "1.5"], "a share between 0 and 1"),
        (&["split", "data", "--out", "o", "--field", "genre"], "--target-values"),
        (&["split", "data", "--out", "o", "--field", "genre", "--target-values", "Q"], "no item has 'Q'"),
        (&["split", "nowhere", "--out", "o", "--random", "1"], "there is no such folder"),
    ] {
        let (code, out, err) = run(words);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}: {err}");
        assert!(err.contains(says) && !err.contains("panicked"), "{words:?}: {err}");
    }
    assert!(!folder.path("o").exists());
}
