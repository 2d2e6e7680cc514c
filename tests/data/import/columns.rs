//! The meaning of columns with uninformative names: times before keys, clicks as words, lists in cells.

use std::sync::Arc;

use mipgpu::data::ImportOptions;
use parquet::{
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};

use crate::import::{Desk, histories, imported, refusal};

fn keys(user: &str, item: &str) -> ImportOptions {
    ImportOptions { user_col: Some(user.into()), item_col: Some(item.into()), ..Default::default() }
}

/// Returns 36 rows of a log with columns in the order of `form`: u(ser), t(ime), i(tem), x (latitude),
/// r(ating).
fn log(form: &str, separator: &str, time: impl Fn(usize) -> String) -> String {
    let cell = |column: char, n: usize| match column {
        'u' => (n / 6).to_string(),
        't' => time(n),
        'i' => (9000 + n * 7 % 13).to_string(),
        'x' => format!("48.{}", 10 + n),
        _ => (1 + n % 5).to_string(),
    };
    let row = |n: usize| form.chars().map(|column| cell(column, n)).collect::<Vec<_>>().join(separator) + "\n";
    (0..36).map(row).collect()
}

fn date(n: usize) -> String {
    format!("2011-{:02}-10T00:15:{:02}Z", 1 + n % 6, n / 6)
}

#[test]
fn times_are_never_keys_wherever_they_stand() {
    let seconds = |n: usize| (1_300_000_000 + 1000 * (n % 6) + n / 6).to_string();
    let millis = |n: usize| (1_300_000_000_000 + 1000 * (n % 6) + n / 6).to_string();
    let right = imported(log("uit", "\t", seconds), keys("1", "2")).0;
    for separator in [",", "\t", ";", "::"] {
        for time in [&date as &dyn Fn(usize) -> String, &seconds, &millis] {
            for (form, warns) in [("uti", true), ("tui", true), ("utxxi", true), ("utir", true), ("uit", false)] {
                let (data, _, talk) = imported(log(form, separator, time), ImportOptions::default());
                assert_eq!(histories(&data), histories(&right), "{form}: {talk}");
                assert_eq!(talk.contains("warning"), warns, "{form}: {talk}");
                if warns {
                    let place = |column| form.find(column).unwrap() + 1;
                    let flags = format!("--user-col {} --item-col {}", place('u'), place('i'));
                    assert!(talk.contains(&flags), "{flags}: {talk}");
                    let (data, _, talk) =
                        imported(log(form, separator, time), keys(&place('u').to_string(), &place('i').to_string()));
                    assert_eq!(histories(&data), histories(&right));
                    assert!(!talk.contains("warning"), "{talk}");
                }
            }
        }
    }
}

#[test]
fn keys_that_may_be_times_are_asked_for_or_kept() {
    // With two columns of large numbers, the time is ambiguous.
    let large = |n: usize| (1_300_000_000 + n).to_string();
    let text: String = (0..36).map(|n| format!("{},{},{},{}\n", large(n), n % 7, 1 + n % 5, large(99 - n))).collect();
    let error = refusal(&text);
    assert!(
        error.contains("columns 1, 4 all hold numbers of the size of times") && error.contains("--user-col"),
        "{error}"
    );
    // If there are dates, they are the time, and the large numbers are the user.
    let text: String = (0..36).map(|n| format!("{},{},{}\n", large(n / 6), n % 7, date(n))).collect();
    let (data, _, talk) = imported(&text, ImportOptions::default());
    assert_eq!(data.user_keys().key(1), "1300000001", "{talk}");
    // Keys recur, times do not.
    let text: String = (0..36).map(|n| format!("{},{}\n", 1_300_000_000 + n / 6, n % 7)).collect();
    let (data, _, talk) = imported(&text, ImportOptions::default());
    assert!(data.users() == 6 && !talk.contains("warning"), "{talk}");
    // Two columns are user and item, with a warning.
    let (data, _, talk) = imported("1300000001,5\n1300000002,7\n1300000003,5\n", ImportOptions::default());
    assert!(data.users() == 3 && talk.contains("warning") && talk.contains("--user-col 1"), "{talk}");
    let error = refusal("7,2011-01-10\n8,2011-01-11\n");
    assert!(error.contains("cannot tell user and item") && error.contains("--item-col"), "{error}");
    // With a header of unknown names, the user must specify the columns.
    let error = refusal("who,when,what\n1,2011-01-10,5\n2,2011-01-11,6\n");
    assert!(error.contains("--user-col"), "{error}");
}

#[test]
fn words_for_clicks_are_ratings_and_zeros_are_warned_of() {
    let expected = imported("user,item,clicked\na,x,1\na,y,0\nb,x,0\nb,z,1\n", ImportOptions::default());
    assert_eq!(expected.1.ratings, Some([0.0, 1.0]));
    let flag = |talk: &str| talk.contains("warning: ") && talk.contains("--min-rating 1 keeps only the clicks");
    assert!(flag(&expected.2) && expected.2.contains("2 of 4 rows are rated 0"), "{}", expected.2);
    for (name, yes, no) in [
        ("clicked", "True", "False"),
        ("label", "true", "false"),
        ("is_click", "yes", "no"),
        ("rating", "TRUE", "FALSE"),
    ] {
        let text = format!("user,item,{name}\na,x,{yes}\na,y,{no}\nb,x,{no}\nb,z,{yes}\n");
        let (data, _, talk) = imported(&text, ImportOptions::default());
        assert_eq!(data.fingerprint(), expected.0.fingerprint(), "{name}");
        assert!(flag(&talk), "{talk}");
        let clicks = ImportOptions { min_rating: Some(1.0), ..Default::default() };
        let (data, _, talk) = imported(&text, clicks);
        assert!(data.interactions() == 2 && !talk.contains("warning"), "{talk}");
        let all = ImportOptions { min_rating: Some(0.0), ..Default::default() };
        assert!(!imported(&text, all).2.contains("warning"));
    }
    let (_, summary, talk) = imported("a,x,True\na,y,False\nb,x,False\n", ImportOptions::default());
    assert!(summary.ratings == Some([0.0, 1.0]) && flag(&talk), "{talk}");
    // Stars are not clicks, and a word among numbers is not a rating.
    assert!(!imported("user,item,rating\na,x,1\na,y,3\n", ImportOptions::default()).2.contains("warning"));
    let error = refusal("user,item,rating\na,x,1\na,y,3\nb,x,no\nb,z,4\n");
    assert!(error.contains("'no' is not a rating"), "{error}");
}

#[test]
fn clicks_in_parquet_are_what_they_are_in_text() {
    let schema = "message log { required binary user (UTF8); required binary item (UTF8); required boolean clicked; \
                  required int64 visited (TIMESTAMP_MILLIS); }";
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(schema).unwrap()), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for cells in [["a", "a", "b", "b"], ["x", "y", "x", "z"]] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&cells.map(ByteArray::from), None, None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<BoolType>().write_batch(&[true, false, false, true], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let times = [1_700_000_000_000, 1_600_000_000_000, 1_700_000_000_000, 1_700_000_001_000];
    column.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let desk = Desk::new();
    let (data, _, talk) = desk.import(&[desk.write("log.parquet", bytes)], &ImportOptions::default()).unwrap();
    assert!(talk.contains("2 of 4 rows are rated 0") && talk.contains("--min-rating 1"), "{talk}");
    let text = "user,item,clicked,visited\na,x,True,2023-11-14 22:13:20\na,y,False,2020-09-13 12:26:40\n\
                b,x,False,2023-11-14 22:13:20\nb,z,True,2023-11-14 22:13:21\n";
    assert_eq!(data.fingerprint(), imported(text, ImportOptions::default()).0.fingerprint());
}

#[test]
fn lists_in_cells_are_no_keys() {
    // They are read as lists, need a flag, or are rejected; they are never keys.
    for list in ["\"[3, 4, 5]\"", "[3 4 5]", "\"(3, 4)\"", "\"['a', 'b']\"", "\"{3, 4}\"", "[3]"] {
        let text: String = (0..20).map(|n| format!("{n},{list},2024-05-01\n")).collect();
        let error = refusal(format!("user_id,item_id,time\n{text}"));
        assert!(error.contains("list") && error.contains("hint:"), "{list}: {error}");
    }
    let error = refusal("user,item\n\"(3, 4)\",x\n\"(3, 5)\",y\n");
    assert!(error.contains("column 'user' holds lists") && error.contains("one row for each entry"), "{error}");
    let rows: String = (0..1000).map(|n| format!("u{},i{}\n", n % 30, n % 70)).collect();
    let (_, _, talk) = imported(format!("user,item\n{rows}u1,\"[3, 4]\"\nu1,[REC]\n"), ImportOptions::default());
    assert!(talk.contains("warning: 1 of 72 items look like lists, such as '[3, 4]'"), "{talk}");
    assert!(!imported("user,item\na,[REC]\nb,(500) Days\n", ImportOptions::default()).2.contains("warning"));
}
