//! JSON lines: read like the CSV of the same rows, rejected in any other shape.

use std::fmt::Write;

use mipgpu::{
    base::rng::{Purpose, Stream},
    data::ImportOptions,
};

use crate::import::{Desk, formats::gzip, histories, imported, refusal};

fn col(user: &str, item: &str, time: Option<&str>) -> ImportOptions {
    ImportOptions {
        user_col: Some(user.into()),
        item_col: Some(item.into()),
        time_col: time.map(Into::into),
        ..Default::default()
    }
}

#[test]
fn objects_a_line_are_the_rows_of_a_table() {
    let (csv, ..) = imported("user_id,item_id\nu0,p0\nu1,3\nu0,\"say \"\"é\"\"\"\n", Default::default());
    let lines = "{\"user_id\": \"u0\", \"item_id\": \"p0\"}\r\n\n{\"item_id\":3,\"user_id\":\"u1\"}\n\
                 {\"user_id\": \"u0\", \"more\": {\"deep\": [1, {}]}, \"item_id\": \"say \\\"\\u00e9\\\"\"}";
    let (json, summary, talk) = imported(lines, Default::default());
    assert_eq!((json.fingerprint(), summary.rows), (csv.fingerprint(), 3), "{talk}");
    for says in ["JSON lines, one object per line", "user    column 1 'user_id'", "item    column 2 'item_id'"] {
        assert!(talk.contains(says), "{talk}");
    }
    for packed in [gzip(lines.as_bytes()), zstd::encode_all(lines.as_bytes(), 1).unwrap()] {
        assert_eq!(imported(packed, Default::default()).0.fingerprint(), csv.fingerprint());
    }
    // Reviews in Yelp's format: stars and dates.
    let review = |n: usize, day: usize| {
        format!(
            "{{\"review_id\": \"r{n}\", \"user_id\": \"u{}\", \"business_id\": \"p{n}\", \"stars\": {}.0, \
             \"date\": \"2018-07-0{day} 10:00:00\", \"text\": \"fine, \\\"thanks\\\"\\n\"}}\n",
            n % 2,
            n + 1
        )
    };
    let (data, summary, talk) = imported(review(0, 2) + &review(1, 3) + &review(2, 1), Default::default());
    assert!(talk.contains("item    column 3 'business_id'") && talk.contains("ignored review_id, text"), "{talk}");
    assert_eq!(histories(&data)[0], ("u0".into(), vec!["p2".into(), "p0".into()]), "by date");
    // 2018-07-01 10:00 UTC is 1,530,439,200.
    assert_eq!((data.times_of(0).unwrap()[0], data.ratings_of(0).unwrap()), (1_530_439_200, &[3.0, 1.0][..]));
    assert_eq!(summary.time_unit.as_deref(), Some("s"));
}

#[test]
fn dotted_names_reach_into_objects() {
    let lines = "{\"event\":{\"item\":{\"id\":7},\"at\":20},\"user\":{\"id\":\"a\"}}\n\
                 {\"user\":{\"id\":\"a\"},\"event\":{\"at\":10,\"item\":{\"id\":8,\"x\":1}}}\n";
    let (data, _, talk) = imported(lines, col("user.id", "event.item.id", Some("event.at")));
    assert_eq!(histories(&data), [("a".to_owned(), vec!["8".to_owned(), "7".to_owned()])], "{talk}");
    let error = refusal(lines);
    assert!(error.contains("no column looks like the item") && error.contains("event.item.id"), "{error}");
}

#[test]
fn lines_that_are_no_rows_are_bad_rows_with_their_line() {
    let good = "{\"user\":\"a\",\"item\":1,\"time\":5}\n";
    for (line, says) in [
        ("{\"user\":\"a\",\"time\":5}", "line 3, column 'item': the object has no 'item'"),
        ("{\"user\":null,\"item\":1,\"time\":5}", "line 3, column 'user': "),
        ("{\"user\":\"a\",\"item\":{\"id\":1},\"time\":5}", "line 3, column 'item': the value is an object"),
        ("{\"user\":\"a\",\"item\":1,\"time\":\"soon\"}", "line 3, column 'time': 'soon' is not a time"),
        ("{\"user\":\"a\",\"item\":1,\"time\":5", "line 3: not a JSON object"),
        ("nothing", "line 3: not a JSON object"),
        ("[1,2,3]", "line 3: not a JSON object"),
        ("{\"user\":[\"a\"],\"item\":1,\"time\":5}", "line 3, column 'user': the value is a list"),
    ] {
        let log = format!("{good}{good}{line}\n{good}");
        let error = refusal(&log);
        assert!(error.contains(says), "{line} gives: {error}");
        let (_, summary, _) = imported(&log, ImportOptions { skip_bad: true, ..Default::default() });
        assert_eq!((summary.rows, summary.dropped_bad), (4, 1), "{line}");
    }
}

#[test]
fn json_of_other_shapes_is_refused_with_the_command_that_helps() {
    for (text, says, hint) in [
        ("[{\"user\":1,\"item\":2},\n{\"user\":1,\"item\":3}]", "one array of JSON objects", "jq -c '.[]'"),
        ("[\n  {\n    \"user\": 1\n  }\n]\n", "one array of JSON objects", "jq -c '.[]'"),
        (
            "{\n  \"user\": 1,\n  \"item\": 2\n}\n{\n  \"user\": 1,\n  \"item\": 3\n}\n",
            "not one object per line",
            "jq -c .",
        ),
        ("[\"a\",1]\n[\"b\",2]\n", "lines of JSON arrays", "jq -r '@csv'"),
        ("{'user': 'a', 'item': 1}\n{'user': 'b', 'item': 2}\n", "Python dicts", "ast.literal_eval"),
        ("{u'user': u'a', u'item': 1}\n", "Python dicts", "ast.literal_eval"),
    ] {
        let error = refusal(text);
        assert!(error.contains(says) && error.contains(hint), "{text}: {error}");
    }
    // Braces alone are not JSON.
    assert_eq!(imported("{a},x\n{b},y\n", Default::default()).0.user_keys().key(0), "{a}");
}

#[test]
fn lists_in_objects_are_unrolled() {
    let lines = "{\"user\":\"a\",\"items\":[3,\"x\",5],\"timestamps\":[30,10,20]}\n\
                 {\"user\":\"b\",\"items\":[7],\"timestamps\":[1]}\n";
    let (data, summary, talk) = imported(lines, Default::default());
    let expected = [("a", vec!["x", "5", "3"]), ("b", vec!["7"])]
        .map(|(u, i)| (u.to_owned(), i.into_iter().map(String::from).collect::<Vec<_>>()));
    assert_eq!((histories(&data), summary.rows), (expected.to_vec(), 4), "{talk}");
    let error = refusal("{\"user\":\"a\",\"items\":[3,4],\"timestamps\":[30]}\n");
    assert!(error.contains("line 1, column 'timestamps': the list has 1 elements, that of the items 2"), "{error}");
    let error = refusal("{\"user\":\"a\",\"items\":[1]}\n{\"user\":\"a\",\"items\":[]}\n");
    assert!(error.contains("line 2, column 'items': the list is empty"), "{error}");
    // A list together with a scalar item is reported.
    let (_, _, talk) = imported("{\"user\":\"a\",\"item\":1,\"item_history\":[3,4]}\n", Default::default());
    assert!(talk.contains("warning: ") && talk.contains("--item-col item_history"), "{talk}");
}

/// Rows of random keys, written by serde_json with keys in random order and strings of all kinds: the result is
/// that of a CSV of the same rows, with small and large blocks.
#[test]
fn random_objects_give_what_a_csv_gives() {
    let words =
        ["a", "é", "\"q\"", "back\\slash", "tab\tin", "new\nline", "日本", "😀", "{\"x\":1}", "[3, 4]", "a,b", " pad "];
    let mut draw = Stream::new(21, Purpose::Test, 0);
    for round in 0..12 {
        let (mut json, mut csv) = (String::new(), csv::Writer::from_writer(Vec::new()));
        csv.write_record(["item", "rating", "timestamp", "user"]).unwrap();
        for n in 0..1500u64 {
            let user = format!("{}{}", words[draw.below(12) as usize], draw.below(40));
            let item = draw.below(300);
            let (rating, time) = (draw.below(5) + 1, 1_500_000_000 + n);
            // Quoted by hand, so that blanks around a key stay.
            csv.write_record([&item.to_string(), &rating.to_string(), &time.to_string(), &user]).unwrap();
            let mut pairs = [
                format!("\"user\": {}", serde_json::to_string(&user).unwrap()),
                format!("\"item\":{}", if n % 2 == 0 { item.to_string() } else { format!("\"{item}\"") }),
                format!("\"rating\" :{rating}"),
                format!("\"timestamp\":{time}"),
                format!("\"note\":{}", serde_json::to_string(words[draw.below(12) as usize]).unwrap()),
                "\"inner\":{\"user\":\"no\",\"list\":[{\"item\":0}]}".to_owned(),
            ];
            for at in (1..pairs.len()).rev() {
                pairs.swap(at, draw.below(at as u64 + 1) as usize);
            }
            writeln!(json, "{{{}}}", pairs.join(",")).unwrap();
        }
        let csv = csv.into_inner().unwrap();
        let memory_bytes = if round % 2 == 0 { 1 << 20 } else { 64 << 20 };
        let options = ImportOptions { memory_bytes, ..Default::default() };
        // " pad " is written without quotes by the csv crate, and blanks around unquoted fields are dropped.
        let json = json.replace("\" pad ", "\"pad ");
        let csv = String::from_utf8(csv).unwrap().replace(" pad ", "pad ");
        let (a, b) = (imported(&json, options.clone()).0, imported(&csv, options).0);
        assert_eq!(histories(&a), histories(&b), "round {round}");
        assert_eq!(a.fingerprint(), b.fingerprint(), "round {round}");
    }
}

/// Damaged logs of every new shape end in an error or in bad rows, never in a panic.
#[test]
fn damaged_text_never_stops_the_reader() {
    let json: String = (0..60)
        .map(|n| format!("{{\"user\":\"u{}\",\"items\":[{n},\"x\\u00e9\"],\"time\":[1,{n}]}}\n", n % 7))
        .collect();
    let lines: String = (0..40).map(|n| format!("{n} {} {}{}\n", n + 3, n + 9, " 4".repeat(n % 4))).collect();
    let cells: String = (0..40).map(|n| format!("u{n}\t{} {} {}\n", n + 3, n + 9, n + 4)).collect();
    let quoted: String = (0..40).map(|n| format!("u{n},\"[{n}, \"\"a\"\", 'b']\"\n")).collect();
    let mut draw = Stream::new(5, Purpose::Test, 1);
    for (text, list_sep) in [(json, None), (lines, Some("space")), (cells, None), (quoted, Some("comma"))] {
        for _ in 0..150 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..1 + draw.below(6) {
                let at = draw.below(bytes.len().max(1) as u64) as usize;
                match draw.below(4) {
                    _ if bytes.len() < 2 => bytes.push(b'x'),
                    0 => bytes[at] = b"\"\\{}[],: \n\t\xff\0u"[draw.below(14) as usize],
                    1 => {
                        bytes.remove(at);
                    }
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, draw.below(256) as u8),
                }
            }
            let desk = Desk::new();
            let log = desk.write("log.txt", &bytes);
            let options = ImportOptions { skip_bad: true, list_sep: list_sep.map(Into::into), ..Default::default() };
            if let Err(error) = desk.import(&[log], &options) {
                assert!(!error.to_string().contains("its reader cannot handle"), "{error}: {bytes:?}");
            }
        }
    }
}

#[test]
fn an_object_of_columns_is_named_as_one() {
    let column = |n: usize, key: &str| {
        let cells: Vec<String> = (0..n).map(|i| format!("\"{i}\":\"{key}{}\"", i % 50)).collect();
        format!("\"{key}\":{{{}}}", cells.join(","))
    };
    let list = |n: usize, key: &str| {
        let cells: Vec<String> = (0..n).map(|i| format!("\"{key}{}\"", i % 50)).collect();
        format!("\"{key}\":[{}]", cells.join(","))
    };
    // The larger ones do not fit what is looked at.
    for n in [1, 3, 3000, 40_000] {
        for text in [
            format!("{{{},{}}}", column(n, "user"), column(n, "item")),
            format!("{{{},{}}}\n", list(n, "user"), list(n, "item")),
            format!("{{{},{}}}\n", column(n, "user"), column(n, "item")).replace(',', ",\n"),
        ] {
            let error = refusal(&text);
            assert!(error.contains("this is one JSON object that holds columns"), "{error:.300}");
            assert!(error.contains("orient='records', lines=True") && error.len() < 400, "{error:.600}");
        }
    }
    let error = refusal("{\"columns\":[\"user\",\"item\"],\"index\":[0],\"data\":[[\"a\",\"x\"]]}");
    assert!(error.contains("holds columns"), "{error}");
}

#[test]
fn names_in_messages_are_few_and_nested_ones_are_proposed() {
    let keys: String = (0..40).map(|n| format!("\"k{n}\":1,")).collect();
    let error = refusal(format!("{{{keys}\"event\":{{\"item\":{{\"id\":7}},\"x\":1}},\"user\":\"a\"}}\n"));
    assert!(error.contains("k10, k11 and 31 more)"), "{error}");
    assert!(error.contains("name it with --item-col event.item.id") && !error.contains("--no-header"), "{error}");
    // A header may be data; the schema of Parquet and the keys of objects are none.
    assert!(refusal("user,thing,time\na,x,5\n").contains("--no-header"));
}

#[test]
fn values_that_are_null_at_first_and_objects_later_are_read_by_their_keys() {
    for nulls in [1, 250] {
        let line = |n: usize| {
            let item = if n < nulls { "null".into() } else { format!("{{\"id\":\"p{n}\"}}") };
            format!("{{\"user_id\":\"u{}\",\"ts\":{},\"item\":{item}}}\n", n % 7, 1_700_000_000 + n)
        };
        let text: String = (0..300).map(line).collect();
        let error = refusal(&text);
        assert!(error.contains("line 1, column 'item.id': the object has no 'item.id'"), "{error}");
        let (data, summary, talk) = imported(&text, ImportOptions { skip_bad: true, ..Default::default() });
        assert_eq!((summary.dropped_bad, data.items()), (nulls as u64, 300 - nulls), "{talk}");
    }
    let error = refusal(
        "{\"user\":\"a\",\"item\":1}\n{\"user\":\"a\",\"item\":2}\n{\"user\":\"b\",\"item\":{\"x\":1,\"id\":3}}\n",
    );
    assert!(error.contains("line 3, column 'item': the value is an object; name a key in it"), "{error}");
    assert!(error.contains("such as item.id"), "{error}");
}

#[test]
fn lists_of_objects_are_not_proposed_as_items() {
    let line = "{\"customer_id\":\"c1\",\"ordered_at\":1708001871,\"lines\":[{\"sku\":\"p41\",\"qty\":1}]}\n";
    let error = refusal(line);
    assert!(error.contains("lists of objects are not supported"), "{error}");
    assert!(error.contains("jq -c '.lines[] as $x | del(.lines) + $x' FILE") && !error.contains("--item-col lines"));
    let line = "{\"user\":\"a\",\"item\":\"x\",\"items\":[{\"sku\":\"p41\"}]}\n";
    let (_, _, talk) = imported(line, ImportOptions::default());
    assert!(
        talk.contains("warning: ") && talk.contains("'items' holds lists of objects, which are not supported"),
        "{talk}"
    );
    assert!(!talk.contains("--item-col items"), "{talk}");
}
