//! One log in all its forms gives the same data set.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
};

use mipgpu::data::{Dataset, ImportOptions};
use parquet::{basic::Compression, file::properties::WriterProperties};

use crate::import::{
    Desk, Record, builtin_rows, cli, cli_fed, formats::gzip, formats::parquet_file, formats::parquet_with, imported,
    refusal_of,
};

type Row = (String, String, f64, i64);

fn delimited(rows: &[Row], header: &str, separator: &str) -> Vec<u8> {
    let row = |r: &Row| [r.0.clone(), r.1.clone(), r.2.to_string(), r.3.to_string()].join(separator) + "\n";
    format!("{header}{}", rows.iter().map(row).collect::<String>()).into_bytes()
}

fn json(rows: &[Row]) -> Vec<u8> {
    let row = |r: &Row| {
        let (user, item) = (serde_json::to_string(&r.0).unwrap(), &r.1);
        format!("{{\"stars\":{},\"item\":{item},\"user\":{user},\"ts\":{},\"tags\":[\"a\"]}}\n", r.2, r.3)
    };
    rows.iter().map(row).collect::<String>().into_bytes()
}

/// Groups the rows by user, in order of first appearance: one line per user, with lists of all their items,
/// ratings and times.
fn grouped(rows: &[Row]) -> Vec<(String, Vec<&Row>)> {
    let mut users: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows {
        match users.iter_mut().find(|(key, _)| *key == row.0) {
            Some((_, list)) => list.push(row),
            None => users.push((row.0.clone(), vec![row])),
        }
    }
    users
}

fn list(rows: &[&Row], cell: impl Fn(&Row) -> String, between: &str) -> String {
    rows.iter().map(|r| cell(r)).collect::<Vec<_>>().join(between)
}

#[test]
fn one_log_in_all_its_forms_is_one_data_set() {
    // Grouped by user, as lists must be, so that the items are numbered as in the lists.
    let rows: Vec<Record> = builtin_rows().into_iter().take(3000).collect();
    let rows: Vec<Row> = grouped(&rows).into_iter().flat_map(|(_, list)| list.into_iter().cloned()).collect();
    let users = grouped(&rows);
    let header = "user,item,rating,timestamp\n";
    let csv = delimited(&rows, header, ",");
    let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let json_lists: String = users
        .iter()
        .map(|(user, rows)| {
            format!(
                "{{\"user\":\"{user}\",\"items\":[{}],\"ratings\":[{}],\"timestamps\":[{}]}}\n",
                list(rows, |r| r.1.clone(), ","),
                list(rows, |r| r.2.to_string(), ","),
                list(rows, |r| r.3.to_string(), ",")
            )
        })
        .collect();
    let text_lists: String = users
        .iter()
        .map(|(user, rows)| {
            format!(
                "{user}\t{}\t{}\t{}\n",
                list(rows, |r| r.1.clone(), " "),
                list(rows, |r| r.2.to_string(), " "),
                list(rows, |r| r.3.to_string(), " ")
            )
        })
        .collect();
    let text_lists =
        format!("user:token\titem_list:token_seq\trating_list:float_seq\ttimestamp_list:float_seq\n{text_lists}");
    let dates: String = rows
        .iter()
        .map(|r| {
            let time = jiff::Timestamp::from_second(r.3).unwrap();
            format!("{},{},{},{}\n", r.0, r.1, r.2, time.strftime("%m/%d/%Y %H:%M:%S"))
        })
        .collect();
    let dates = format!("{header}{dates}").into_bytes();
    let layout = ["--time-format", "%m/%d/%Y %H:%M:%S"];
    let files: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("log.csv", csv.clone(), &[]),
        ("log.tsv", delimited(&rows, "user\titem\trating\ttimestamp\n", "\t"), &[]),
        ("semicolon.csv", delimited(&rows, "user;item;rating;timestamp\n", ";"), &[]),
        ("pipe.txt", delimited(&rows, "user|item|rating|timestamp\n", "|"), &[]),
        ("pipe-named.txt", delimited(&rows, "user|item|rating|timestamp\n", "|"), &["--delimiter", "|"]),
        ("pipe-word.txt", delimited(&rows, "user|item|rating|timestamp\n", "|"), &["--delimiter", "pipe"]),
        ("ratings.dat", delimited(&rows, "", "::"), &[]),
        ("trailing.csv", String::from_utf8(csv.clone()).unwrap().replace('\n', ",\n").into_bytes(), &[]),
        (
            "trailing-bare.csv",
            String::from_utf8(delimited(&rows, "", ",")).unwrap().replace('\n', ",\n").into_bytes(),
            &[],
        ),
        ("comments.csv", [b"# a log\n# of users\n", &csv[..]].concat(), &[]),
        ("log.csv.gz", gzip(&csv), &[]),
        ("log.csv.zst", zst(&csv), &[]),
        ("log.jsonl", json(&rows), &[]),
        ("log.json", json(&rows), &[]),
        ("log.jsonl.gz", gzip(&json(&rows)), &[]),
        ("log.jsonl.zst", zst(&json(&rows)), &[]),
        ("log.parquet", parquet_file(&rows), &[]),
        ("lists.jsonl", json_lists.into_bytes(), &[]),
        ("lists.inter", text_lists.into_bytes(), &[]),
        ("dates.csv", dates, &layout),
    ];
    let desk = Desk::new();
    let out = desk.out();
    let out_word = out.to_str().unwrap().to_owned();
    let mut first = None;
    let mut same = |name: &str, (code, _, stderr): (i32, String, String)| {
        assert_eq!(code, 0, "{name}: {stderr}");
        let data = Dataset::open(&out).unwrap();
        data.verify().unwrap();
        assert_eq!(data.interactions(), 3000, "{name}: {stderr}");
        let made = data.fingerprint().to_owned();
        assert_eq!(first.get_or_insert_with(|| made.clone()), &made, "{name}: {stderr}");
        fs::remove_dir_all(&out).unwrap();
    };
    for (name, bytes, flags) in &files {
        let log = desk.write(name, bytes);
        let log = log.to_str().unwrap().to_owned();
        let words = [&["import", &log, "--out", &out_word], *flags].concat();
        same(name, cli(&words, "2"));
        let words = [&["import", "-", "--out", &out_word], *flags].concat();
        same(&format!("{name} by standard input"), cli_fed(&words, "2", File::open(&log).unwrap().into()));
    }
    // A folder, its files by name, and a named pipe.
    let folder = desk.dir.path().join("parts");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("_SUCCESS"), "").unwrap();
    let mut names = Vec::new();
    for (n, rows) in rows.chunks(700).enumerate() {
        let path = folder.join(format!("part-{n:04}.csv"));
        let turned: Vec<Row> = rows.iter().map(|r| (r.1.clone(), r.0.clone(), r.2, r.3)).collect();
        let part = if n % 2 == 0 {
            delimited(rows, header, ",")
        } else {
            delimited(&turned, "item,user,rating,timestamp\n", ",")
        };
        fs::write(&path, part).unwrap();
        names.push(path.to_str().unwrap().to_owned());
    }
    same("a folder", cli(&["import", folder.to_str().unwrap(), "--out", &out_word], "2"));
    let words: Vec<&str> =
        ["import"].into_iter().chain(names.iter().map(String::as_str)).chain(["--out", &out_word]).collect();
    same("its files", cli(&words, "2"));
    let fifo = desk.dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).stdin(Stdio::null()).status().unwrap().success());
    let (to, bytes) = (fifo.clone(), csv);
    let writer = thread::spawn(move || fs::write(to, bytes).unwrap());
    same("a named pipe", cli(&["import", fifo.to_str().unwrap(), "--out", &out_word], "2"));
    writer.join().unwrap();

    // One line per user without times: equal to the CSV of the rows in order of time, without times.
    let mut ordered: Vec<Row> = rows.clone();
    ordered.sort_by_key(|r| r.3);
    let users = grouped(&ordered);
    let plain: String = users.iter().flat_map(|(_, rows)| rows.iter().map(|r| format!("{},{}\n", r.0, r.1))).collect();
    let options = || ImportOptions { force: true, ..Default::default() };
    let plain = desk.import(&[desk.write("plain.csv", format!("user,item\n{plain}"))], &options()).unwrap().0;
    let lines: String =
        users.iter().map(|(user, rows)| format!("{user} {}\n", list(rows, |r| r.1.clone(), " "))).collect();
    let tabs: String =
        users.iter().map(|(user, rows)| format!("{user}\t{}\n", list(rows, |r| r.1.clone(), " "))).collect();
    for (name, text) in [("lines.txt", lines), ("tabs.txt", tabs)] {
        let options = ImportOptions { list_sep: Some("space".into()), ..options() };
        let (data, _, talk) = desk.import(&[desk.write(name, text)], &options).unwrap();
        assert_eq!(data.fingerprint(), plain.fingerprint(), "{name}: {talk}");
    }
}

#[test]
fn parquet_of_every_codec_is_read() {
    let rows: Vec<Record> = builtin_rows().into_iter().take(2000).collect();
    let plain = imported(parquet_file(&rows), Default::default()).0;
    for codec in [
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        let bytes = parquet_with(&rows, WriterProperties::builder().set_compression(codec).build());
        assert_eq!(imported(&bytes, Default::default()).0.fingerprint(), plain.fingerprint(), "{codec}");
    }
    // An unsupported codec (LZO, number 3) is named, and the file is not called damaged.
    let bytes = parquet_with(&rows, WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let error = refusal_of("log.parquet", lzo(bytes), Default::default()).to_string();
    assert!(error.contains("LZO") && error.contains("zstd or snappy") && !error.contains("damaged"), "{error}");
}

/// Changes the codec of all columns to LZO. In the footer (Thrift, compact), field 4 of a column's metadata, an
/// i32 after the name of the column, is 1 (written 2) for SNAPPY and 3 (written 6) for LZO.
fn lzo(mut bytes: Vec<u8>) -> Vec<u8> {
    for name in ["user_id", "item_id", "rating", "timestamp", "other"] {
        let word = [name.as_bytes(), &[0x15, 2]].concat();
        let places: Vec<usize> =
            bytes.windows(word.len()).enumerate().filter(|(_, w)| *w == word).map(|(n, _)| n).collect();
        assert!(!places.is_empty(), "{name}");
        places.iter().for_each(|at| bytes[at + word.len() - 1] = 6);
    }
    bytes
}
