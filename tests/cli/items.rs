//! `mipgpu items`, and titles in `mipgpu recommend`.

use super::{Place, TINY};
use serde_json::Value;

/// A place with `films`: the same log with titles, and a run on it.
fn films() -> Place {
    let p = Place::new();
    let mut titles = String::from("item,title,genre\n");
    for (item, title) in [
        (0, "Toy Story (1995)"),
        (1, "Toy Story 2 (1999)"),
        (2, "A Story of Toys"),
        (3, "\"Matrix, The (1999)\""),
        (4, "Heat (1995)"),
    ] {
        titles += &format!("i{item},{title},g{}\n", item % 2);
    }
    (5..40).for_each(|item| titles += &format!("i{item},Film number {item},g{}\n", item % 2));
    p.write("titles.csv", titles);
    p.well("import log.csv --out films -q --items titles.csv");
    p.well(&format!("train films --out run -q --epochs 1 {TINY}"));
    p
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn keys_are_found_by_title_and_by_key() {
    let p = films();
    let keys = |words: &str| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        lines(&p.well(&format!("items {words} --json -q")))
            .iter()
            .map(|l| (text(&l["item"]), text(&l["match"])))
            .collect()
    };
    let of = |key: &str, how: &str| (key.to_string(), how.to_string());
    for folder in ["run", "films"] {
        assert_eq!(keys(&format!("{folder} toy story (1995)"))[0], of("i0", "exact"));
        let mut found = keys(&format!("{folder} TOY story"));
        assert_eq!(found.pop().unwrap(), of("i2", "contains"));
        found.sort();
        assert_eq!(found, [of("i0", "prefix"), of("i1", "prefix")]);
        assert_eq!(keys(&format!("{folder} i7"))[0], of("i7", "exact"));
        assert_eq!(keys(&format!("{folder} haet"))[0], of("i4", "nearest"));
        assert_eq!(keys(&format!("{folder} film --limit 4")).len(), 4);
    }
    // The number of events is that of the log.
    let log = p.text("log.csv");
    for line in lines(&p.well("items run --json -q --limit 100")) {
        let key = line["item"].as_str().unwrap();
        let events = log.lines().filter(|row| row.split(',').nth(1) == Some(key)).count();
        assert_eq!(line["events"], events, "{line}");
    }
    let text = p.well("items run matrix");
    assert!(text.starts_with("  key  events  title\n  i3") && text.contains("Matrix, The (1999)"), "{text}");
    let done = p.run("items run film");
    assert!(done.out.lines().count() == 21 && done.err.contains("and 15 more"), "{done:?}");
    p.refused("items run qqqqqqqqqq", &["no item matches 'qqqqqqqqqq'", "hint"]);
    p.refused("items nowhere x", &["nowhere: there is no such folder", "hint"]);
    p.refused("items run --limit 0", &["--limit 0", "hint"]);
    // Without the data, only keys are shown.
    std::fs::rename(p.path("films"), p.path("moved")).unwrap();
    let done = p.run("items run i7 --json");
    assert!(done.code == Some(0) && done.err.contains("titles and counts are not available"), "{done:?}");
    assert_eq!(lines(&done.out)[0], serde_json::json!({"item": "i7", "match": "exact"}));
}

#[test]
fn titles_typed_as_keys_are_answered_with_the_keys() {
    let p = films();
    let ask = |history: &[&str]| {
        let mut command = p.command("recommend run --k 3");
        history.iter().for_each(|text| {
            command.args(["--history", text]);
        });
        super::done(command.output().unwrap())
    };
    for (history, says) in [
        (&["toy story (1995)"][..], "hint: 'toy story (1995)' is the title of item 'i0': --history i0\n"),
        (&["Matrix, The (1999)"], "hint: 'Matrix, The (1999)' is the title of item 'i3': --history i3\n"),
        (&["Heat (1995),Toy Story (1995)"], "hint: these are titles; give the keys of the items: --history i4,i0\n"),
        (&["Heat (1995)", "Matrix, The (1999)"], "give the keys of the items: --history i4,i3\n"),
        (&["What is this?"], "hint: find keys by title: mipgpu items run 'What is this?'\n"),
    ] {
        let done = ask(history);
        assert!(done.code == Some(1) && done.err.contains(says), "{history:?}: {done:?}");
    }
    let done = ask(&["Heat (1995)"]);
    assert!(done.err.starts_with("mipgpu: error: the model does not know the item 'Heat (1995)'\n"), "{done:?}");
    // A history of known keys is shown by its titles, in one line.
    let done = ask(&["i0,i3"]);
    let first = done.out.lines().next().unwrap();
    assert_eq!(first, "from a history of 2 items: Toy Story (1995); Matrix, The (1999)");
    let done = ask(&["i0,Heat (1995)"]);
    assert!(done.out.starts_with("from a history of 1 item (1 unknown): Toy Story (1995)\n"), "{done:?}");
    assert!(done.err.contains("Heat (1995) (the title of item 'i4')"), "{done:?}");
}
