//! Keys that mean "missing", and whole numbers written as floats.

use mipgpu::data::{ImportOptions, Missing};

use crate::import::{Desk, cli, imported, refusal};

/// Rows of which every `one_in`th has `word` as user.
fn holes(word: &str, one_in: usize, key: impl Fn(usize) -> String) -> String {
    let user = |n: usize| if n % one_in == 1 { word.to_owned() } else { key(n % 40) };
    "user,item,time\n".to_owned() + &(0..1200).map(|n| format!("{},p{},{n}\n", user(n), n % 77)).collect::<String>()
}

fn with(missing: Missing) -> ImportOptions {
    ImportOptions { missing: Some(missing), ..Default::default() }
}

#[test]
fn words_for_a_missing_user_are_warned_of_with_their_share() {
    for word in ["NA", "NaN", "nan", "None", "null", "NULL", "<NA>", "\\N"] {
        let name = |n: usize| ["anna", "bob", "carl", "dora"][n % 4].repeat(1 + n / 4);
        // Half of all rows among names; a few among numbered keys.
        for text in [holes(word, 2, name), holes(word, 40, |n| format!("c{n}")), holes(word, 40, |n| n.to_string())] {
            let rows = text.lines().filter(|line| line.starts_with(&format!("{word},"))).count();
            let (data, _, talk) = imported(&text, ImportOptions::default());
            let share = format!("{rows} of 1,200 rows ({:.1} %) have the user '{word}'", rows as f64 / 12.0);
            assert!(talk.contains("warning: ") && talk.contains(&share), "{share}: {talk}");
            assert!(talk.contains("--missing drop") && talk.contains("--missing keep"), "{talk}");
            let (kept, _, talk) = imported(&text, with(Missing::Keep));
            assert!(kept.fingerprint() == data.fingerprint() && !talk.contains("warning"), "{talk}");
            let (data, summary, talk) = imported(&text, with(Missing::Drop));
            assert_eq!((summary.dropped_missing, summary.rows), (rows as u64, 1200));
            assert_eq!(data.interactions(), 1200 - rows as u64);
            assert!(data.user_keys().find(word).is_none() && !talk.contains("warning"), "{talk}");
        }
        // An artist among artists.
        let (data, _, talk) = imported(holes(word, 30, name), ImportOptions::default());
        assert!(data.user_keys().find(word).is_some() && !talk.contains("warning"), "{talk}");
    }
}

#[test]
fn missing_items_and_empty_cells_are_the_same() {
    let text: String =
        (0..300).map(|n| format!("u{},{}\n", n % 7, if n % 3 == 0 { "nan".into() } else { format!("p{n}") })).collect();
    let (_, _, talk) = imported(format!("user,item\n{text}"), ImportOptions::default());
    assert!(talk.contains("100 of 300 rows (33.3 %) have the item 'nan'"), "{talk}");
    let text = "user,item\na,x\n,y\nb,\n\"\",z\nb,NA\nb,w\n";
    assert!(refusal(text).contains("--missing drop"), "{}", refusal(text));
    let (data, summary, _) = imported(text, with(Missing::Drop));
    assert_eq!((data.interactions(), summary.dropped_missing, summary.dropped_bad), (2, 4, 0));
    let desk = Desk::new();
    let (log, out) = (desk.write("log.csv", text), desk.out());
    let words = ["import", log.to_str().unwrap(), "--out", out.to_str().unwrap(), "--missing", "drop"];
    let (code, stdout, _) = cli(&words, "1");
    assert!(code == 0 && stdout.contains("4 rows without a user or an item"), "{stdout}");
}

#[test]
fn whole_numbers_written_as_reals_are_warned_of() {
    let text = "user,item,time\na,3,1\na,3.0,2\na,4.0,3\nb,5,4\nb,x.0,5\n";
    let (data, _, talk) = imported(text, ImportOptions::default());
    assert_eq!(data.items(), 5);
    assert!(talk.contains("1 items occur in the log twice") && talk.contains("'3' and '3.0'"), "{talk}");
    assert!(talk.contains("--whole-keys"), "{talk}");
    let whole = ImportOptions { whole_keys: true, ..Default::default() };
    let (data, _, talk) = imported(text, whole.clone());
    assert!(data.items() == 4 && !talk.contains("warning"), "{talk}");
    assert!(data.item_keys().find("4").is_some() && data.item_keys().find("x.0").is_some());
    // Floats of a table with missing values: consistent among themselves, but not with other data.
    let floats: String = (0..60).map(|n| format!("{}.0,p{},{n}\n", n % 7, n % 11)).collect();
    let (_, _, talk) = imported(format!("user,item,time\n{floats}"), ImportOptions::default());
    assert!(talk.contains("7 of 7 users are whole numbers written as reals, such as '0.0'"), "{talk}");
    let (data, ..) = imported(format!("user,item,time\n{floats}"), whole);
    let plain = imported(format!("user,item,time\n{}", floats.replace(".0,", ",")), ImportOptions::default()).0;
    assert_eq!(data.fingerprint(), plain.fingerprint());
}

#[test]
fn a_row_counts_once_whatever_is_wrong_with_it() {
    let skip = || ImportOptions { skip_bad: true, ..Default::default() };
    // Line 3: both are empty; line 5: the user is; line 6: neither is UTF-8.
    let text = b"user,item,time\na,x,1\n,,2\nb,y,3\n,z,4\n\xff,\xfe,5\n";
    let (data, summary, talk) = imported(text, skip());
    assert_eq!((summary.rows, summary.dropped_bad, data.interactions()), (5, 3, 2), "{talk}");
    assert!(talk.contains("skipped 3 bad rows of 5"), "{talk}");
    let text = "user,item,time\na,x,1\nNA,NA,2\nb,y,3\nNA,,4\n";
    let (data, summary, _) = imported(text, with(Missing::Drop));
    assert_eq!((summary.rows, summary.dropped_missing, data.interactions()), (4, 2, 2));
    let lines = "{\"user\":\"a\",\"item\":\"x\"}\n{\"user\":null,\"item\":\"\"}\n";
    assert_eq!(imported(lines, skip()).1.dropped_bad, 1);
    let (_, summary, _) = imported(lines, with(Missing::Drop));
    assert_eq!((summary.rows, summary.dropped_missing), (2, 1));
}

#[test]
fn keys_with_a_lone_quote_are_warned_of() {
    let text =
        "user,item,time\na,i28\",1\na,i28,2\nb,5\"disk,3\nb,\"5\"\" disk\",4\nb,\"c\"\"d\"\"\",5\nb,\"Low\" live,6\n";
    let (data, _, talk) = imported(text, ImportOptions::default());
    assert!(data.item_keys().find("i28\"").is_some(), "the key is kept as it is written");
    assert!(
        talk.contains("2 rows have a key with a single quotation mark in it, such as i28\" in line 2"),
        "escaped quotes and pairs are meant: {talk}"
    );
    assert!(talk.contains("warning: ") && talk.contains("--quotes line or --quotes none"), "{talk}");
    let line = ImportOptions { quotes: mipgpu::data::Quotes::Line, ..Default::default() };
    assert!(!imported(text, line).2.contains("warning"));
    let json = "{\"user\":\"a\",\"item\":\"5\\\" disk\"}\n";
    assert!(!imported(json, ImportOptions::default()).2.contains("warning"));
}
