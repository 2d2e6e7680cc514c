//! Logs that cannot be imported: each is rejected with its place and reason, and leaves no files.

use std::{
    fs,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
};

use mipgpu::data::{Dataset, ImportOptions, import};

use crate::import::{
    Desk, builtin, builtin_rows,
    formats::{gzip, parquet_file},
    imported, refusal, refusal_of,
};

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
    // Text in another encoding does no harm in a column that is not read.
    assert_eq!(imported(b"user,item,title\na,x,Am\xe9lie\n", Default::default()).0.users(), 1);
}

/// An impossible rating: with a given range it is a bad row like any other, without one it causes a warning, in
/// every format.
#[test]
fn ratings_out_of_range_are_refused_or_told() {
    let stars: String = (0..300).map(|i| format!("u{},i{},{}\n", i % 30, i % 17, 1 + i % 5)).collect();
    let log = format!("user,item,rating\n{stars}u1,i2,1e30\n");
    let within = |least, most| ImportOptions { rating_range: Some([least, most]), ..Default::default() };
    let error = refusal_of("log.csv", &log, within(1.0, 5.0)).to_string();
    assert!(error.contains("line 302, column 'rating': rating '1e30' is outside --rating-range 1,5"), "{error}");
    let error = refusal_of("log.csv", &log, within(1.5, 1e38)).to_string();
    assert!(error.contains("line 2, column 'rating': rating '1' is outside --rating-range 1.5,"), "{error}");
    let (data, summary, _) = imported(&log, ImportOptions { skip_bad: true, ..within(1.0, 5.0) });
    assert_eq!((summary.dropped_bad, data.interactions()), (1, 300));
    assert_eq!((summary.ratings, summary.other_ratings_below), (Some([1.0, 5.0]), None));
    let (_, summary, _) = imported(&log, Default::default());
    assert_eq!((summary.ratings, summary.other_ratings_below), (Some([1.0, 1e30]), Some(8.0)));
    // Rows that --min-rating drops do not matter.
    let (_, summary, _) =
        imported(log.replace("1e30", "-1e30"), ImportOptions { min_rating: Some(1.0), ..Default::default() });
    assert_eq!((summary.ratings, summary.other_ratings_below), (Some([1.0, 5.0]), None));
    let error = refusal_of("log.parquet", parquet_file(&builtin_rows()[..3000]), within(1.0, 4.0)).to_string();
    assert!(error.contains("row ") && error.contains("rating '5' is outside --rating-range 1,4"), "{error}");
    let error = refusal_of("l.csv", "user,item\na,b\n", within(1.0, 5.0)).to_string();
    assert!(error.contains("--rating-range needs a rating"), "{error}");
}

#[test]
fn a_header_of_unknown_names_is_taken_for_one_and_told_how_to_name() {
    let log = "who,what,the day\nanna,tea,2024-05-01\nbob,cup,2024-05-02\n";
    let error = refusal(log);
    for word in
        ["line 1, column 3 (time): 'the day' is not a time", "--user-col who --item-col what --time-col \"the day\""]
    {
        assert!(error.contains(word), "{error}");
    }
    // The first command of the hint works, also with only one of the names; so does the second.
    let named = ImportOptions { user_col: Some("who".into()), item_col: Some("what".into()), ..Default::default() };
    let data = imported(log, ImportOptions { time_col: Some("the day".into()), ..named.clone() }).0;
    assert_eq!((data.users(), data.interactions()), (2, 2));
    assert_eq!(imported(log, named).0.users(), 2);
    assert_eq!(imported(log, ImportOptions { skip_bad: true, ..Default::default() }).0.users(), 2);
    let told =
        refusal_of("log.csv", "user,item,time\na,x,9\n", ImportOptions { no_header: true, ..Default::default() });
    assert!(told.to_string().contains("leave --no-header out"), "{told}");
    // A first row that is data remains data, and a later row is not a header.
    for log in ["a,x,2024-05-0l\nb,y,2024-05-02\n", "a,x,2024-05-01\nwho,what,when\nb,y,2024-05-02\n"] {
        assert!(refusal(log).contains("correct the row"), "{}", refusal(log));
    }
    let error = refusal("me,x\n1,2\n3,4\n");
    assert!(error.contains("--no-header"), "{error}");
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
    let folder = desk.dir.path().join("empty");
    fs::create_dir(&folder).unwrap();
    let error = desk.import(&[folder], &Default::default()).unwrap_err().to_string();
    assert!(error.contains("there is no file with data in this folder"), "{error}");
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
    desk.import(std::slice::from_ref(&one), &Default::default()).unwrap();
    let error = desk.import(std::slice::from_ref(&two), &Default::default()).unwrap_err().to_string();
    assert!(error.contains("already there") && error.contains("--force"), "{error}");
    // A forced import that fails leaves the old data unchanged.
    let force = ImportOptions { force: true, ..Default::default() };
    desk.import(&[desk.write("3.csv", "user,item\nc\n")], &force).unwrap_err();
    assert_eq!(Dataset::open(&desk.out()).unwrap().user_keys().key(0), "a");
    let (data, _, _) = desk.import(&[two], &force).unwrap();
    assert_eq!(data.user_keys().key(0), "b");
    assert_eq!(fs::read_dir(desk.out().parent().unwrap()).unwrap().count(), 1);
}

/// The next import repairs what a kill between the two renames of a forced import leaves.
#[test]
fn a_replacement_killed_half_way_is_mended_by_the_next_import() {
    let desk = Desk::new();
    let (one, two) = (desk.write("1.csv", "user,item\na,x\n"), desk.write("2.csv", "user,item\nb,y\n"));
    desk.import(std::slice::from_ref(&one), &Default::default()).unwrap();
    let name = desk.out().file_name().unwrap().to_string_lossy().into_owned();
    let aside = desk.out().with_file_name(format!(".{name}.replaced"));
    // Killed before the new data were renamed: the old data are restored, and not overwritten without --force.
    fs::rename(desk.out(), &aside).unwrap();
    let error = desk.import(std::slice::from_ref(&two), &Default::default()).unwrap_err().to_string();
    assert!(error.contains("already there"), "{error}");
    assert_eq!(Dataset::open(&desk.out()).unwrap().user_keys().key(0), "a");
    // Killed after that: the old data are removed.
    fs::create_dir(&aside).unwrap();
    let (data, _, _) = desk.import(&[two], &ImportOptions { force: true, ..Default::default() }).unwrap();
    assert_eq!(data.user_keys().key(0), "b");
    assert!(!aside.exists());
}

#[test]
fn text_after_a_closing_quote_is_kept() {
    let desk = Desk::new();
    let log = desk.write("q.csv", "user,item\n\"abc\"def,x\n\"abc\" ,y\nabc,z\n");
    let (data, _, _) = desk.import(&[log], &Default::default()).unwrap();
    let keys: Vec<&str> = (0..data.users()).map(|u| data.user_keys().key(u)).collect();
    assert_eq!(keys, ["\"abc\"def", "abc"], "two users, not one");
}

#[test]
fn quoted_blanks_alone_are_no_log() {
    let error = refusal_of("l.csv", "\"\"\n\"\"\n", ImportOptions::default());
    assert!(error.to_string().contains("l.csv"), "{error}");
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
fn keys_that_exceed_the_memory_stop_the_import() {
    let desk = Desk::new();
    let options = ImportOptions { memory_bytes: 200 << 10, ..Default::default() };
    let error = desk.import(&[builtin()], &options).unwrap_err().to_string();
    assert!(error.contains("alone take") && error.contains("--memory-mb"), "{error}");
}

#[test]
fn numbers_with_a_decimal_comma_are_named_as_such() {
    let text = "user;item;rating;time\na;x;4;1700000000\na;y;3,5;1700000001\n";
    let error = refusal(text);
    assert!(error.contains("line 3, column 'rating': the rating '3,5' has a decimal comma"), "{error}");
    let (sed, skip) = (error.find("sed -E 's/([0-9]),([0-9])/\\1.\\2/g'"), error.find("--skip-bad"));
    assert!(sed.is_some() && sed < skip && error.contains("decimal=','"), "{error}");
    let error = refusal("user;item;time\na;x;1700000000,5\na;y;1700000001,25\n");
    assert!(error.contains("line 2, column 'time': the time '1700000000,5' has a decimal comma"), "{error}");
    // Between commas, sed would treat them as delimiters.
    let error = refusal("user,item,rating\na,x,4\na,y,\"3,5\"\n");
    assert!(error.contains("decimal comma") && !error.contains("sed -E") && error.contains("decimal=','"), "{error}");
    assert!(refusal("user;item;rating\na;x;1,2,3\n").contains("'1,2,3' is not a rating"));
}

#[test]
fn empty_ratings_are_named_as_such() {
    for (cell, says) in [
        ("", "the rating is empty\n"),
        ("NA", "the rating is empty ('NA')"),
        ("null", "the rating is empty ('null')"),
        ("\\N", "the rating is empty ('\\N')"),
    ] {
        let error = refusal(format!("user,item,rating,ts\na,y,3,1\na,x,{cell},2\n"));
        assert!(error.contains(&format!("line 3, column 'rating': {says}")), "{error}");
        assert!(error.contains("--rating-col none") && error.contains("--skip-bad"), "{error}");
    }
}

#[test]
fn foreign_files_get_python_that_runs() {
    let error = refusal_of("g.pkl", b"\x80\x04\x95", ImportOptions::default()).to_string();
    assert!(error.contains("g.pkl').to_parquet('OUT.parquet')") && error.contains("read_pickle('/"), "{error}");
    let error = refusal_of("it's.feather", b"ARROW1\0\0", ImportOptions::default()).to_string();
    assert!(error.contains("it\\'s.feather').to_parquet('OUT.parquet')"), "{error}");
}

#[test]
fn a_known_layout_is_the_only_hint_beside_the_order() {
    let error = refusal("user,item,timestamp\na,x,13/02/2023\nb,y,14/02/2023\n");
    assert!(error.contains("add --time-format %d/%m/%Y; or use the order of the rows with --time-col none"), "{error}");
    assert!(!error.contains("none of the first rows"), "{error}");
}
