//! Logs that are imported but may have another meaning: warnings, the flags that resolve them, and hints.

use std::sync::Arc;

use mipgpu::{
    Notice,
    data::{ImportOptions, import},
};
use parquet::{
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};

use crate::import::{Desk, cli, histories, imported, refusal};

fn told(log: &str, options: ImportOptions) -> String {
    imported(log, options).2
}

#[test]
fn warnings_are_told_apart_from_other_notices() {
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item,when\na,x,1700000300\na,y,1700000100\nb,x,1700000200\n");
    let mut notices = Vec::new();
    import(&[log], &desk.out(), &ImportOptions::default(), &mut |notice| notices.push(notice)).unwrap();
    let has = |wanted: &dyn Fn(&Notice) -> bool| notices.iter().any(wanted);
    assert!(has(&|n| matches!(n, Notice::Warning(text) if text.contains("column 'when' looks like times"))));
    assert!(has(&|n| matches!(n, Notice::Info(text) if text.contains("log.csv") && text.contains("with a header"))));
    for notice in &notices {
        // The prefix is not part of the text.
        let (warns, text) = match notice {
            Notice::Warning(text) => (true, text),
            Notice::Info(text) => (false, text),
            other => panic!("{other:?}"),
        };
        assert!(!text.contains("warning: ") && notice.to_string().starts_with("warning: ") == warns, "{notice:?}");
    }
}

#[test]
fn a_column_of_times_that_nobody_reads_is_named() {
    let log = "user,item,when\na,x,1700000300\na,y,1700000100\nb,x,1700000200\n";
    let (data, _, talk) = imported(log, ImportOptions::default());
    for says in ["warning: ", "column 'when' looks like times", "add --time-col when, or --time-col none"] {
        assert!(talk.contains(says), "{talk}");
    }
    // The histories show the reason: the log is not in order.
    assert_eq!(histories(&data)[0].1, ["x", "y"]);
    for (col, expected) in [("when", ["y", "x"]), ("none", ["x", "y"])] {
        let options = ImportOptions { time_col: Some(col.into()), ..Default::default() };
        let (data, _, talk) = imported(log, options);
        assert!(!talk.contains("warning") && histories(&data)[0].1 == expected, "{col}: {talk}");
    }
    let two = told("user,item,unix,the visit\na,x,1700000300,1700000300123\n", ImportOptions::default());
    assert!(two.contains("columns 'unix', 'the visit' look") && two.contains("--time-col unix"), "{two}");
    let blank = told("user,item,the visit\na,x,1700000300123\n", ImportOptions::default());
    assert!(blank.contains("--time-col 'the visit'"), "{blank}");
    // Prices, counts, and columns that rarely have such a number.
    for log in
        ["user,item,price\na,x,1200\n", "user,item,n\na,x,1700000300\nb,x,3\n", "user,item,time,n\na,x,5,1700000300\n"]
    {
        assert!(!told(log, ImportOptions::default()).contains("warning"), "{log}");
    }
}

#[test]
fn a_parquet_column_of_times_that_nobody_reads_is_named() {
    // A column with a timestamp type is the time, as a column of dates is in text.
    for (kind, warns, taken) in [
        ("int64 visited (TIMESTAMP_MILLIS)", false, true),
        ("int64 visited", true, false),
        ("int64 size", false, false),
    ] {
        let schema =
            format!("message log {{ required binary user (UTF8); required binary item (UTF8); required {kind}; }}");
        let mut bytes = Vec::new();
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for _ in 0..2 {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&["a", "b"].map(ByteArray::from), None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let values = if warns || taken { [1_700_000_000_000, 1_700_000_000_001] } else { [3, 1_700_000_000_001] };
        column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let desk = Desk::new();
        let log = desk.write("log.parquet", bytes);
        let (data, _, talk) = desk.import(&[log], &ImportOptions::default()).unwrap();
        assert_eq!(data.times_of(0).is_some(), taken, "{kind}: {talk}");
        assert_eq!(talk.contains("column 'visited' looks like times"), warns, "{kind}: {talk}");
    }
}

#[test]
fn a_header_that_is_taken_for_data_is_told() {
    let log = "who,what\nanna,tea\nbob,cup\nanna,cup\n";
    let (data, _, talk) = imported(log, ImportOptions::default());
    assert_eq!(data.users(), 3, "one of them 'who'");
    assert!(talk.contains("line 1 (who, what) is read as data, but may be a header"), "{talk}");
    assert!(talk.contains("add --user-col who --item-col what; if it is data, --no-header"), "{talk}");
    let named =
        ImportOptions { user_col: Some("who".into()), item_col: Some("what".into()), ..ImportOptions::default() };
    let (data, _, talk) = imported(log, named);
    assert!(data.users() == 2 && !talk.contains("warning"), "{talk}");
    let bare = ImportOptions { no_header: true, ..ImportOptions::default() };
    assert!(!told(log, bare).contains("warning"));
    // First rows that are data: a key recurs or has a digit.
    for log in ["anna,tea\nbob,cup\nanna,cup\n", "u1,i1\nu2,i2\n"] {
        assert!(!told(log, ImportOptions::default()).contains("warning"), "{log}");
    }
}

#[test]
fn a_table_of_items_that_hardly_fits_is_told() {
    let desk = Desk::new();
    let log: String = (0..60).map(|i| format!("u{},i{i}\n", i % 7)).collect();
    let log = desk.write("log.csv", format!("user,item\n{log}"));
    let talk_of = |table: &str, item_fields: &[&str]| {
        let options = ImportOptions {
            items: Some(desk.write("table.csv", table)),
            item_fields: item_fields.iter().map(|f| f.to_string()).collect(),
            force: true,
            ..Default::default()
        };
        desk.import(std::slice::from_ref(&log), &options).map(|(.., talk)| talk).map_err(|e| e.to_string())
    };
    let all: String = (0..60).map(|i| format!("i{i},g{}\n", i % 3)).collect();
    let talk = talk_of(&format!("item,kind\n{all}"), &[]).unwrap();
    assert!(talk.contains("60 of 60 items found") && !talk.contains("warning"), "{talk}");
    let talk = talk_of("item,kind\ni7,g1\nj8,g2\n", &[]).unwrap();
    assert!(talk.contains("only 1 of 60 items of the log have a row here") && talk.contains("--item-col"), "{talk}");
    // A header of unknown names, and no header.
    let talk = talk_of(&format!("thing,kind\n{all}"), &[]).unwrap();
    assert!(talk.contains("line 1 (thing, kind) is read as a row") && talk.contains("column of keys `item`"), "{talk}");
    assert!(!talk_of(&all, &[]).unwrap().contains("warning"));
    // If its fields are named, it is recognised as a header; the keys then need names.
    let e = talk_of(&format!("thing,kind\n{all}"), &["kind"]).unwrap_err();
    assert!(e.contains("no column looks like the item") && e.contains("`item`"), "{e}");
}

/// Side fields in the log itself: the log is its own table of items.
#[test]
fn fields_that_stand_in_the_log_are_read_from_it() {
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item,time,category,brand\na,x,1,tea,t1\na,y,2,cup,t2\nb,x,3,tea,t1\n");
    let (log, out) = (log.to_str().unwrap(), desk.dir.path().join("my shop é"));
    let out = out.to_str().unwrap();
    let (code, _, stderr) = cli(&["import", log, "--out", out, "--item-fields", "category,brand"], "1");
    assert!(
        code == 1 && stderr.starts_with("mipgpu: error: --item-fields category requires a table of items"),
        "{stderr}"
    );
    assert!(stderr.contains(&format!("if the log itself has these columns: --items {log}")), "{stderr}");
    let words = ["import", log, "--out", out, "--item-fields", "category,brand", "--items", log];
    let (code, stdout, stderr) = cli(&words, "1");
    assert!(code == 0 && stderr.contains("field 'brand': 2 values, on 100.0 % of the items"), "{stderr}");
    assert!(!stdout.contains("ratings"), "{stdout}");
    // The suggested next command works.
    assert!(stderr.contains(&format!("next: mipgpu train '{out}'")), "{stderr}");
}

#[test]
fn the_range_of_the_ratings_is_told() {
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item,rating\na,x,0.5\na,y,500\nb,x,5\nb,y,4\nc,z,-3\n");
    let out = desk.out();
    let words = ["import", log.to_str().unwrap(), "--out", out.to_str().unwrap(), "--min-user", "2"];
    let (code, stdout, stderr) = cli(&words, "1");
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("  ratings     0.5 to 500\n"), "of what is kept: {stdout}");
    let (_, summary, _) = imported("user,item,clicked\na,x,0\na,y,1\n", ImportOptions::default());
    assert_eq!(summary.ratings, Some([0.0, 1.0]), "the column of clicks is known");
    assert_eq!(imported("user,item\na,x\n", ImportOptions::default()).1.ratings, None);
}

#[test]
fn a_time_column_without_times_is_told_as_that() {
    for cell in ["01/02/2023", "web"] {
        let log = format!("user,item,timestamp\na,x,{cell}\nb,y,{cell}\n");
        let e = refusal(log);
        assert!(e.contains(&format!("line 2, column 'timestamp': '{cell}' is not a time")), "{e}");
        assert!(e.contains("2015-03-09") && e.contains("--time-col none") && !e.contains("--skip-bad"), "{e}");
    }
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item,timestamp\na,x,web\n");
    let (code, _, stderr) = cli(&["import", log.to_str().unwrap(), "--out", desk.out().to_str().unwrap()], "1");
    assert!(code == 1 && stderr.contains("column 3 'timestamp', but no cell looked at is a time"), "{stderr}");
}
