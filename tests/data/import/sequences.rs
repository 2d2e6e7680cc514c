//! Rows with whole histories: read as such if nothing else is possible, otherwise a flag must decide.

use std::sync::Arc;

use mipgpu::data::{Dataset, ImportOptions};
use parquet::{
    data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};

use crate::import::{Desk, cli, histories, imported, refusal, refusal_of};

fn sep(list_sep: &str) -> ImportOptions {
    ImportOptions { list_sep: Some(list_sep.into()), ..Default::default() }
}

/// User `n` of 30 has 6 to 9 items (6 if `fixed`), a function of `n`.
fn items_of(n: usize, fixed: bool) -> Vec<String> {
    (0..if fixed { 6 } else { 6 + n % 4 }).map(|i| ((n * 7 + i * 5) % 40 + 1).to_string()).collect()
}

fn sequences(between: &str, first: &str, fixed: bool) -> String {
    (0..30).map(|n| format!("{}{first}{}\n", n + 1, items_of(n, fixed).join(between))).collect()
}

fn expected(fixed: bool) -> Vec<(String, Vec<String>)> {
    (0..30).map(|n| ((n + 1).to_string(), items_of(n, fixed))).collect()
}

#[test]
fn a_line_a_user_is_read_as_one() {
    for (text, options) in [
        (sequences(" ", " ", false), ImportOptions::default()),
        (sequences(" ", " ", false), ImportOptions { delimiter: Some("space".into()), ..Default::default() }),
        (sequences("  ", "  ", false).replace('\n', " \r\n"), ImportOptions::default()),
        (sequences("\t", "\t", false), ImportOptions::default()),
        (sequences(",", ",", false), sep("comma")),
        (sequences(",", ",", false).replace('\n', ",\n"), sep(",")),
        (sequences("|", "|", false), sep("pipe")),
        (format!("user items\n{}", sequences(" ", " ", false)), ImportOptions::default()),
        (format!("# made by hand\n{}", sequences(" ", " ", false)), ImportOptions::default()),
        // A cell is the list.
        (sequences(" ", "\t", false), ImportOptions::default()),
        (sequences(" ", ",", false), ImportOptions::default()),
        (sequences(",", "\t", false), ImportOptions::default()),
        (sequences("|", ",", false), ImportOptions::default()),
        (format!("user_id\tmovie_ids\n{}", sequences(" ", "\t", false)), ImportOptions::default()),
        (format!("user_id:token\titem_id_list:token_seq\n{}", sequences(" ", "\t", false)), ImportOptions::default()),
    ] {
        let (data, summary, talk) = imported(&text, options);
        assert_eq!(histories(&data), expected(false), "{text:.60}: {talk}");
        assert_eq!(summary.rows, 223, "seven times 6 + 7 + 8 + 9, and 6 + 7");
        assert!(talk.contains("a list separated by") && talk.contains("oldest first"), "{talk}");
        assert!(!talk.contains("warning"), "{talk}");
    }
}

#[test]
fn equal_lines_may_be_a_table_and_are_asked_for() {
    for (text, word) in [
        (sequences(" ", " ", true), "space"),
        (sequences("\t", "\t", true), "tab"),
        (sequences(",", ",", true), "comma"),
        (sequences(",", ",", false), "comma"),
    ] {
        let error = refusal(&text);
        assert!(error.contains("a line may be a user and their items, or a row of a table"), "{error}");
        assert!(error.contains(&format!("--list-sep {word}")) && error.contains("--list-sep none"), "{error}");
    }
    let (data, summary, _) = imported(sequences(" ", " ", true), sep("space"));
    assert_eq!((histories(&data), summary.rows), (expected(true), 180));
    let (data, ..) = imported(sequences(" ", " ", true), sep("none"));
    assert_eq!((data.interactions(), data.items_of(0).len()), (30, 1), "as a table, since it was said so");
    let colons: String = (0..25).map(|n| format!("{n}:{},{}{}\n", n + 5, n + 9, ",7".repeat(n % 4))).collect();
    assert!(refusal(&colons).contains("a ':' separates the user from the items"), "{}", refusal(&colons));
    // Few lines show nothing for certain; words do not either.
    assert!(refusal("1 20 30 25\n2 21 22\n3 25 26 27 28\n").contains("--list-sep space"));
    assert!(refusal("u1 i20 i30 i25\nu2 i21 i22\nu3 i25 i26 i27 i28\n").contains("--list-sep space"));
    assert!(refusal("anna tea cup\nbob pot\ncarl tea pot cup mug\n").contains("--list-sep"));
}

#[test]
fn an_empty_cell_inside_a_line_is_never_read() {
    let log = "u1,a,b,c,,x,y\nu2,a,c\nu3,b,c,d,e\n";
    let error = refusal_of("log.csv", log, sep("comma")).to_string();
    assert!(error.contains("line 1") && error.contains("the item is empty"), "{error}");
    refusal_of("log.csv", log, ImportOptions::default());
    let lone = refusal_of("log.csv", "u1 5\nu2\nu3 6 7\n", sep("space")).to_string();
    assert!(lone.contains("line 2") && lone.contains("the list is empty"), "{lone}");
}

#[test]
fn words_may_be_titles_and_are_asked_for() {
    let titles: String =
        (0..25).map(|n| format!("u{n}\tThe {} of Number {}\n", ["Return", "End"][n % 2], n % 7)).collect();
    let error = refusal(&titles);
    assert!(error.contains("may be a list or one name") && error.contains("--list-sep none"), "{error}");
    let (data, ..) = imported(&titles, sep("none"));
    assert_eq!(data.item_keys().key(0), "The Return of Number 0");
    let (data, ..) = imported(&titles, sep("space"));
    assert_eq!(histories(&data)[0].1, ["The", "Return", "of", "Number", "0"]);
    // Recurring users show that it is not a file of sequences.
    let log: String = (0..25).map(|n| format!("u{}\tThe {n}\n", n % 5)).collect();
    assert_eq!(imported(log, Default::default()).0.interactions(), 25);
}

#[test]
fn lists_of_keys_with_digits_are_asked_for() {
    let items = |n: usize, separator: &str| {
        (0..2 + n % 3).map(|i| format!("it_{}x", (n * 7 + i * 13) % 40)).collect::<Vec<_>>().join(separator)
    };
    for (separator, word) in [(" ", "space"), ("|", "pipe"), (";", "semicolon")] {
        for users in [5, 30] {
            let bare: String = (0..30).map(|n| format!("u{}\t{}\n", n % users, items(n, separator))).collect();
            let row = |n: usize| format!("u{},{},{}\n", n % users, items(n, separator), 1_700_000_000 + n);
            let timed = format!("user_id,item_id,timestamp\n{}", (0..30).map(row).collect::<String>());
            for text in [bare, timed] {
                let error = refusal(&text);
                assert!(error.contains(&format!("--list-sep {word} reads it as a list")), "{text:.60}: {error}");
                let (_, summary, _) = imported(&text, sep(word));
                assert_eq!(summary.rows, 90, "ten times 2 + 3 + 4");
                assert_eq!(imported(&text, sep("none")).1.rows, 30);
            }
        }
    }
    // Lines of such keys, of equal and different lengths, with and without quotes.
    for (many, quote) in [(1, ""), (3, ""), (1, "\"")] {
        let line = |n: usize| {
            let items: Vec<String> =
                (0..4 + n % many).map(|i| format!("{quote}it_{}{quote}", (n * 7 + i * 13) % 53)).collect();
            format!("{quote}u{}{quote} {}\n", n % 9, items.join(" "))
        };
        let error = refusal((0..30).map(line).collect::<String>());
        assert!(error.contains("--list-sep space reads a line as a user and all their items"), "{error}");
    }
    // Titles cause no question, numbered or not.
    let titles = ["Toy Story 2", "Apollo 13", "Heat", "Ocean's 11, Part 2", "2001: A Space Odyssey"];
    let log: String = (0..30).map(|n| format!("u{}\t{}\t{}\n", n % 7, titles[n % 5], 1_700_000_000 + n)).collect();
    assert_eq!(imported(log, Default::default()).0.items(), 5);
}

#[test]
fn a_table_with_a_short_row_is_not_read_as_lists() {
    let row = |n: usize| format!("{} {} {} {}\n", n * 37 + 1000, n * 101 % 900, n % 24, n % 90 + 1);
    let text: String = (0..60).map(|n| if n == 40 { "2480 5 7\n".into() } else { row(n) }).collect();
    let text = text.replace('\n', " 12\n");
    let error = refusal(&text);
    assert!(error.contains("--list-sep none reads it as one interaction"), "{error}");
}

#[test]
fn recbole_benchmarks_name_the_list_that_is_not_read() {
    let log = "user_id:token\titem_id_list:token_seq\titem_id:token\n1\t3 4 5 6 7\t8\n2\t6 7 8 9 10\t11\n";
    let (data, _, talk) = imported(log, Default::default());
    assert_eq!(histories(&data)[0], ("1".into(), vec!["8".into()]));
    assert!(talk.contains("warning: ") && talk.contains("the list 'item_id_list' is ignored"), "{talk}");
    assert!(talk.contains("--item-col item_id_list"), "{talk}");
    let (data, ..) = imported(log, ImportOptions { item_col: Some("item_id_list".into()), ..Default::default() });
    assert_eq!(histories(&data)[1], ("2".into(), ["6", "7", "8", "9", "10"].map(String::from).to_vec()));
}

#[test]
fn lists_of_times_and_ratings_go_with_that_of_the_items() {
    let log = "user,item_ids,timestamps,ratings\na,\"[3, 4, 'x y']\",\"[30, 10, 20]\",\"[1.0, 2.0, 3.0]\"\n\
               b,\"[\"\"q\"\", 3]\",\"[1, 2]\",\"[4.0, 5.0]\"\n";
    let (data, _, talk) = imported(log, sep("comma"));
    assert_eq!(histories(&data)[0].1, ["4", "x y", "3"], "{talk}");
    assert_eq!((data.times_of(0).unwrap(), data.ratings_of(0).unwrap()), (&[10, 20, 30][..], &[2.0f32, 3.0, 1.0][..]));
    assert_eq!(histories(&data)[1].1, ["q", "3"]);
    let error = refusal_of("log.csv", log.replace("[1, 2]", "[1]"), sep("comma")).to_string();
    assert!(error.contains("line 3, column 'timestamps': the list has 1 elements, that of the items 2"), "{error}");
    // In a file without column names they are reported, and read with a flag.
    let bare: String = (0..25).map(|n| format!("u{n}\t{} {}\t1700000200 1700000100\n", n + 5, n + 9)).collect();
    let (data, _, talk) = imported(&bare, Default::default());
    assert!(talk.contains("column '3' holds a list of times") && talk.contains("--time-col 3"), "{talk}");
    assert_eq!(histories(&data)[0].1, ["5", "9"]);
    let (data, _, talk) = imported(&bare, ImportOptions { time_col: Some("3".into()), ..Default::default() });
    assert_eq!(
        (&*histories(&data)[0].1, data.times_of(0).unwrap()[0]),
        (&["9".to_owned(), "5".into()][..], 1_700_000_100)
    );
    assert!(!talk.contains("warning"), "{talk}");
    // Without the flag, the import asks for it, whether users recur or not.
    for log in ["user,item\na,\"[3, 4]\"\na,\"[5, 6]\"\n", "user\titem\nu1\t[3 4]\nu2\t[5]\n"] {
        let error = refusal(log);
        assert!(error.contains("may be a list or one name") && error.contains("--list-sep"), "{error}");
    }
    // One time per list: a basket.
    let (data, ..) = imported("user,items,time\na,\"3,4\",20\na,\"5,6\",10\n", sep("comma"));
    assert_eq!(
        (histories(&data)[0].1.clone(), data.times_of(0).unwrap()),
        (["5", "6", "3", "4"].map(String::from).to_vec(), &[10i64, 10, 20, 20][..])
    );
}

#[test]
fn histories_of_one_are_never_made_in_silence() {
    let once: String = (0..25).map(|n| format!("u{n} tea{}\n", n % 7)).collect();
    let (_, _, talk) = imported(&once, Default::default());
    assert!(
        talk.contains("warning: each of the 25 users has one interaction") && talk.contains("--list-sep none"),
        "{talk}"
    );
    let (_, _, talk) = imported(&once, sep("none"));
    assert!(!talk.contains("has one interaction"), "{talk}");
    let (_, _, talk) = imported(once + "u1 cup\n", Default::default());
    assert!(!talk.contains("has one interaction"), "{talk}");
}

#[test]
fn comments_before_the_first_row_are_skipped() {
    let rows = "1 1 1 1082040961\n1 2 1 1082155839\n2 1 1 1082414391\n";
    let plain = imported(rows, Default::default()).0;
    for comments in ["% bip unweighted\n% 3 2 2\n", "# Nodes: 4\n# From To\n", "%\n"] {
        let (data, _, talk) = imported(format!("{comments}{rows}"), Default::default());
        assert_eq!(data.fingerprint(), plain.fingerprint(), "{talk}");
        assert!(talk.contains("comment line"), "{talk}");
    }
    let error = refusal(format!("# two\n# lines\n{}", rows.replace("1082155839", "soon")));
    assert!(error.contains("line 4, column 4 (time): 'soon'"), "{error}");
    let (data, ..) = imported("sep=;\nuser;item\na;x\nb;y\n", Default::default());
    assert_eq!(data.users(), 2);
    // A key may begin with such a sign.
    let (data, ..) = imported("#tea,u1\n#cup,u2\n#tea,u2\n", Default::default());
    assert_eq!((data.users(), data.user_keys().key(0)), (2, "#tea"));
}

/// A table of users and lists: (user, items, times) as LIST columns with nullable elements.
fn parquet_lists(rows: &[(&str, &[i64], &[i64])]) -> Vec<u8> {
    let schema = "message log { required binary user_id (UTF8); \
                  optional group item_ids (LIST) { repeated group list { optional int64 element; } } \
                  optional group timestamps (LIST) { repeated group list { optional int64 element; } } }";
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(schema).unwrap()), Arc::default()).unwrap();
    for rows in rows.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let users: Vec<ByteArray> = rows.iter().map(|r| r.0.into()).collect();
        column.typed::<ByteArrayType>().write_batch(&users, None, None).unwrap();
        column.close().unwrap();
        for list in [|r: &(&str, &[i64], &[i64])| r.1.to_vec(), |r: &(&str, &[i64], &[i64])| r.2.to_vec()] {
            let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
            for row in rows {
                let list = list(row);
                if list.is_empty() {
                    definitions.push(1);
                    repetitions.push(0);
                }
                for (n, value) in list.iter().enumerate() {
                    repetitions.push(i16::from(n > 0));
                    // -1 means null.
                    definitions.push(if *value == -1 { 2 } else { 3 });
                    values.extend((*value != -1).then_some(*value));
                }
            }
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&values, Some(&definitions), Some(&repetitions)).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_lists_are_unrolled() {
    let bytes = parquet_lists(&[("a", &[3, 4, 5], &[30, 10, 20]), ("b", &[7], &[1]), ("c", &[9, 3], &[1, 2])]);
    let (data, summary, talk) = imported(&bytes, Default::default());
    let keys = |items: &[&str]| items.iter().map(|i| i.to_string()).collect::<Vec<_>>();
    assert_eq!(
        histories(&data),
        [("a".into(), keys(&["4", "5", "3"])), ("b".into(), keys(&["7"])), ("c".into(), keys(&["9", "3"]))],
        "{talk}"
    );
    assert_eq!(summary.rows, 6);
    assert!(talk.contains("'item_ids', a list, oldest first"), "{talk}");
    let csv = "user,item,time\na,3,30\na,4,10\na,5,20\nb,7,1\nc,9,1\nc,3,2\n";
    assert_eq!(imported(csv, Default::default()).0.fingerprint(), data.fingerprint());
    for (bytes, says) in [
        (
            parquet_lists(&[("a", &[3], &[1]), ("b", &[4, 5], &[1])]),
            "row 2, column 'timestamps': the list has 1 elements",
        ),
        (parquet_lists(&[("a", &[3], &[1]), ("b", &[], &[])]), "row 2, column 'item_ids': the list is empty"),
        (parquet_lists(&[("a", &[3], &[1]), ("b", &[4, -1], &[1, 2])]), "row 2, column 'item_ids': the item is empty"),
    ] {
        let error = refusal_of("log.parquet", &bytes, Default::default()).to_string();
        assert!(error.contains(says), "{error}");
        let (data, ..) = imported(&bytes, ImportOptions { skip_bad: true, ..Default::default() });
        assert_eq!(histories(&data)[0], ("a".into(), vec!["3".into()]));
    }
    // More users than one read processes.
    let users: Vec<String> = (0..2000).map(|n| format!("u{n}")).collect();
    let lists: Vec<Vec<i64>> = (0..2000).map(|n| (0..1 + n % 5).map(|i| (n * 3 + i) % 50).collect()).collect();
    let rows: Vec<(&str, &[i64], &[i64])> = users.iter().zip(&lists).map(|(u, l)| (&u[..], &l[..], &l[..])).collect();
    let options = ImportOptions { time_col: Some("none".into()), ..Default::default() };
    let (data, _, talk) = imported(parquet_lists(&rows), options.clone());
    let csv: String = rows.iter().flat_map(|(u, l, _)| l.iter().map(move |i| format!("{u},{i}\n"))).collect();
    assert_eq!(imported(format!("user,item\n{csv}"), options).0.fingerprint(), data.fingerprint(), "{talk}");
}

#[test]
fn decimals_of_parquet_are_keys() {
    let schema = "message log { required int32 user (DECIMAL(9,0)); required int64 item (DECIMAL(18,2)); \
                  required fixed_len_byte_array(5) rating (DECIMAL(10,1)); }";
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(schema).unwrap()), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[7, -8], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[300, -1250], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let fixed =
        [[0, 0, 0, 0, 45], [255, 255, 255, 255, 246]].map(|b| FixedLenByteArray::from(ByteArray::from(b.to_vec())));
    column.typed::<FixedLenByteArrayType>().write_batch(&fixed, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let (data, ..) = imported(&bytes, Default::default());
    assert_eq!(histories(&data), [("7".to_owned(), vec!["3".to_owned()]), ("-8".into(), vec!["-12.5".into()])]);
    assert_eq!((data.ratings_of(0).unwrap(), data.ratings_of(1).unwrap()), (&[4.5f32][..], &[-1.0f32][..]));
}

#[test]
fn the_flag_is_checked() {
    let desk = Desk::new();
    let log = desk.write("log.txt", sequences(" ", " ", true));
    let out = desk.out();
    let words = ["import", log.to_str().unwrap(), "--out", out.to_str().unwrap(), "--list-sep", "blank space"];
    let (code, _, stderr) = cli(&words, "1");
    assert!(code == 1 && stderr.contains("--list-sep 'blank space' is not one character"), "{stderr}");
    let (code, stdout, stderr) = cli(&[&words[..5], &["space"]].concat(), "1");
    assert!(code == 0 && stdout.contains("180 interactions"), "{stderr}");
    assert_eq!(Dataset::open(&out).unwrap().users(), 30);
}
