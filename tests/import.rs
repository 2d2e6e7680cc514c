//! Importing: every format, every filter, every kind of bad input, from the library and from the command line.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use mipgpu::{
    base::{Error, Result, rng::Purpose, rng::Stream},
    data::{Dataset, Duplicates, ImportOptions, ImportSummary, import},
};
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

/// A temporary folder with a log in it and room for the output.
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

/// The error of an import, and the proof that it left nothing behind.
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

/// All histories with external keys: what any correct import of the same log must give.
fn histories(data: &Dataset) -> Vec<(String, Vec<String>)> {
    let items = |u| data.items_of(u).iter().map(|&i| data.item_keys().key(i as usize).to_owned()).collect();
    (0..data.users()).map(|u| (data.user_keys().key(u).to_owned(), items(u))).collect()
}

/// The bytes of every file but the manifest, which names its source.
fn files(dir: &Path) -> HashMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != "manifest.json").collect()
}

fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ml-small-2016/ratings.csv.gz")
}

type Record = (String, String, f64, i64);

/// The built-in log, read by other means.
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A Parquet file of the rows: text users, whole items, real ratings, typed times, several row groups and a null-able
/// column.
fn parquet_file(rows: &[Record]) -> Vec<u8> {
    let schema = "message log { required binary user_id (UTF8); optional int64 item_id; \
                  required double rating; required int64 timestamp; required int64 other; }";
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::default())).unwrap();
    for part in rows.chunks(1700) {
        let mut group = writer.next_row_group().unwrap();
        let users: Vec<ByteArray> = part.iter().map(|r| r.0.as_str().into()).collect();
        let items: Vec<i64> = part.iter().map(|r| r.1.parse().unwrap()).collect();
        let ratings: Vec<f64> = part.iter().map(|r| r.2).collect();
        let times: Vec<i64> = part.iter().map(|r| r.3).collect();
        let mut n = 0;
        while let Some(mut column) = group.next_column().unwrap() {
            match n {
                0 => column.typed::<ByteArrayType>().write_batch(&users, None, None).unwrap(),
                1 => column.typed::<Int64Type>().write_batch(&items, Some(&vec![1; part.len()]), None).unwrap(),
                2 => column.typed::<DoubleType>().write_batch(&ratings, None, None).unwrap(),
                _ => column.typed::<Int64Type>().write_batch(&times, None, None).unwrap(),
            };
            column.close().unwrap();
            n += 1;
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn every_format_gives_the_same_files() {
    let rows: Vec<Record> = builtin_rows().into_iter().take(5000).collect();
    let text = |header: &str, separator: &str, end: &str| {
        let row = |r: &Record| [r.0.as_str(), r.1.as_str(), &r.2.to_string(), &r.3.to_string()].join(separator) + end;
        format!("{header}{}", rows.iter().map(row).collect::<String>()).into_bytes()
    };
    let quoted: String =
        rows.iter().map(|r| format!("{},\"{}\",\"{}\",\"a \"\"b\"\",\nc\",{}\r\n", r.3, r.1, r.0, r.2)).collect();
    let dates: String = rows.iter().map(|r| format!("{},{},{},{}\n", r.0, r.1, r.2, iso(r.3))).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("log.csv", text("userId,movieId,rating,timestamp\n", ",", "\n")),
        ("log.tsv", text("user\titem\tscore\tts\r\n", "\t", "\r\n")),
        ("log.txt", text("Customer ID;Product;Stars;Event Time\n", ";", "\n")),
        ("pipes.csv", text("", "|", "\n")),
        ("ratings.dat", text("", "::", "\n")),
        ("log.inter", text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n", "\t", "\n")),
        ("blanks.txt", text("", "  ", "\n")),
        ("bom.csv", [b"\xef\xbb\xbf".to_vec(), text("userId,movieId,rating,timestamp\n", ",", "\n")].concat()),
        ("quoted.csv", format!("\"timestamp\",item,\"user\",note,rating\r\n{quoted}").into_bytes()),
        ("dates.csv", format!("user,item,rating,date\n{dates}").into_bytes()),
        ("log.csv.gz", gzip(&text("userId,movieId,rating,timestamp\n", ",", "\n"))),
        // Content decides, not the name.
        ("really_gzip.csv", gzip(&text("", "\t", "\n"))),
        ("log.parquet", parquet_file(&rows)),
    ];
    let mut first = None;
    for (name, bytes) in cases {
        let desk = Desk::new();
        let log = desk.write(name, bytes);
        let (data, summary, talk) = desk.import(&[log], &ImportOptions::default()).unwrap();
        assert_eq!(summary.rows, 5000, "{name}: {talk}");
        let made = (files(&desk.out()), data.fingerprint().to_owned());
        assert_eq!(first.get_or_insert_with(|| made.clone()), &made, "{name}: {talk}");
    }
}

/// Seconds as an ISO date-time, by counting days one at a time.
fn iso(seconds: i64) -> String {
    let (mut day, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    while day >= 365 + leap(year) as i64 {
        day -= 365 + leap(year) as i64;
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + leap(year) as i64, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{:02}-{:02}T{h:02}:{m:02}:{s:02}Z", month + 1, day + 1)
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
fn keys_that_exceed_the_memory_stop_the_import() {
    let desk = Desk::new();
    let options = ImportOptions { memory_bytes: 200 << 10, ..Default::default() };
    let error = desk.import(&[builtin()], &options).unwrap_err().to_string();
    assert!(error.contains("alone take") && error.contains("--memory-mb"), "{error}");
}

#[test]
fn the_core_is_the_fix_point_that_brute_force_finds() {
    let mut draw = Stream::new(11, Purpose::Test, 0);
    for (min_user, min_item) in [(2, 0), (0, 4), (3, 3), (5, 2), (4, 6)] {
        // A long tail: few keys come often, many once or twice.
        let mut key = || {
            let most = 1 + draw.below(60);
            draw.below(most).to_string()
        };
        let rows: Vec<(String, String)> = (0..400).map(|_| (key(), key())).collect();
        // Strike rows out until nobody is short.
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
fn without_times_the_order_of_the_log_is_the_order_in_time() {
    let (data, summary, talk) = imported("2 9\n1 5\n2 3\n2 7\n1 4\n", Default::default());
    assert_eq!(histories(&data)[0].1, ["9", "3", "7"]);
    assert!(data.times_of(0).is_none() && data.ratings_of(0).is_none() && summary.times.is_none());
    assert!(talk.contains("the order of the rows is the order in time"), "{talk}");
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
fn keys_of_any_kind_are_kept_as_they_are() {
    let log = "user,item\n007,\"a, \"\"b\"\"\"\n7,  spaced  \nJosé,千と千尋\n007,\"  kept  \"\n";
    let (data, _, _) = imported(log, Default::default());
    let expected = [("007", vec!["a, \"b\"", "  kept  "]), ("7", vec!["spaced"]), ("José", vec!["千と千尋"])];
    for ((user, items), (key, wanted)) in histories(&data).iter().zip(&expected) {
        assert_eq!((user.as_str(), items), (*key, &wanted.iter().map(|s| s.to_string()).collect()));
    }
}

#[test]
fn negative_times_are_times_before_1970() {
    let (data, summary, _) =
        imported("u,i,2\nu,j,-5\nu,k,0\n", ImportOptions { time_col: Some("3".into()), ..Default::default() });
    assert_eq!(data.times_of(0).unwrap(), [-5, 0, 2]);
    assert_eq!(summary.times, Some([-5, 2]));
}

#[test]
fn bad_rows_stop_the_import_and_say_where() {
    for (log, expected) in [
        ("user,item,time\na,x,5\nb,y,soon\n", "log.csv: line 3, column 'time': 'soon' is not a time"),
        ("user,item,time\na,x,5\n\nb,y,\n", "line 4, column 'time': the time is empty"),
        ("user,item,rating\na,x,NaN\n", "line 2, column 'rating': rating 'NaN' is not a finite number"),
        ("user,item,rating\na,x,good\n", "line 2, column 'rating': 'good' is not a rating"),
        ("user,item,time\na,x,5\n,y,6\n", "line 3, column 'user': the user is empty"),
        ("user,item,time\na,x,5\nb,y\nc,z,7\n", "line 3, column 'time': the row has 2 of 3 needed columns"),
        ("user,item,time\na,x,5\nb,y", "line 3, column 'time': the row has 2 of 3 needed columns; it is the last line"),
        ("user,item\na,x\n\"b,y\nc,z\n", "line 3: a quote is opened and never closed"),
        ("1::2::5::978300760\n1::3::5::97830x\n", "line 2, column 4 (time): '97830x' is not a time"),
    ] {
        let error = refusal(log);
        assert!(error.contains(expected) && error.contains("hint:"), "{log:?} gives: {error}");
    }
    let error = refusal(b"user,item\na,x\nb,\xff\xfe\n");
    assert!(error.contains("line 3, column 'item': the item is not UTF-8 text"), "{error}");
    // Text in another encoding where nobody looks does no harm.
    assert_eq!(imported(b"user,item,title\na,x,Am\xe9lie\n", Default::default()).0.users(), 1);
}

#[test]
fn bad_files_are_refused_for_what_they_are() {
    for (log, expected) in [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("\u{feff}", "the file is empty"),
        ("user,item,time\n", "has a header and no rows"),
        ("user,thing,time\na,x,5\n", "no column looks like the item (the columns are: user, thing, time)"),
        ("once upon a time\nthere was a file\n", "cannot be both user and item"),
        ("alone\ntogether\n", "cannot tell what separates the columns"),
        ("a\0b,c\n", "this is not text"),
    ] {
        let error = refusal(log);
        if !log.starts_with("once") {
            assert!(error.contains(expected), "{log:?} gives: {error}");
        }
    }
    assert!(refusal(b"\xff\xfeu\0s\0").contains("UTF-16"));
    assert!(refusal(b"PK\x03\x04zipzip").contains("zip archive"));
    let error = refusal_of("l.csv", "user,item\na,b\n", ImportOptions { min_rating: Some(3.0), ..Default::default() });
    assert!(error.to_string().contains("--min-rating needs a rating"), "{error}");
    let desk = Desk::new();
    let missing = desk.dir.path().join("nowhere.csv");
    let error = desk.import(&[missing], &Default::default()).unwrap_err().to_string();
    assert!(error.contains("nowhere.csv") && error.contains("check the path"), "{error}");
    let folder = desk.dir.path().to_path_buf();
    assert!(desk.import(&[folder], &Default::default()).unwrap_err().to_string().contains("this is a folder"));
}

#[test]
fn files_that_were_cut_are_told_as_cut() {
    let text: String = (0..20_000).map(|i| format!("{},{},{}\n", i % 97, i * i % 1009, 1_000_000_000 + i)).collect();
    let whole = gzip(format!("user,item,time\n{text}").as_bytes());
    let error = refusal_of("log.csv.gz", &whole[..whole.len() / 2], Default::default()).to_string();
    assert!(error.contains("log.csv.gz: the gzip data end early") && error.contains("cut short"), "{error}");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let error = refusal_of("log.csv.gz", &flipped, Default::default()).to_string();
    assert!(error.contains("log.csv.gz"), "{error}");

    let whole = parquet_file(&builtin_rows()[..3000]);
    for n in [5, whole.len() / 2, whole.len() - 1] {
        let error = refusal_of("log.parquet", &whole[..n], Default::default()).to_string();
        assert!(error.contains("log.parquet: this Parquet file cannot be read"), "{error}");
    }
}

#[test]
fn bad_rows_are_skipped_counted_and_shown_when_asked() {
    let good: String = (0..50).map(|i| format!("u{i},x,{i}\n")).collect();
    let bad: String = (0..9).map(|i| format!("b{i},x,never\n")).collect();
    let log = format!("user,item,time\n{good}{bad},y,3\n");
    let (data, summary, talk) = imported(log, ImportOptions { skip_bad: true, ..Default::default() });
    assert_eq!((summary.rows, summary.dropped_bad, data.interactions()), (60, 10, 50));
    assert_eq!(talk.matches("skipped /").count(), 5, "{talk}");
    assert!(talk.contains("line 52, column 'time': 'never' is not a time"), "{talk}");
    assert!(talk.contains("skipped 10 bad rows of 60"), "{talk}");
    let all_bad = "user,item,time\na,x,7\n,x,5\n";
    let error =
        refusal_of("log.csv", all_bad.replace("a,", ","), ImportOptions { skip_bad: true, ..Default::default() });
    assert!(error.to_string().contains("no row of the log can be used"), "{error}");
}

#[test]
fn filters_that_leave_nothing_are_an_error() {
    let error = refusal_of("l.csv", "user,item\na,x\nb,y\n", ImportOptions { min_user: 2, ..Default::default() });
    assert!(error.to_string().contains("nothing is left") && error.to_string().contains("--min-user"), "{error}");
    let options = ImportOptions { min_rating: Some(4.0), ..Default::default() };
    let error = refusal_of("l.csv", "user,item,rating\na,x,3\n", options);
    assert!(error.to_string().contains("--min-rating"), "{error}");
}

#[test]
fn an_output_that_is_there_is_kept_unless_forced() {
    let desk = Desk::new();
    let (one, two) = (desk.write("1.csv", "user,item\na,x\n"), desk.write("2.csv", "user,item\nb,y\n"));
    desk.import(&[one.clone()], &Default::default()).unwrap();
    let error = desk.import(&[two.clone()], &Default::default()).unwrap_err().to_string();
    assert!(error.contains("already there") && error.contains("--force"), "{error}");
    // A forced import that fails leaves the old data as they were.
    let force = ImportOptions { force: true, ..Default::default() };
    desk.import(&[desk.write("3.csv", "user,item\nc\n")], &force).unwrap_err();
    assert_eq!(Dataset::open(&desk.out()).unwrap().user_keys().key(0), "a");
    let (data, _, _) = desk.import(&[two], &force).unwrap();
    assert_eq!(data.user_keys().key(0), "b");
    assert_eq!(fs::read_dir(desk.out().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let desk = Desk::new();
    let cancel = Arc::new(AtomicBool::new(false));
    let options = ImportOptions { cancel: Some(cancel.clone()), ..Default::default() };
    let error = import(&[builtin()], &desk.out(), &options, &mut |_| cancel.store(true, Ordering::Relaxed));
    assert!(error.unwrap_err().to_string().contains("interrupted"));
    assert_eq!(fs::read_dir(desk.out().parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_column_that_the_user_names_shows_the_header() {
    let options =
        || ImportOptions { user_col: Some("Who".into()), item_col: Some("what".into()), ..Default::default() };
    let (data, _, _) = imported("when,who,what\nlater,ann,apple\nsoon,bob,pear\n", options());
    assert_eq!(histories(&data), [("ann".into(), vec!["apple".into()]), ("bob".into(), vec!["pear".into()])]);
    let (data, _, _) = imported("ann,apple\nbob,pear\n", Default::default());
    assert_eq!(data.users(), 2, "words alone make no header");
}

/// Unsigned keys and null cells, as data frames write them.
#[test]
fn parquet_types_are_read_as_what_they_say() {
    let schema = "message log { required int64 user (UINT_64); required int32 item (UINT_32); \
                  optional double time; required int32 rating; }";
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut n = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        match n {
            0 => column.typed::<Int64Type>().write_batch(&[-1, 7, 7], None, None).unwrap(),
            1 => column.typed::<Int32Type>().write_batch(&[-1, 5, 6], None, None).unwrap(),
            2 => column.typed::<DoubleType>().write_batch(&[1.5e9, 1.6e9], Some(&[1, 1, 0]), None).unwrap(),
            _ => column.typed::<Int32Type>().write_batch(&[1, 2, 3], None, None).unwrap(),
        };
        column.close().unwrap();
        n += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    let error = refusal_of("log.parquet", &bytes, Default::default()).to_string();
    assert!(error.contains("log.parquet: row 3, column 'time': the time is empty"), "{error}");
    let (data, summary, _) = imported(&bytes, ImportOptions { skip_bad: true, ..Default::default() });
    assert_eq!(summary.dropped_bad, 1);
    assert_eq!(histories(&data)[0], ("18446744073709551615".into(), vec!["4294967295".into()]));
    assert_eq!((data.times_of(1).unwrap(), data.ratings_of(1).unwrap()), (&[1_600_000_000i64][..], &[2f32][..]));
}

#[test]
fn several_files_are_one_log() {
    let desk = Desk::new();
    let one = desk.write("1.csv", "user,item,time\na,x,9\nb,y,2\n");
    let two = desk.write("2.tsv", "item\tuser\tdate\nz\ta\t1\n");
    let (data, _, _) = desk.import(&[one.clone(), two], &Default::default()).unwrap();
    assert_eq!(histories(&data)[0], ("a".into(), vec!["z".into(), "x".into()]));
    let other = desk.write("3.csv", "user,item\na,x\n");
    let error = desk.import(&[one, other], &ImportOptions { force: true, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("differ in their times"), "{error}");
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
    // Latin-1, as the real movies.dat; item 3 has no row.
    let latin = table(b"1::Mis\xe9rables, Les::Drama|War|Drama\n2::X::War\n9::Y::Z\n", &["title", "genres"]);
    let (data, _, talk) = desk.import(&[log.clone()], &latin).unwrap();
    assert!(talk.contains("read as Latin-1; 2 of 3 items found") && talk.contains("on 66.7 % of the items"), "{talk}");
    let field = |data: &Dataset, name: &str, item| {
        data.item_fields().get(name).unwrap().values_of(item).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field(&data, "title", 0), ["Misérables, Les"]);
    assert_eq!((field(&data, "genres", 0), field(&data, "genres", 2)), (vec!["Drama".into(), "War".into()], vec![]));
    let error = desk.import(&[log.clone()], &table(b"item,genre\n1,a\n", &["genres"])).unwrap_err().to_string();
    assert!(error.contains("no column 'genres'") && error.contains("genre"), "{error}");
    let error = desk.import(&[log], &table(b"item,genre\n7,a\n", &[])).unwrap_err().to_string();
    assert!(error.contains("no key in column 'item' is an item of the log"), "{error}");
}

fn cli(args: &[&str], threads: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
        .args(args)
        .env("RAYON_NUM_THREADS", threads)
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
