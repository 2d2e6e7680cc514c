//! Quotes in text columns: single ones and those that enclose a field; line ends; encodings.

use mipgpu::data::{Encoding, ImportOptions, Quotes};

use crate::import::{Desk, histories, imported, refusal, refusal_of};

const SEPARATORS: [&str; 4] = [",", "\t", ";", "|"];

fn with(quotes: Quotes) -> ImportOptions {
    ImportOptions { quotes, ..Default::default() }
}

/// Returns 60 rows of 6 users; the text of row `n` is `texts(n)`, in the last column if `last`.
fn log(separator: &str, last: bool, texts: impl Fn(usize) -> String) -> String {
    let header = if last { "user#item#time#title" } else { "user#item#title#time" };
    let row = |n: usize| {
        let (user, item, time, text) = (n % 6, n % 17, 1_700_000_000 + n, texts(n));
        if last { format!("u{user}#i{item}#{time}#{text}\n") } else { format!("u{user}#i{item}#{text}#{time}\n") }
    };
    format!("{header}\n{}", (0..60).map(row).collect::<String>()).replace('#', separator)
}

#[test]
fn lone_quotes_swallow_no_rows() {
    // The second quote closes nothing, is at the end of its field, or encloses its own field.
    for closing in ["\"Heroes live", "Heroes 12\"", "\"Heroes\"", "\"\"", "\""] {
        for (separator, last) in SEPARATORS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let text = log(separator, last, |n| match n {
                5 => "\"Station to Station".into(),
                34 => closing.into(),
                _ => "Low".into(),
            });
            let error = refusal(&text);
            assert!(error.contains("line 7: a quote is opened and never closed"), "{closing} {separator}: {error}");
            assert!(error.contains("--quotes line") && error.contains("--quotes none"), "{error}");
            for quotes in [Quotes::Line, Quotes::None] {
                let (data, summary, _) = imported(&text, with(quotes));
                assert_eq!((summary.rows, data.users(), data.interactions()), (60, 6, 60), "{closing} {separator}");
            }
            let (_, summary, talk) = imported(&text, ImportOptions { skip_bad: true, ..Default::default() });
            let bad = if closing.starts_with('"') && !closing.ends_with('"') || closing == "\"" { 2 } else { 1 };
            assert_eq!((summary.rows, summary.dropped_bad), (60, bad), "{closing} {separator}: {talk}");
        }
    }
}

#[test]
fn one_lone_quote_costs_one_line_of_many() {
    let rows: String = (0..120_000).map(|n| format!("u{},i{},Low,{}\n", n % 97, n % 1009, 1_000_000_000 + n)).collect();
    for (row, line) in [("u0,i0,", 2), ("u50,i50,", 52)] {
        let text = format!("user,item,title,time\n{rows}").replacen(&format!("{row}Low"), &format!("{row}\"Low"), 1);
        let error = refusal(&text);
        assert!(error.contains(&format!("line {line}: a quote is opened")), "{error}");
        let mut made = Vec::new();
        for memory_bytes in [8 << 20, 2 << 30] {
            let options = ImportOptions { skip_bad: true, memory_bytes, ..Default::default() };
            let (data, summary, _) = imported(&text, options);
            assert_eq!((summary.rows, summary.dropped_bad), (120_000, 1));
            made.push(data.fingerprint().to_owned());
        }
        assert_eq!(made[0], made[1]);
    }
}

#[test]
fn quoted_texts_with_line_breaks_are_read() {
    for (separator, last) in SEPARATORS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let text = log(separator, last, |n| match n % 5 {
            0 => "\"good tea,\nhot; as \"\"they\"\" say|\n\n\tthree lines\"".into(),
            1 => "\"one, two; three|\tfour\"".into(),
            2 => "\"\"".into(),
            _ => "Low".into(),
        });
        let (data, summary, talk) = imported(&text, ImportOptions::default());
        assert_eq!((summary.rows, data.users(), data.interactions()), (60, 6, 60), "{separator}");
        assert!(!talk.contains("warning"), "{talk}");
        let crlf = imported(text.replace('\n', "\r\n"), ImportOptions::default()).0;
        assert_eq!(crlf.fingerprint(), data.fingerprint());
    }
    // The lines of a text may look like rows; then the user must decide.
    let text = "user,item,title\na,x,\"one\ntwo, three, four\nfive\"\nb,y,six\n";
    assert!(refusal(text).contains("line 2: a quote is opened"), "{}", refusal(text));
    assert_eq!(imported(text, with(Quotes::Csv)).1.rows, 2);
}

#[test]
fn keys_in_quotes_are_those_without() {
    let text = "user,item,time\n\"a\", \"x, y\" ,1\na,\"x, y\",2\n\"a\"\"b\",\"z\",3\n\"a\" b,z,4\n";
    let (data, ..) = imported(text, ImportOptions::default());
    let expected = [("a", vec!["x, y", "x, y"]), ("a\"b", vec!["z"]), ("\"a\" b", vec!["z"])];
    let expected = expected.map(|(user, items)| (user.to_owned(), items.into_iter().map(str::to_owned).collect()));
    assert_eq!(histories(&data), expected);
    let (data, ..) = imported("user,item\n\"a\",x\na,x\n", with(Quotes::None));
    assert_eq!(data.users(), 2);
}

#[test]
fn a_header_and_a_table_of_items_have_the_same_rule() {
    let text =
        format!("user,item,\"title,time\n{}", log(",", false, |_| "Low 12\"".into()).split_once('\n').unwrap().1);
    let error = refusal(&text);
    assert!(error.contains("line 1: a quote is opened") && error.contains("--quotes"), "{error}");
    assert_eq!(imported(&text, with(Quotes::Line)).1.rows, 60);

    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item\na,1\na,2\nb,3\nb,4\n");
    let table =
        desk.write("items.csv", "item,title,kind\n1,\"Low,k1\n2,Heroes,k2\n3,Lodger 12\",k3\n4,\"two\nlines\",k4\n");
    let with = |options: ImportOptions| {
        let options = ImportOptions { items: Some(table.clone()), force: true, ..options };
        desk.import(std::slice::from_ref(&log), &options)
    };
    let error = with(ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("items.csv: line 2: a quote is opened") && error.contains("--quotes line"), "{error}");
    let (_, _, talk) = with(ImportOptions { skip_bad: true, ..Default::default() }).unwrap();
    assert!(talk.contains("3 of 4 items found") && talk.contains("1 rows of items left out"), "{talk}");
    let (data, ..) = with(self::with(Quotes::Line)).unwrap();
    assert_eq!(data.item_fields().get("kind").unwrap().values_of(0).collect::<Vec<_>>(), ["k1"]);
}

#[test]
fn rows_with_more_fields_than_columns_are_named() {
    let text = "user,title,item,time\na,Low,x,1\na,Hello, Goodbye,y,2\nb,Low,x,3\nb,Low,y,4\n";
    let (_, _, talk) =
        imported(text.replace("2\n", "\n"), ImportOptions { time_col: Some("none".into()), ..Default::default() });
    assert!(talk.contains("warning: ") && talk.contains("line 3 has more fields than columns"), "{talk}");
    assert!(!imported(text.replace("Hello, ", ""), ImportOptions::default()).2.contains("more fields"));
}

#[test]
fn carriage_returns_alone_end_lines() {
    let desk = Desk::new();
    for (name, separator, header) in
        [("log.csv", ",", "user,item,ts\n"), ("log.tsv", "\t", "user\titem\tts\n"), ("ratings.dat", "::", "")]
    {
        let row = |n: usize| format!("u{}#i{}#{}\n", n % 7, n % 11, 1_700_000_000 + n).replace('#', separator);
        let text = format!("{header}{}", (0..50).map(row).collect::<String>());
        let mut made = Vec::new();
        let mut mixed = text.clone().into_bytes();
        let mut line = 0;
        for byte in mixed.iter_mut().filter(|b| **b == b'\n') {
            line += 1;
            *byte = if line % 3 == 0 { b'\r' } else { b'\n' };
        }
        for bytes in [text.clone().into_bytes(), text.replace('\n', "\r").into_bytes(), mixed] {
            let options = ImportOptions { force: true, ..Default::default() };
            let (data, summary, _) = desk.import(&[desk.write(name, bytes)], &options).unwrap();
            assert_eq!((summary.rows, data.users()), (50, 7), "{name}");
            made.push(data.fingerprint().to_owned());
        }
        assert!(made.iter().all(|m| m == &made[0]), "{name}");
    }
}

#[test]
fn a_carriage_return_inside_a_cell_makes_no_row() {
    for end in ["\n", "\r\n"] {
        let cell = |n: usize| if n == 50 { "foo\ru1,i1,5,x" } else { "foo" };
        let row = |n: usize| format!("u{},i{},{},{}{end}", n % 20, n % 30, 1_700_000_000 + n, cell(n));
        let text = format!("user,item,time,title{end}{}", (0..60).map(row).collect::<String>());
        let (data, summary, talk) = imported(&text, ImportOptions::default());
        assert_eq!((summary.rows, data.interactions()), (60, 60), "{talk}");
        assert!(talk.contains("line 52 has more fields than columns"), "{talk}");
    }
}

#[test]
fn latin1_is_named_and_read_when_asked() {
    let text = "user,item,ts\n".to_owned() + &(0..40).map(|n| format!("u{},Café {n},{n}\n", n % 7)).collect::<String>();
    let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
    let error = refusal(&latin);
    assert!(error.contains("line 2, column 'item': the item is not UTF-8 text"), "{error}");
    assert!(error.contains("--encoding latin1") && error.contains("iconv"), "{error}");
    let (data, ..) = imported(&latin, ImportOptions { encoding: Encoding::Latin1, ..Default::default() });
    assert_eq!(data.fingerprint(), imported(&text, ImportOptions::default()).0.fingerprint());
    let error = refusal_of("l.csv", b"\xff\xfeu\0s\0", ImportOptions::default()).to_string();
    assert!(error.contains("UTF-16") && error.contains("iconv"), "{error}");
}

#[test]
fn rows_without_a_rating_can_be_kept_as_events() {
    let text = "user,item,rating,ts\na,x,,1\na,y,3,2\n";
    let error = refusal(text);
    assert!(error.contains("line 2, column 'rating'") && error.contains("--rating-col none"), "{error}");
    let none = ImportOptions { rating_col: Some("none".into()), ..Default::default() };
    assert_eq!(imported(text, none).0.interactions(), 2);
}

#[test]
fn lone_quotes_swallow_no_short_or_bad_rows() {
    for separator in SEPARATORS {
        // Rows 21 to 47 lack their title, or their time is missing or invalid; the title is not required.
        for (row, bad) in [("u#i#T", 1), ("u#i#T#Low#more", 1), ("u#i##Low", 28), ("u#i#soon#Low", 28), ("u#i#", 28)] {
            for closing in ["Heat\"", "Heat#end\"", "\"#Heat", "Heat\"#end", "Heat\"\"\"#x"] {
                let line = |n: usize| {
                    let (user, item, time) = (format!("u{}", n % 6), format!("i{}", n % 11), 1_700_000_000 + n);
                    match n {
                        20 => format!("{user}#{item}#{time}#\"Heat\n"),
                        48 => format!("{user}#{item}#{time}#{closing}\n"),
                        21..48 => row.replace('u', &user).replace('i', &item).replace('T', &time.to_string()) + "\n",
                        _ => format!("{user}#{item}#{time}#Low\n"),
                    }
                };
                let text = format!("user#item#time#title\n{}", (0..60).map(line).collect::<String>());
                let text = text.replace('#', separator);
                let error = refusal(&text);
                assert!(error.contains("line 22: a quote is opened"), "{row} {closing} {separator}: {error}");
                let (_, summary, _) = imported(&text, ImportOptions { skip_bad: true, ..Default::default() });
                // `"#Heat` is a single quote too, or a whole cell.
                let bad = bad + u64::from(closing.starts_with('"') && summary.dropped_bad > bad);
                assert_eq!((summary.rows, summary.dropped_bad), (60, bad), "{row} {closing} {separator}");
            }
        }
    }
}

#[test]
fn quoted_words_between_blanks_and_colons_are_read() {
    let file = |separator: &str, header: &str, blank: &str, quote: &str| -> String {
        let row = |n: usize| {
            let time = 1_700_000_000 + n;
            format!("{quote}u{}{quote}{separator}{quote}Blue{blank}i{}{quote}{separator}{time}\n", n % 7, n % 11)
        };
        format!("{header}{}", (0..50).map(row).collect::<String>())
    };
    let desk = Desk::new();
    for (name, separator, header) in
        [("r.txt", " ", "\"user\" \"item\" \"time\"\n"), ("r.txt", " ", ""), ("dc.dat", "::", ""), ("r.txt", "  ", "")]
    {
        for blank in ["", " ", ", ", "; a|"] {
            let options = ImportOptions { force: true, ..Default::default() };
            let text = file(separator, header, blank, "\"");
            let (data, summary, talk) = desk.import(&[desk.write(name, &text)], &options).unwrap();
            assert_eq!((summary.rows, data.users(), data.items()), (50, 7, 11), "{text:.60}: {talk}");
            assert_eq!((data.user_keys().key(0), data.item_keys().key(0)), ("u0", &*format!("Blue{blank}i0")));
            let times: Vec<i64> = (0..8).map(|n| 1_700_000_000 + 7 * n).collect();
            assert_eq!(data.times_of(0).unwrap(), &times[..], "{talk}");
        }
    }
    let text = file(" ", "", "", "\"");
    let (data, ..) = imported(&text, with(Quotes::None));
    assert_eq!(data.user_keys().key(0), "\"u0\"");
}

#[test]
fn encodings_that_do_not_fit_are_warned_of() {
    let with = |encoding| ImportOptions { encoding, ..Default::default() };
    let row = |n: usize| format!("u{},Caf\u{e9} {n},{n}\n", n % 7);
    let text = "user,item,ts\n".to_owned() + &(0..40).map(row).collect::<String>();
    for (encoding, flag) in [(Encoding::Latin1, "latin1"), (Encoding::Windows1252, "windows-1252")] {
        let (_, _, talk) = imported(&text, with(encoding));
        assert!(talk.contains("warning: ") && talk.contains("the file is valid UTF-8"), "{talk}");
        assert!(talk.contains(&format!("--encoding {flag}")) && talk.contains("leave --encoding out"), "{talk}");
        // One character in a large file, after the sampled part.
        let long: String = (0..40_000).map(|n| format!("u{},i{n},{n}\n", n % 7)).collect();
        let (_, _, talk) = imported(format!("user,item,ts\n{long}u1,\u{e9},1\n"), with(encoding));
        assert!(talk.contains("the file is valid UTF-8"), "{talk}");
        assert!(!imported(format!("user,item,ts\n{long}"), with(encoding)).2.contains("warning"), "plain ASCII");
    }
    let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
    assert!(!imported(&latin, with(Encoding::Latin1)).2.contains("warning"));
    // Quotation marks and euro sign of Windows-1252.
    let windows: Vec<u8> = [&latin[..], b"u1,\x93Low\x94 5\x80,77\n"].concat();
    let (_, _, talk) = imported(&windows, with(Encoding::Latin1));
    assert!(talk.contains("bytes from 0x80 to 0x9F") && talk.contains("--encoding windows-1252"), "{talk}");
    let (data, _, talk) = imported(&windows, with(Encoding::Windows1252));
    assert!(data.item_keys().find("\u{201c}Low\u{201d} 5\u{20ac}").is_some() && !talk.contains("warning"), "{talk}");
    let error = refusal_of("l.csv", b"user,item\na,x\nb,\x81\n", with(Encoding::Windows1252)).to_string();
    assert!(error.contains("l.csv: line 3: byte 0x81 is not defined in Windows-1252"), "{error}");
    let error = refusal(&latin);
    assert!(error.contains("--encoding windows-1252") && error.contains("iconv -f WINDOWS-1251 -t UTF-8 "), "{error}");
    assert!(error.contains("log.csv | mipgpu import - --out DIR"), "{error}");
}

#[test]
fn a_header_in_another_encoding_is_named() {
    let text = b"utilisateur,item,cr\xe9\xe9\nann,x,1\nbob,y,2\n";
    let error = refusal(text);
    assert!(error.contains("no column looks like the user") && error.contains("the header is not UTF-8"), "{error}");
    assert!(error.contains("--encoding latin1") && error.contains("--user-col"), "{error}");
    let options = ImportOptions { user_col: Some("utilisateur".into()), ..Default::default() };
    assert!(!imported(text, options).2.contains("warning"), "nobody looks there");
}

#[test]
fn the_rule_that_swallows_rows_is_the_last_choice() {
    let text = log(",", false, |n| if n == 5 { "\"Low".into() } else { "Low".into() });
    let error = refusal(&text);
    assert!(error.contains("only if the quoted text really holds lines that look like rows: --quotes csv"), "{error}");
    let error = refusal_of("l.csv", &text, with(Quotes::Csv)).to_string();
    assert!(error.contains("--quotes line") && !error.contains("--quotes csv"), "{error}");
}
