//! Times: fractions keep their order in every format; doubtful and coarse times cause warnings.

use std::sync::Arc;

use mipgpu::data::{Dataset, ImportOptions};
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};

use crate::import::{Desk, histories, imported, refusal_of};

/// One user whose items are in the order of their numbers if times are correct; the rows are shuffled.
fn rows(times: &[String]) -> Vec<(String, String)> {
    let n = times.len();
    (0..n).map(|i| i * 7919 % n).map(|i| (format!("i{i}"), times[i].clone())).collect()
}

fn parquet(rows: &[(String, String)]) -> Vec<u8> {
    let schema = "message log { required binary user (UTF8); required binary item (UTF8); required double timestamp; }";
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(schema).unwrap()), Arc::default()).unwrap();
    for rows in rows.chunks(1000) {
        let mut group = writer.next_row_group().unwrap();
        for text in [vec!["u"; rows.len()], rows.iter().map(|r| r.0.as_str()).collect()] {
            let mut column = group.next_column().unwrap().unwrap();
            let cells: Vec<ByteArray> = text.into_iter().map(ByteArray::from).collect();
            column.typed::<ByteArrayType>().write_batch(&cells, None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let times: Vec<f64> = rows.iter().map(|r| r.1.parse().unwrap()).collect();
        column.typed::<DoubleType>().write_batch(&times, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn in_order(data: &Dataset) -> bool {
    histories(data)[0].1.iter().enumerate().all(|(n, item)| *item == format!("i{n}"))
}

#[test]
fn fractions_keep_their_order_in_every_format() {
    let n = 3001;
    let whole_first = |i: usize| if i < 2900 { format!("{i}") } else { format!("2899.{:04}", i - 2899) };
    type Case<'a> = (&'a str, Box<dyn Fn(usize) -> String>, &'a str, i64);
    let cases: Vec<Case> = vec![
        ("shares of the span", Box::new(|i| format!("{}", i as f64 / 3001.0)), "unknown", 0),
        ("thousandths", Box::new(|i| format!("{:.4}", i as f64 / 3001.0)), "unknown", 0),
        ("days", Box::new(|i| format!("{:.6}", 17_532.0 + i as f64 / 1000.0)), "unknown", 17_532_000),
        ("seconds", Box::new(|i| format!("{:.2}", 1_700_000_000.0 + i as f64 / 100.0)), "ms", 1_700_000_000_000),
        ("microseconds", Box::new(|i| format!("1700000000.{i:06}")), "us", 1_700_000_000_000_000),
        (
            "milliseconds",
            Box::new(|i| format!("{}.{:02}", 1_700_000_000_000 + i / 100, i % 100)),
            "us",
            1_700_000_000_000_000,
        ),
        ("before 1970", Box::new(|i| format!("{:.3}", -300_000_000.0 + i as f64 / 1000.0)), "ms", -300_000_000_000),
        ("fractions come late", Box::new(whole_first), "unknown", 0),
    ];
    for (name, time, unit, first) in cases {
        let mut times: Vec<String> = (0..n).map(time).collect();
        if name == "thousandths" {
            times.dedup();
        }
        let rows = rows(&times);
        let lines = |separator: &str| {
            rows.iter().map(|r| format!("u{separator}{}{separator}{}\n", r.0, r.1)).collect::<String>()
        };
        let logs = [
            ("log.csv", format!("user,item,timestamp\n{}", lines(",")).into_bytes()),
            ("log.inter", format!("user_id:token\titem_id:token\ttimestamp:float\n{}", lines("\t")).into_bytes()),
            ("log.parquet", parquet(&rows)),
        ];
        let mut made: Option<String> = None;
        for (file, bytes) in logs {
            // The smallest memory limit makes many blocks, and rows are spilled to disk.
            for memory_bytes in [1 << 20, 2 << 30] {
                let desk = Desk::new();
                let options = ImportOptions { memory_bytes, ..Default::default() };
                let (data, summary, talk) = desk.import(&[desk.write(file, &bytes)], &options).unwrap();
                assert!(in_order(&data), "{name}, {file}: {talk}");
                assert_eq!(summary.time_unit.as_deref(), Some(unit), "{name}");
                assert_eq!(summary.times.unwrap()[0], first, "{name}");
                let times = data.times_of(0).unwrap();
                assert!(times.windows(2).all(|w| w[0] < w[1]), "{name}: distinct times stay distinct");
                let fingerprint = made.get_or_insert_with(|| data.fingerprint().to_owned());
                assert_eq!(data.fingerprint(), fingerprint, "{name}, {file}");
            }
        }
    }
}

#[test]
fn fractions_that_come_after_megabytes_of_whole_numbers_count() {
    let rows: String = (0..60_000).map(|n| format!("u{},i{},{}\n", n % 11, n % 97, 1_700_000_000 + n)).collect();
    let text = format!("user,item,time\n{rows}u1,late,1700000000.5\nu1,early,1700000000.25\n");
    for memory_bytes in [1 << 20, 2 << 30] {
        let (data, summary, _) = imported(&text, ImportOptions { memory_bytes, ..Default::default() });
        assert_eq!((summary.time_unit.as_deref(), data.ticks_per_second()), (Some("ms"), Some(1000)));
        let user = data.user_keys().find("u1").unwrap() as usize;
        let items: Vec<&str> = data.items_of(user)[..3].iter().map(|&i| data.item_keys().key(i as usize)).collect();
        assert_eq!(items, ["early", "late", "i1"]);
        assert_eq!(data.times_of(user).unwrap()[..3], [1_700_000_000_250, 1_700_000_000_500, 1_700_000_001_000]);
    }
    // The same for dates, and for two files of one log.
    let dates: String = (0..400).map(|n| format!("u,i{n},2024-05-01 10:{:02}:{:02}\n", n / 60, n % 60)).collect();
    let (_, summary, _) = imported(
        format!("user,item,time\n{dates}u,x,2024-05-01 10:00:00.0000007\nu,y,2024-05-01 10:00:00.0000005\n"),
        ImportOptions::default(),
    );
    assert_eq!(summary.time_unit.as_deref(), Some("ns"));
    let desk = Desk::new();
    let logs =
        [desk.write("1.csv", "user,item,time\nu,a,7\nu,b,9\n"), desk.write("2.csv", "user,item,time\nu,c,7.5\n")];
    let (data, ..) = desk.import(&logs, &ImportOptions::default()).unwrap();
    assert_eq!((histories(&data)[0].1.join(""), data.times_of(0).unwrap()), ("acb".into(), &[70, 75, 90][..]));
}

#[test]
fn doubtful_times_are_warned_of_wherever_they_stand() {
    let log = |odd: &dyn Fn(usize) -> Option<String>| {
        let time = |n: usize| odd(n).unwrap_or_else(|| (1_700_000_000 + n).to_string());
        "user,item,time\n".to_owned()
            + &(0..2000).map(|n| format!("u{},i{},{}\n", n % 9, n % 70, time(n))).collect::<String>()
    };
    let talk = |text: &str| imported(text, ImportOptions::default()).2;
    // Only after the rows that are sampled.
    let millis = log(&|n| (n >= 1500 && n % 5 == 0).then(|| (1_700_000_000_000 + n).to_string()));
    let said = talk(&millis);
    assert!(said.contains("warning: of 2,000 times, 1,900 are of the size of seconds since 1970"), "{said}");
    assert!(said.contains("100 (such as 1700000001995) are of the size of milliseconds"), "{said}");
    let holes = log(&|n| (n > 1900).then(|| if n % 2 == 0 { "0".into() } else { "-1".into() }));
    let said = talk(&holes);
    assert!(said.contains("50 (such as -1) are negative, 49 (such as 0) are 0"), "{said}");
    assert!(said.contains("--time-range"), "{said}");
    let range = ImportOptions {
        time_range: Some(["2020-01-01".into(), "2030-01-01".into()]),
        skip_bad: true,
        ..Default::default()
    };
    let (data, summary, said) = imported(&holes, range.clone());
    assert!(summary.dropped_bad == 99 && data.interactions() == 1901 && !said.contains("warning"), "{said}");
    let error = refusal_of("log.csv", &holes, ImportOptions { skip_bad: false, ..range }).to_string();
    assert!(error.contains("line 1,903, column 'time': time '-1' is outside --time-range"), "{error}");
    let digits = log(&|n| Some(format!("202405{:02}{:02}{:02}{:02}", 1 + n % 30, n % 24, n % 60, n % 60)));
    let said = talk(&digits);
    assert!(said.contains("2,000 of 2,000 times look like dates written as digits (such as 20240530"), "{said}");
    let dates = log(&|n| Some(if n == 1999 { "1970-01-01".into() } else { format!("2024-05-{:02}", 1 + n % 30) }));
    assert!(talk(&dates).contains("but 1 are 1970-01-01 00:00:00 (time 0,"), "{}", talk(&dates));
    for fine in [log(&|_| None), log(&|n| Some(n.to_string())), log(&|n| Some((978_300_760 + n * 300_000).to_string()))]
    {
        assert!(!talk(&fine).contains("warning"), "{}", talk(&fine));
    }
}

/// Diginetica's views: the date is the same within a session, and a second column has the order.
fn views(time: impl Fn(usize) -> String) -> String {
    let row = |n: usize| format!("{};NA;{};{};2016-05-{:02}\n", n / 5, n * 3 % 40, time(n), 1 + n / 5 % 28);
    format!("sessionId;userId;itemId;timeframe;eventdate\n{}", (0..150).map(row).collect::<String>())
}

#[test]
fn a_column_that_would_order_ties_is_named() {
    let session =
        |options| ImportOptions { user_col: Some("sessionId".into()), delimiter: Some(";".into()), ..options };
    let falls = views(|n| (7001 - 1000 * (n % 5) + n / 5).to_string());
    let mixed = views(|n| (1000 + n * 37 % 5 * 100 + n / 5).to_string());
    for (text, how) in [(&falls, "falls"), (&mixed, "differs")] {
        let (_, _, talk) = imported(text, session(ImportOptions::default()));
        assert!(talk.contains(&format!("column 'timeframe' {how} within them")), "{talk}");
        assert!(talk.contains("--time-col timeframe orders by it, --time-col eventdate keeps it ignored"), "{talk}");
        let named = |column: &str| session(ImportOptions { time_col: Some(column.into()), ..Default::default() });
        assert!(!imported(text, named("eventdate")).2.contains("equal times"));
        // The command of docs/data-sets.md.
        let (data, _, talk) = imported(text, named("timeframe"));
        assert!(!talk.contains("warning"), "{talk}");
        let mut rows: Vec<(usize, usize, usize, String)> = Vec::new();
        for (n, line) in text.lines().skip(1).enumerate() {
            let cells: Vec<&str> = line.split(';').collect();
            rows.push((cells[0].parse().unwrap(), cells[3].parse().unwrap(), n, cells[2].to_owned()));
        }
        rows.sort();
        let expected: Vec<String> = rows.into_iter().map(|r| r.3).collect();
        assert_eq!(histories(&data).into_iter().flat_map(|(_, items)| items).collect::<Vec<_>>(), expected);
    }
    // Prices and row numbers define no order.
    for time in [&(|n: usize| (n * 37 % 90).to_string()) as &dyn Fn(usize) -> String, &|n| n.to_string()] {
        let text = views(time).replace("timeframe", "price");
        assert!(!imported(&text, session(ImportOptions::default())).2.contains("equal times"));
    }
}

#[test]
fn dates_at_zero_are_named_as_dates() {
    let rows = |zero: &str, day: &dyn Fn(usize) -> String| {
        let time = |n: usize| if n.is_multiple_of(20) { zero.to_owned() } else { day(n) };
        "user,item,date\n".to_owned() + &(0..100).map(|n| format!("u{},i{n},{}\n", n % 5, time(n))).collect::<String>()
    };
    let iso = rows("1970-01-01", &|n| format!("2023-05-{:02}", 1 + n % 28));
    let (_, _, talk) = imported(&iso, ImportOptions::default());
    assert!(
        talk.contains("but 5 are 1970-01-01 00:00:00 (time 0, which often means that the time is missing)"),
        "{talk}"
    );
    assert!(!talk.contains("before 1970"), "{talk}");
    let german = rows("01.01.1970", &|n| format!("{:02}.05.2023", 1 + n % 28));
    let options = || ImportOptions { time_format: Some("%d.%m.%Y".into()), ..Default::default() };
    let (_, _, talk) = imported(&german, options());
    assert!(talk.contains("but 5 are 01.01.1970 (time 0"), "{talk}");
    let (_, _, talk) = imported(german.replace("01.01.1970", "30.12.1969"), options());
    assert!(talk.contains("5 (such as 30.12.1969) lie before 1970"), "{talk}");
    let numbers = rows("0", &|n| (1_700_000_000 + n).to_string());
    assert!(imported(numbers, ImportOptions::default()).2.contains("but 5 (such as 0) are 0: "));
}
