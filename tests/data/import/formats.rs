//! The same log in every format, and the peculiarities of each format.

use std::{io::Write, sync::Arc};

use flate2::{Compression, write::GzEncoder};
use mipgpu::data::ImportOptions;
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use crate::import::{Desk, Record, builtin_rows, files, histories, imported, refusal_of};

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A Parquet file of the rows: text users, integer items, float ratings, typed times, several row groups and a
/// nullable column.
pub fn parquet_file(rows: &[Record]) -> Vec<u8> {
    parquet_with(rows, WriterProperties::default())
}

pub fn parquet_with(rows: &[Record], properties: WriterProperties) -> Vec<u8> {
    let schema = "message log { required binary user_id (UTF8); optional int64 item_id; \
                  required double rating; required int64 timestamp; required int64 other; }";
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
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
        // The content decides, not the name.
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

/// Formats seconds as an ISO date-time, by counting days one at a time.
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

/// Unsigned keys and null cells, as written by data frames.
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
fn a_column_that_the_user_names_shows_the_header() {
    let options =
        || ImportOptions { user_col: Some("Who".into()), item_col: Some("what".into()), ..Default::default() };
    let (data, _, _) = imported("when,who,what\nlater,ann,apple\nsoon,bob,pear\n", options());
    assert_eq!(histories(&data), [("ann".into(), vec!["apple".into()]), ("bob".into(), vec!["pear".into()])]);
    let (data, _, _) = imported("ann,apple\nbob,pear\n", Default::default());
    assert_eq!(data.users(), 2, "words alone make no header");
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
fn without_times_the_order_of_the_log_is_the_order_in_time() {
    let (data, summary, talk) = imported("2 9\n1 5\n2 3\n2 7\n1 4\n", Default::default());
    assert_eq!(histories(&data)[0].1, ["9", "3", "7"]);
    assert!(data.times_of(0).is_none() && data.ratings_of(0).is_none() && summary.times.is_none());
    assert!(talk.contains("the order of the rows is the order in time"), "{talk}");
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
