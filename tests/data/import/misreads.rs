//! Logs that could be misread silently: recurring times, yes-or-no values, kinds of events, parts of folders.

use std::fs;

use mipgpu::data::ImportOptions;

use crate::import::{Desk, histories, imported, refusal};

/// Returns 300 rows with columns in the order of `form`: u(ser), t(ime), i(tem), r(ating).
fn log(form: &str, time: impl Fn(usize) -> String) -> String {
    let cell = |column: char, n: usize| match column {
        'u' => (n * 7 % 20).to_string(),
        't' => time(n),
        'i' => (n * 13 % 50).to_string(),
        _ => (1 + n % 5).to_string(),
    };
    (0..300).map(|n| form.chars().map(|c| cell(c, n)).collect::<Vec<_>>().join(",") + "\n").collect()
}

fn columns(user: usize, item: usize, time: usize) -> ImportOptions {
    let name = |n: usize| Some(n.to_string());
    ImportOptions { user_col: name(user), item_col: name(item), time_col: name(time), ..Default::default() }
}

#[test]
fn times_that_come_again_are_no_keys() {
    let busy = |n: usize| (1_700_000_000 + n / 12).to_string();
    let hours = |n: usize| (1_699_999_200 + n / 40 * 3600).to_string();
    let millis = |n: usize| (1_700_000_000_000 + n as u64 / 12 * 1000).to_string();
    for time in [&busy as &dyn Fn(usize) -> String, &hours, &millis] {
        let right = histories(&imported(log("uit", time), columns(1, 2, 3)).0);
        for form in ["tui", "uti", "tuir"] {
            let (data, _, talk) = imported(log(form, time), ImportOptions::default());
            assert_eq!(histories(&data), right, "{form}: {talk}");
            let place = form.find('t').unwrap() + 1;
            assert!(talk.contains("warning: ") && talk.contains(&format!("column {place} is read as the time")));
            assert!(talk.contains("--user-col"), "{talk}");
        }
    }
    // Ratings and one column of keys: the columns are ambiguous.
    let error = refusal(log("tir", busy));
    assert!(error.contains("column 1 holds numbers of the size of times") && error.contains("--time-col 1"), "{error}");
}

#[test]
fn dates_of_any_layout_are_no_keys() {
    for (layout, format) in [
        ("%d/%m/%Y", "01/05/2024"),
        ("%d/%m/%Y %H:%M", "01/05/2024 10:00"),
        ("%d.%m.%Y", "01.05.2024"),
        ("%d-%b-%Y", "01-May-2024"),
        ("%d %b %Y %H:%M", "01 May 2024 10:00"),
        ("%Y%m%dT%H%M%SZ", "202405AAT103000Z"),
        ("%Y-%m-%d %I:%M %p", "2024-05-AA 10:30 PM"),
        ("%d/%m/%y", "AA/05/24"),
    ] {
        let day = if format.contains("AA") { "AA" } else { "01" };
        let time = |n: usize| format.replacen(day, &format!("{:02}", 1 + n / 12), 1);
        let named = |user, item, time| ImportOptions { time_format: Some(layout.into()), ..columns(user, item, time) };
        let right = histories(&imported(log("uit", time), named(1, 2, 3)).0);
        for form in ["tui", "uti"] {
            let error = refusal(log(form, time));
            assert!(error.contains("--time-format") && error.contains(layout), "{form} {layout}: {error}");
            let format = ImportOptions { time_format: Some(layout.into()), ..Default::default() };
            let (data, _, talk) = imported(log(form, time), format);
            assert_eq!(histories(&data), right, "{form}: {talk}");
            assert!(talk.contains("is read as the time"), "{talk}");
        }
    }
}

#[test]
fn dates_of_digits_are_no_keys() {
    let day = |n: usize| (20_240_501 + n / 12).to_string();
    let second = |n: usize| (20_240_501_103_000 + n as u64 / 2).to_string();
    for (time, layout) in [(&day as &dyn Fn(usize) -> String, "%Y%m%d"), (&second, "%Y%m%d%H%M%S")] {
        let right = histories(&imported(log("uit", time), columns(1, 2, 3)).0);
        for form in ["tui", "uti", "uit"] {
            let (data, _, talk) = imported(log(form, time), ImportOptions::default());
            assert_eq!(histories(&data), right, "{form}: {talk}");
            assert!(talk.contains("warning: ") && talk.contains(&format!("--time-format {layout}\n")), "{talk}");
        }
    }
}

#[test]
fn columns_of_yes_and_no_are_warned_of() {
    let rows = |name: &str, yes: &str, no: &str| {
        let row = |n: usize| format!("u{},i{},{},{}\n", n % 5, n % 7, 1_700_000_000 + n, [yes, no][n % 2]);
        format!("user,item,time,{name}\n") + &(0..40).map(row).collect::<String>()
    };
    for (name, yes, no) in [
        ("watched", "True", "False"),
        ("shown_only", "true", "false"),
        ("is_watched", "1", "0"),
        ("has_order", "1", "0"),
        ("verified", "yes", "no"),
    ] {
        let (_, _, talk) = imported(rows(name, yes, no), ImportOptions::default());
        assert!(talk.contains(&format!("column '{name}' holds yes or no and is ignored")), "{talk}");
        assert!(talk.contains(&format!("--where {name}={yes}")) && talk.contains(&format!("--rating-col {name}")));
        let only = ImportOptions { wheres: vec![format!("{name}={yes}").parse().unwrap()], ..Default::default() };
        let (data, _, talk) = imported(rows(name, yes, no), only);
        assert!(data.interactions() == 20 && !talk.contains("yes or no"), "{talk}");
        let none = ImportOptions { rating_col: Some("none".into()), ..Default::default() };
        assert!(!imported(rows(name, yes, no), none).2.contains("yes or no"));
    }
    assert!(!imported(rows("page", "1", "0"), ImportOptions::default()).2.contains("yes or no"), "a number");
    let lines: String = (0..20)
        .map(|n| format!("{{\"user\": {}, \"item\": {n}, \"time\": {n}, \"shown_only\": {}}}\n", n % 3, n % 2 == 0))
        .collect();
    assert!(imported(lines, ImportOptions::default()).2.contains("--where shown_only=true"));
}

#[test]
fn kinds_of_events_are_known_by_their_words_under_any_name() {
    let kinds = ["view", "purchase", "cart"];
    let rows: String =
        (0..60).map(|n| format!("u{},i{},{},{}\n", n % 5, n % 7, 1_700_000_000 + n, kinds[n % 3])).collect();
    for name in ["status", "type", "event"] {
        let (_, _, talk) = imported(format!("user,item,time,{name}\n{rows}"), ImportOptions::default());
        assert!(talk.contains(&format!("column '{name}' is ignored and holds cart (20), purchase (20), view (20)")));
    }
    let lines: String = (0..60)
        .map(|n| format!("{{\"user\": {}, \"item\": {n}, \"time\": {n}, \"type\": \"{}\"}}\n", n % 3, kinds[n % 3]))
        .collect();
    assert!(imported(lines, ImportOptions::default()).2.contains("column 'type' is ignored and holds cart (20)"));
}

#[test]
fn a_log_of_missing_users_only_is_warned_of() {
    let rows: String = (0..30).map(|n| format!("NA,{n},{n}\n")).collect();
    let (_, _, talk) = imported(format!("user,item,time\n{rows}"), ImportOptions::default());
    assert!(talk.contains("warning: 30 of 30 rows (100.0 %) have the user 'NA'") && talk.contains("--missing drop"));
}

#[test]
fn the_unit_of_times_is_that_of_most() {
    let log = |odd: &dyn Fn(usize) -> Option<u64>| {
        let time = |n: usize| odd(n).unwrap_or(1_700_000_000 + n as u64);
        "user,item,time\n".to_owned()
            + &(0..300).map(|n| format!("u{},i{},{}\n", n % 5, n % 7, time(n))).collect::<String>()
    };
    let mixed = log(&|n| n.is_multiple_of(6).then(|| (1_700_000_000 + n as u64) * 1000));
    let far = log(&|n| (n == 4).then_some(253_402_300_799));
    let range = ImportOptions {
        time_range: Some(["2000-01-01".into(), "2030-01-01".into()]),
        skip_bad: true,
        ..Default::default()
    };
    for (text, left) in [(mixed, 250), (far, 299)] {
        let (_, summary, talk) = imported(&text, ImportOptions::default());
        assert_eq!((summary.time_unit.as_deref(), summary.interactions), (Some("s"), 300));
        assert!(talk.contains("warning: ") && talk.contains("--time-range"), "{talk}");
        assert_eq!(imported(&text, range.clone()).1.interactions, left);
    }
}

#[test]
fn whole_numbers_may_have_any_zeros_behind_the_point() {
    for zeros in [".0", ".00", ".000000"] {
        let rows: String =
            (0..40).map(|n| format!("{}{},{n}\n", n % 10, if n % 2 == n / 10 % 2 { zeros } else { "" })).collect();
        let text = format!("user,item\n{rows}");
        let (data, _, talk) = imported(&text, ImportOptions::default());
        assert_eq!(data.users(), 20);
        let said =
            format!("10 users occur in the log twice, as whole numbers and as reals, such as '0' and '0{zeros}'");
        assert!(talk.contains(&said), "{talk}");
        let whole = ImportOptions { whole_keys: true, ..Default::default() };
        let (data, _, talk) = imported(&text, whole);
        assert!(data.users() == 10 && !talk.contains("reals"), "{talk}");
    }
}

#[test]
fn dates_that_nobody_reads_are_named_with_their_flags() {
    let rows: String = (0..30).map(|n| format!("u{},i{n},{:02}/05/2024\n", n % 5, n + 1)).collect();
    let (_, _, talk) = imported(format!("user_id,item_id,when\n{rows}"), ImportOptions::default());
    assert!(talk.contains("warning: ") && talk.contains("--time-col when --time-format %d/%m/%Y,"), "{talk}");
    let rows: String = (0..30).map(|n| format!("u{},i{n},2024,5,{}\n", n % 5, n + 1)).collect();
    let (_, _, talk) = imported(format!("user,item,year,month,day\n{rows}"), ImportOptions::default());
    assert!(talk.contains("columns 'year', 'month' and 'day' look like a date in parts"), "{talk}");
    let none = ImportOptions { time_col: Some("none".into()), ..Default::default() };
    assert!(!imported(format!("user,item,year,month,day\n{rows}"), none).2.contains("warning"));
}

#[test]
fn parts_of_a_folder_come_in_the_order_of_their_numbers() {
    let desk = Desk::new();
    let folder = desk.write("x", "").with_file_name("parts");
    fs::create_dir(&folder).unwrap();
    for n in 0..12 {
        fs::write(folder.join(format!("part.{n}.csv")), format!("user,item\nu,i{n}\n")).unwrap();
    }
    let (data, ..) = desk.import(&[folder], &ImportOptions::default()).unwrap();
    let expected: Vec<String> = (0..12).map(|n| format!("i{n}")).collect();
    assert_eq!(histories(&data), [("u".to_owned(), expected)]);
}

#[test]
fn a_delimiter_at_the_end_of_all_rows_is_no_column() {
    let rows = |end: &str| (0..40).map(|n| format!("u{},i{n},{n}{end}\n", n % 5)).collect::<String>();
    let right = histories(&imported(format!("user,item,time\n{}", rows("")), ImportOptions::default()).0);
    for (header, end) in [("user,item,time", ","), ("user,item,time,", ""), ("user,item,time,", ",")] {
        let (data, _, talk) = imported(format!("{header}\n{}", rows(end)), ImportOptions::default());
        assert_eq!(histories(&data), right, "{header} {end}: {talk}");
    }
    // A row name before the columns, as R writes it: the assignment of names to columns is ambiguous.
    let rows: String = (0..40).map(|n| format!("{n},u{},i{n},{n}\n", n % 5)).collect();
    let error = refusal(format!("user,item,time\n{rows}"));
    assert!(error.contains("one field more than the header") && error.contains("row.names = FALSE"), "{error}");
}

#[test]
fn a_time_that_begins_late_in_json_lines_is_warned_of() {
    let line = |n: usize| {
        let time = if n < 210 { String::new() } else { format!(", \"timestamp\": {}", 1_700_000_000 - n) };
        format!("{{\"user_id\": {}, \"item_id\": {n}{time}}}\n", n % 20)
    };
    let text: String = (0..300).map(line).collect();
    let (_, _, talk) = imported(&text, ImportOptions::default());
    assert!(
        talk.contains("warning: ") && talk.contains("'timestamp' comes first in line 211 and is ignored"),
        "{talk}"
    );
    assert!(talk.contains("--time-col timestamp") && talk.contains("--time-col none"), "{talk}");
    let wish = |name: &str| ImportOptions { time_col: Some(name.into()), ..Default::default() };
    assert!(!imported(&text, wish("none")).2.contains("warning"));
    let (data, ..) = imported(&text, ImportOptions { skip_bad: true, ..wish("timestamp") });
    assert!(data.interactions() == 90 && data.item_keys().key(data.items_of(0)[0] as usize) != "210");
}

#[test]
fn lists_of_objects_get_a_command_that_takes_them_apart() {
    let line =
        |n: usize| format!("{{\"user_id\": {n}, \"created_at\": {n}, \"items\": [{{\"item_id\": \"i{n}\"}}]}}\n");
    let error = refusal((0..20).map(line).collect::<String>());
    assert!(error.contains("line 1, column 'items': the list holds objects"), "{error}");
    assert!(error.contains("jq -c '.items[] as $x | del(.items) + $x' FILE"), "{error}");
}

#[test]
fn rows_that_repeat_the_header_are_skipped_and_counted() {
    let rows = |from: usize| (from..from + 10).map(|n| format!("u{},i{n}\n", n % 3)).collect::<String>();
    let timed = |from: usize| (from..from + 10).map(|n| format!("u{},i{n},{n}\n", n % 3)).collect::<String>();
    // Lines 12 and 23. A column that is not read may differ.
    for (header, again, rows) in [
        ("user,item\n", "user,item\n", &rows as &dyn Fn(usize) -> String),
        ("user,item\n", "\u{feff}\"user\",\"item\"\n", &rows),
        ("user,item,time\n", "user,item,time\n", &timed),
        ("user,item,time,\n", "user,item,time,more\n", &timed),
    ] {
        let right = imported(format!("{header}{}{}{}", rows(0), rows(10), rows(20)), ImportOptions::default()).0;
        let text = format!("{header}{}{again}{}{again}{}", rows(0), rows(10), rows(20));
        for skip_bad in [false, true] {
            let (data, summary, talk) = imported(&text, ImportOptions { skip_bad, ..Default::default() });
            assert_eq!(data.fingerprint(), right.fingerprint(), "{again}: {talk}");
            assert_eq!((summary.rows, summary.repeated_headers, summary.dropped_bad), (30, 2, 0), "{talk}");
            assert!(talk.contains("2 rows repeat the header (first in line 12) and are skipped"), "{talk}");
        }
    }
    // Names that are recognised only because they are not numbers.
    let text = "who,what\n1,2\n3,4\nwho,what\n5,6\n";
    let named = ImportOptions { user_col: Some("who".into()), item_col: Some("what".into()), ..Default::default() };
    assert_eq!(imported(text, named).1.interactions, 3);
    // Several files, of which the second begins with the header or repeats it.
    let desk = Desk::new();
    let (one, two) = (desk.write("1.csv", "user,item\na,x\n"), desk.write("2.csv", "user,item\nuser,item\nb,y\n"));
    let (data, summary, talk) = desk.import(&[one.clone(), two], &ImportOptions::default()).unwrap();
    assert_eq!((data.users(), summary.rows, summary.repeated_headers), (2, 2, 1), "{talk}");
    assert!(talk.contains("2.csv: 1 row repeats the header (line 2) and is skipped"), "{talk}");
    let three = desk.write("3.csv", "who,what\n1,2\nwho,what\n3,4\n");
    let four = desk.write("4.csv", "who,what\nx,y\n");
    let options = ImportOptions { force: true, ..Default::default() };
    let named = ImportOptions { user_col: Some("who".into()), item_col: Some("what".into()), ..options };
    let (data, _, talk) = desk.import(&[three, four], &named).unwrap();
    assert_eq!((data.users(), data.interactions()), (3, 3), "{talk}");
    // Data that equal the name of a column are data.
    let (data, ..) = imported("user,item\nuser,x\nb,item\n", ImportOptions::default());
    assert_eq!(data.interactions(), 2);
    let bare = ImportOptions { no_header: true, ..Default::default() };
    assert_eq!(imported("user,item\na,x\nuser,item\n", bare).1.interactions, 3);
}

#[test]
fn columns_of_one_name_are_warned_of() {
    let text = "user,item,item,time\na,x,p,1\nb,y,q,2\n";
    let (data, _, talk) = imported(text, ImportOptions::default());
    assert!(data.item_keys().find("x").is_some());
    assert!(
        talk.contains("warning: ") && talk.contains("columns 2, 3 are all called 'item', and only column 2 is read")
    );
    assert!(talk.contains("--item-col 2 keeps it, --item-col 3 reads the other"), "{talk}");
    for (column, key) in [("2", "x"), ("3", "p")] {
        let options = ImportOptions { item_col: Some(column.into()), ..Default::default() };
        let (data, _, talk) = imported(text, options);
        assert!(data.item_keys().find(key).is_some() && !talk.contains("warning"), "{talk}");
    }
    assert!(!imported("user,item,n,n\na,x,1,2\n", ImportOptions::default()).2.contains("called"), "none is read");
}

#[test]
fn rows_with_empty_fields_at_their_end_shift_nothing() {
    for (separator, end) in [(",", ",,,"), (",", ", ,"), ("\t", "\t\t"), (";", ";;"), ("::", "::::")] {
        let row = |n: usize| {
            let row = format!("u{}#i{n}#{}#4", n % 5, 1_700_000_000 + n).replace('#', separator);
            format!("{row}{}\n", if n % 3 == 1 { end } else { "" })
        };
        let header = if separator == "::" { String::new() } else { "user#item#time#rating\n".replace('#', separator) };
        let rows: String = (0..40).map(row).collect();
        let (data, _, talk) = imported(format!("{header}{rows}"), ImportOptions::default());
        assert!(data.interactions() == 40 && !talk.contains("more fields"), "{separator}: {talk}");
        let shifted = rows.replacen(end, &format!("{end}x"), 1);
        let (_, _, talk) = imported(format!("{header}{shifted}"), ImportOptions::default());
        assert!(talk.contains("has more fields than columns: a delimiter"), "{separator}: {talk}");
    }
}

#[test]
fn exact_duplicates_are_counted() {
    let text = "user,item,rating,time\na,x,3,1\na,x,3,1\na,y,3,1\na,x,4,1\na,x,3,2\nb,x,3,1\na,x,3,1\n";
    assert_eq!(imported(text, ImportOptions::default()).1.equal_rows, 2);
    assert_eq!(imported("user,item\na,x\na,x\n", ImportOptions::default()).1.equal_rows, 0, "a user may come back");
    let desk = Desk::new();
    let (log, out) = (desk.write("log.csv", text), desk.out());
    let (code, stdout, _) = crate::import::cli(&["import", log.to_str().unwrap(), "--out", out.to_str().unwrap()], "1");
    let said = "duplicates  kept (a user may have an item several times); 2 rows repeat an earlier one exactly";
    assert!(code == 0 && stdout.contains(said), "{stdout}");
}
