//! Kinds of events: `--where` selects some of them; without it, a note lists them.

use mipgpu::data::ImportOptions;

use crate::import::{Desk, cli, formats::parquet_file, histories, imported, refusal_of};

fn only(wheres: &[&str]) -> ImportOptions {
    ImportOptions { wheres: wheres.iter().map(|w| w.parse().unwrap()).collect(), ..Default::default() }
}

/// Like RetailRocket's events.csv: purchases are rare, and none is among the first rows.
fn retail() -> String {
    let rows: String = (0..1000u64)
        .map(|n| {
            let event = if n % 250 == 249 {
                "transaction"
            } else if n % 100 == 99 {
                "addtocart"
            } else {
                "view"
            };
            format!("{},{},{event},{},\n", 1_433_221_332_117 + n * 1000, n % 37, n % 91)
        })
        .collect();
    format!("timestamp,visitorid,event,itemid,transactionid\n{rows}")
}

#[test]
fn kinds_of_events_that_nobody_reads_are_told_with_their_counts() {
    let (data, _, talk) = imported(retail(), Default::default());
    assert_eq!(data.interactions(), 1000);
    // 249, 499, 749, 999; 99, 199, … but not 499 and 999.
    assert!(
        talk.contains("warning: column 'event' is ignored and holds view (988), addtocart (8), transaction (4)"),
        "{talk}"
    );
    assert!(talk.contains("--where event=addtocart,transaction"), "{talk}");
    let (data, summary, talk) = imported(retail(), only(&["event=addtocart,transaction"]));
    assert_eq!((data.interactions(), summary.rows, summary.dropped_where), (12, 1000, 988));
    assert!(!talk.contains("warning: column 'event'"), "{talk}");
    // Rows 99, 199, 249, 299, 399, 499, 599, 699, 749, 799, 899, 999; 99 is user 99 - 74 = 25, item 8.
    assert_eq!(histories(&data)[0], ("25".into(), vec!["8".into()]));
    let (_, _, talk) = imported(retail(), only(&["event=view,addtocart,transaction"]));
    assert!(!talk.contains("is ignored and holds"), "{talk}");
    let (_, _, talk) = imported(retail(), only(&["event=view,purchase"]));
    assert!(talk.contains("warning: no row has event=purchase"), "{talk}");
}

/// Like Taobao's UserBehavior.csv: no header, the kind in column 4.
#[test]
fn kinds_of_events_are_known_without_a_header() {
    let kinds = ["pv", "pv", "pv", "cart", "pv", "fav", "pv", "buy"];
    let rows: String =
        (0..400).map(|n| format!("{},{},{},{},{}\n", n % 20, n % 77, n % 5, kinds[n % 8], 1_511_544_070 + n)).collect();
    let none = ImportOptions { rating_col: Some("none".into()), ..Default::default() };
    let (_, _, talk) = imported(&rows, none.clone());
    assert!(
        talk.contains("warning: column '4' is ignored and holds pv (250), buy (50), cart (50), fav (50)"),
        "{talk}"
    );
    let (data, ..) = imported(&rows, ImportOptions { rating_col: none.rating_col, ..only(&["4=buy"]) });
    // Rows 7, 15, 23, …: users 7, 15, 3, 11, 19.
    assert_eq!((data.users(), data.interactions()), (5, 50));
    assert_eq!(data.user_keys().key(0), "7");
}

#[test]
fn all_formats_filter_alike_and_before_the_ratings() {
    let csv = "user,item,rating,behavior_type\na,x,5,1\na,y,1,4\na,z,4,4\nb,x,,1\nb,y,5,4\n";
    let json = "{\"user\":\"a\",\"item\":\"x\",\"rating\":5,\"behavior_type\":1}\n\
                {\"user\":\"a\",\"item\":\"y\",\"rating\":1,\"behavior_type\":4}\n\
                {\"user\":\"a\",\"item\":\"z\",\"rating\":4,\"behavior_type\":4}\n\
                {\"user\":\"b\",\"item\":\"x\",\"behavior_type\":1,\"rating\":null}\n\
                {\"user\":\"b\",\"item\":\"y\",\"rating\":5,\"behavior_type\":4}\n";
    for log in [csv, json] {
        let options = ImportOptions { min_rating: Some(2.0), ..only(&["behavior_type=4"]) };
        let (data, summary, talk) = imported(log, options);
        assert_eq!(
            histories(&data),
            [("a".to_owned(), vec!["z".to_owned()]), ("b".into(), vec!["y".into()])],
            "{talk}"
        );
        // A row that is not selected is not checked: b's first row has no rating.
        assert_eq!((summary.rows, summary.dropped_where, summary.dropped_rating, summary.dropped_bad), (5, 2, 1, 0));
    }
    let log = csv.replace(",,", ",3,");
    let (_, _, talk) = imported(&log, Default::default());
    assert!(talk.contains("column 'behavior_type' is ignored and holds 4 (3), 1 (2)"), "{talk}");
    let twice = only(&["behavior_type=4", "user=b"]);
    assert_eq!(histories(&imported(&log, twice).0), [("b".to_owned(), vec!["y".to_owned()])]);
    let error = refusal_of("log.csv", &log, only(&["behavior_type=9"])).to_string();
    assert!(error.contains("nothing is left: no row is of --where behavior_type=9"), "{error}");
    let error = refusal_of("log.csv", &log, only(&["behaviour=4"])).to_string();
    assert!(error.contains("no column 'behaviour'") && error.contains("--where behavior_type"), "{error}");
    // In Parquet, `other` is the time as a number.
    let rows: Vec<_> = crate::import::builtin_rows().into_iter().take(2000).collect();
    let time = rows[7].3;
    let (data, summary, _) = imported(parquet_file(&rows), only(&[&format!("other={time}")]));
    let expected = rows.iter().filter(|r| r.3 == time).count() as u64;
    assert_eq!((data.interactions(), summary.dropped_where), (expected, 2000 - expected));
}

#[test]
fn the_command_takes_it_and_the_manifest_keeps_it() {
    let desk = Desk::new();
    let (log, out) = (desk.write("events.csv", retail()), desk.out());
    let words = ["import", log.to_str().unwrap(), "--out", out.to_str().unwrap(), "--where"];
    let (code, stdout, stderr) = cli(&[&words[..], &["event=transaction"]].concat(), "2");
    assert!(code == 0 && stdout.contains("dropped     996 not of --where"), "{stdout}{stderr}");
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["filters"]["where"][0]["values"][0], "transaction");
    let (code, _, stderr) = cli(&[&words[..], &["transaction"]].concat(), "2");
    assert!(code == 1 && stderr.contains("event=purchase,addtocart"), "{stderr}");
}

#[test]
fn values_that_differ_in_case_or_blanks_only_are_named() {
    let text = "user,item,event\na,x,purchase\na,y,Purchase\na,z,PURCHASE\nb,x,\" purchase\"\nb,y,Purchase\nb,z,view\n";
    let (data, _, talk) = imported(text, only(&["event=purchase"]));
    assert_eq!(data.interactions(), 1);
    assert!(
        talk.contains("warning: column 'event' also holds Purchase (2), ' purchase' (1), PURCHASE (1), which differ"),
        "{talk}"
    );
    assert!(talk.contains("to read them too: --where event=purchase,Purchase,PURCHASE"), "{talk}");
    assert!(!talk.contains("ignored event"), "the column is read: {talk}");
    let (data, _, talk) = imported(text, only(&["event=purchase,Purchase,PURCHASE"]));
    assert_eq!(data.interactions(), 4);
    assert!(talk.contains("also holds ' purchase' (1), which differ") && !talk.contains("to read them too"), "{talk}");
    assert!(!imported(text, only(&["event=view"])).2.contains("also holds"));
}

#[test]
fn an_empty_kind_of_event_is_shown_and_not_suggested() {
    let rows: String =
        (0..40).map(|n| format!("u{},i{n},{n},{}\n", n % 5, ["view", "", "view", "buy"][n % 4])).collect();
    let (_, _, talk) = imported(format!("user,item,time,event\n{rows}"), Default::default());
    assert!(talk.contains("is ignored and holds view (20), (empty) (10), buy (10)"), "{talk}");
    assert!(talk.contains("to read some of them only: --where event=buy; if all are meant, add nothing"), "{talk}");
}
