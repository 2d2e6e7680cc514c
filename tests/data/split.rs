//! Splits: the parts of each rule, the inputs that are rejected, and that no held-out event is in a history.

use crate::evaluation::{dataset, random_dataset, sequences};
use mipgpu::{
    base::rng::{Purpose, Stream},
    data::{
        Dataset, ImportOptions,
        split::{HeldOut, Split, SplitSpec},
    },
};

/// Returns the train, validation and test items of a user by key.
fn parts(data: &Dataset, split: &Split, user: &str) -> [String; 3] {
    let u = data.user_keys().find(user).unwrap() as usize;
    let name = |items: &[u32]| items.iter().map(|i| data.item_keys().key(*i as usize)).collect::<Vec<_>>().join(" ");
    let all = data.items_of(u);
    [name(split.train().items(data, u)), name(&all[split.valid().held_out(u)]), name(&all[split.test().held_out(u)])]
}

fn error(data: &Dataset, spec: SplitSpec) -> String {
    Split::new(data, spec).unwrap_err().to_string()
}

#[test]
fn leave_one_out_keeps_short_users_in_training() {
    let data = sequences(&["a b c d", "a b c", "a b", "d"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    assert_eq!(parts(&data, &split, "u0"), ["a b", "c", "d"]);
    assert_eq!(parts(&data, &split, "u1"), ["a", "b", "c"]);
    assert_eq!(parts(&data, &split, "u2"), ["a b", "", ""]);
    assert_eq!(parts(&data, &split, "u3"), ["d", "", ""]);
    let s = split.summary();
    assert_eq!((s.train_events, s.valid_events, s.test_events), (6, 2, 2));
    assert_eq!((s.valid_users, s.test_users, s.train_only_users), (2, 2, 2));
    assert_eq!(split.test().users(), [0, 1]);
    assert_eq!(s.unseen_items, 1, "c is only ever held out");
    let count = |key| split.train_counts()[data.item_keys().find(key).unwrap() as usize];
    assert_eq!([count("a"), count("b"), count("c"), count("d")], [3, 2, 0, 1]);
}

#[test]
fn last_n_holds_out_what_it_says() {
    let data = sequences(&["a b c d e f", "a b c d", "a b c"]);
    let split = Split::new(&data, SplitSpec::LastN { valid: 1, test: 2 }).unwrap();
    assert_eq!(parts(&data, &split, "u0"), ["a b c", "d", "e f"]);
    assert_eq!(parts(&data, &split, "u1"), ["a", "b", "c d"]);
    assert_eq!(parts(&data, &split, "u2"), ["a b c", "", ""]);
    let no_valid = Split::new(&data, SplitSpec::LastN { valid: 0, test: 1 }).unwrap();
    assert_eq!(parts(&data, &no_valid, "u2"), ["a b", "", "c"]);
    assert!(no_valid.valid().users().is_empty());
}

#[test]
fn shares_are_of_each_user_and_at_least_one_event() {
    let data = sequences(&["a b c d e f a b c d", "a b c d e", "a b c", "a b"]);
    let split = Split::new(&data, SplitSpec::Ratio { valid: 0.1, test: 0.3 }).unwrap();
    assert_eq!(parts(&data, &split, "u0"), ["a b c d e f", "a", "b c d"]);
    assert_eq!(parts(&data, &split, "u1"), ["a b c", "d", "e"]);
    assert_eq!(parts(&data, &split, "u2"), ["a", "b", "c"]);
    assert_eq!(parts(&data, &split, "u3"), ["a b", "", ""], "one event must stay to train");
    let none = Split::new(&data, SplitSpec::Ratio { valid: 0.0, test: 0.5 }).unwrap();
    assert_eq!(parts(&data, &none, "u1"), ["a b c", "", "d e"]);
    assert!(none.valid().users().is_empty());
    // 0.29 times 100 is slightly below 29 in floating point.
    let many = vec!["a"; 100].join(" ");
    let split = Split::new(&sequences(&[&many]), SplitSpec::Ratio { valid: 0.07, test: 0.29 }).unwrap();
    assert_eq!((split.summary().valid_events, split.summary().test_events), (7, 29));
}

#[test]
fn the_last_baskets_are_held_out_whole() {
    // Equal times form a basket: u has four, v three, w two, x one.
    let log = [
        ("u", "a", Some(1)),
        ("u", "b", Some(1)),
        ("u", "c", Some(2)),
        ("u", "d", Some(3)),
        ("u", "a", Some(3)),
        ("u", "e", Some(4)),
        ("u", "b", Some(4)),
        ("v", "a", Some(1)),
        ("v", "b", Some(2)),
        ("v", "c", Some(2)),
        ("v", "c", Some(3)),
        ("w", "a", Some(1)),
        ("w", "b", Some(2)),
        ("x", "a", Some(1)),
        ("x", "b", Some(1)),
    ];
    let data = dataset(&log);
    let split = Split::new(&data, SplitSpec::LastBasket).unwrap();
    assert_eq!(parts(&data, &split, "u"), ["a b c", "d a", "e b"]);
    assert_eq!(parts(&data, &split, "v"), ["a", "b c", "c"]);
    assert_eq!(parts(&data, &split, "w"), ["a b", "", ""]);
    assert_eq!(parts(&data, &split, "x"), ["a b", "", ""]);
    let s = split.summary();
    assert_eq!((s.train_events, s.valid_events, s.test_events), (8, 4, 3));
    assert_eq!((s.test_users, s.train_only_users, s.tied_test_users), (2, 2, Some(0)));
    // The last basket before any position, truncated at that position.
    let u = data.user_keys().find("u").unwrap() as usize;
    let name = |end| data.last_basket_of(u, end).iter().map(|i| data.item_keys().key(*i as usize)).collect::<String>();
    assert_eq!([0, 1, 2, 3, 4, 5, 7].map(name), ["", "a", "ab", "c", "d", "da", "eb"]);
    let e = error(&sequences(&["a b c d", "b c"]), SplitSpec::LastBasket);
    assert!(e.contains("no baskets") && e.contains("--basket-col"), "{e}");
}

/// Baskets with different times in their rows: a time cut inside one moves to its start; one between two baskets stays.
#[test]
fn a_cut_in_time_leaves_baskets_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("log.csv"), dir.path().join("data"));
    let rows = [
        ("u", 1, "a", 10),
        ("u", 1, "b", 12),
        ("u", 2, "c", 20),
        ("u", 2, "d", 32),
        ("u", 3, "a", 40),
        ("v", 1, "a", 11),
        ("v", 2, "b", 29),
        ("v", 3, "c", 30),
        ("w", 1, "d", 12),
        ("w", 1, "b", 31),
        ("x", 1, "c", 5),
    ];
    let text: String = rows.iter().map(|(u, basket, item, t)| format!("{u},{basket},{item},{t}\n")).collect();
    std::fs::write(&log, format!("user,order,item,time\n{text}")).unwrap();
    let import = |column: Option<String>| {
        let options = ImportOptions { basket_col: column, force: true, ..ImportOptions::default() };
        mipgpu::data::import(std::slice::from_ref(&log), &out, &options, &mut |_| {}).unwrap();
        Dataset::open(&out).unwrap()
    };
    let spec = SplitSpec::Time { cut: 30, valid_cut: Some(12) };
    let data = import(Some("order".into()));
    let split = Split::for_task(&data, spec, true).unwrap();
    assert_eq!(parts(&data, &split, "u"), ["", "a b", "c d a"]);
    assert_eq!(parts(&data, &split, "v"), ["a", "b", "c"]);
    assert_eq!(parts(&data, &split, "w"), ["", "", "d b"]);
    assert_eq!(parts(&data, &split, "x"), ["c", "", ""]);
    assert_eq!((split.summary().whole_baskets, split.summary().no_history_users), (2, 1));
    for user in 0..data.users() {
        let starts: Vec<usize> = data.baskets_of(user).map(|b| b.start).chain([data.items_of(user).len()]).collect();
        for range in [split.valid().held_out(user), split.test().held_out(user)] {
            assert!(starts.contains(&range.start) && starts.contains(&range.end), "{range:?} of {starts:?}");
        }
    }
    // Without the column only equal times form baskets, and the cut stays in place.
    let data = import(None);
    let split = Split::for_task(&data, spec, true).unwrap();
    assert_eq!(parts(&data, &split, "u"), ["a", "b c", "d a"]);
    assert_eq!(split.summary().whole_baskets, 0);
    for spec in
        [SplitSpec::LeaveOneOut, SplitSpec::LastN { valid: 2, test: 2 }, SplitSpec::Ratio { valid: 0.1, test: 0.1 }]
    {
        let e = Split::for_task(&data, spec, true).unwrap_err().to_string();
        assert!(e.contains("cuts baskets") && e.contains("--split last-basket"), "{e}");
        Split::for_task(&data, spec, false).unwrap();
    }
}

#[test]
fn a_time_split_cuts_everyone_at_the_same_moment() {
    let log = [
        ("u", "a", Some(10)),
        ("u", "b", Some(20)),
        ("u", "c", Some(30)),
        ("v", "a", Some(5)),
        ("v", "d", Some(29)),
        ("w", "e", Some(31)),
        ("x", "a", Some(30)),
        ("x", "b", Some(1)),
    ];
    let data = dataset(&log);
    let split = Split::new(&data, SplitSpec::Time { cut: 30, valid_cut: Some(20) }).unwrap();
    assert_eq!(parts(&data, &split, "u"), ["a", "b", "c"]);
    assert_eq!(parts(&data, &split, "v"), ["a", "d", ""]);
    assert_eq!(parts(&data, &split, "w"), ["", "", "e"]);
    assert_eq!(parts(&data, &split, "x"), ["b", "", "a"]);
    assert_eq!(split.summary().no_history_users, 1, "w has nothing before the cut");
    let user = |key| data.user_keys().find(key).unwrap();
    assert_eq!(split.test().users(), [user("u"), user("x")]);
    assert_eq!(split.valid().users(), [user("u"), user("v")]);
}

/// Compares the chosen validation cut with one found by sorting all timestamps.
#[test]
fn the_latest_tenth_validates() {
    for seed in 0..6 {
        let mut s = Stream::new(seed, Purpose::Test, 9);
        // From a few distinct times (many ties) to nanoseconds over decades.
        let span = [3, 50, 1_000, 1 << 20, 1 << 40, 1 << 60][seed as usize];
        let log: Vec<(u64, u64, Option<i64>)> =
            (0..2_000).map(|_| (s.below(50), s.below(30), Some(s.below(span) as i64 - 1000))).collect();
        let data = dataset(&log);
        let mut times: Vec<i64> = log.iter().map(|e| e.2.unwrap()).collect();
        times.sort_unstable();
        let cut = times[1_500].max(times[0] + 1);
        let before: Vec<i64> = times.iter().copied().filter(|t| *t < cut).collect();
        let at_or_after = |c: i64| before.iter().filter(|t| **t >= c).count();
        // The result is just above some event, or the cut itself if the last event has too many ties.
        let expected = before.iter().map(|t| t + 1).filter(|c| at_or_after(*c) <= before.len() / 10).min().unwrap();
        let split = Split::new(&data, SplitSpec::Time { cut, valid_cut: None }).unwrap();
        let got = split.summary().valid_cut.unwrap();
        assert_eq!(at_or_after(got), at_or_after(expected), "span {span}");
        assert_eq!(got, expected, "span {span}");
        assert_eq!(split.summary().valid_events as usize, at_or_after(expected));
    }
}

#[test]
fn ties_of_the_test_item_are_counted() {
    let log = [
        ("u", "a", Some(1)),
        ("u", "b", Some(2)),
        ("u", "c", Some(2)),
        ("v", "a", Some(1)),
        ("v", "b", Some(2)),
        ("v", "c", Some(3)),
    ];
    let data = dataset(&log);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    assert_eq!(split.summary().tied_test_users, Some(1));
    assert_eq!(parts(&data, &split, "u")[2], "c", "equal timestamps keep the order of the input");
    let untimed = dataset(&[("u", "a", None), ("u", "b", None), ("u", "c", None)]);
    assert_eq!(Split::new(&untimed, SplitSpec::LeaveOneOut).unwrap().summary().tied_test_users, None);
}

/// Every event is in exactly one part and no held-out event is in a history, for every split.
#[test]
fn parts_tile_every_user_and_time_splits_do_not_leak() {
    let data = random_dataset(200, 60, 3);
    let cut = 1_000_000_200;
    for spec in [
        SplitSpec::LeaveOneOut,
        SplitSpec::LastN { valid: 3, test: 4 },
        SplitSpec::LastBasket,
        SplitSpec::Time { cut, valid_cut: None },
        SplitSpec::Time { cut, valid_cut: Some(cut) },
    ] {
        let split = Split::new(&data, spec).unwrap();
        for u in 0..data.users() {
            let (valid, test) = (split.valid().held_out(u), split.test().held_out(u));
            assert_eq!(split.train().len_of(u), valid.start);
            assert_eq!((valid.end, test.end), (test.start, data.items_of(u).len()));
            if let SplitSpec::Time { .. } = spec {
                let (times, valid_cut) = (data.times_of(u).unwrap(), split.summary().valid_cut.unwrap());
                assert!(times[..valid.start].iter().all(|t| *t < valid_cut));
                assert!(times[valid].iter().all(|t| (valid_cut..cut).contains(t)));
                assert!(times[test].iter().all(|t| *t >= cut));
            }
        }
    }
}

#[test]
fn training_on_another_split_is_noticed() {
    let data = sequences(&["a b c d e f", "a b c d e"]);
    let one = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let three = Split::new(&data, SplitSpec::LastN { valid: 1, test: 3 }).unwrap();
    // Trained on [0, n-2) and tested on the last three: one of each user's test events was trained on.
    assert_eq!(three.seen_by(&one, &three.test()), (2, 2), "and the event before the last chose the model");
    assert_eq!(one.seen_by(&three, &one.test()), (0, 0));
    assert_eq!(one.seen_by(&one, &one.valid()), (0, 0), "to validate on validation events is what they are for");
    let two = Split::new(&data, SplitSpec::LastN { valid: 0, test: 2 }).unwrap();
    assert_eq!(two.seen_by(&one, &two.test()), (0, 2));
}

#[test]
fn what_cannot_be_split_is_refused() {
    let untimed = dataset(&[("u", "a", None), ("u", "b", None), ("u", "c", None)]);
    let e = error(&untimed, SplitSpec::Time { cut: 3, valid_cut: None });
    assert!(e.contains("needs timestamps") && e.contains("hint"), "{e}");

    let short = sequences(&["a b", "b c", "a"]);
    let e = error(&short, SplitSpec::LeaveOneOut);
    assert!(e.contains("empty split") && e.contains("a user needs three events"), "{e}");

    let data = sequences(&["a b c d", "b c d e"]);
    for cut in [-5, 0, 4, 1_000] {
        let e = error(&data, SplitSpec::Time { cut, valid_cut: None });
        assert!(e.contains("leaves nothing on one side") && e.contains("run from"), "{cut}: {e}");
    }
    let e = error(&data, SplitSpec::Time { cut: 2, valid_cut: Some(3) });
    assert!(e.contains("comes after the test cut"), "{e}");
    let e = error(&data, SplitSpec::Time { cut: 2, valid_cut: Some(0) });
    assert!(e.contains("nothing to train on"), "{e}");
    let e = error(&data, SplitSpec::LastN { valid: 1, test: 0 });
    assert!(e.contains("0 test events"), "{e}");
    for (valid, test) in [(0.1, 0.0), (-0.1, 0.2), (0.5, 0.5), (0.0, 1.0), (f64::NAN, 0.2), (0.1, f64::INFINITY)] {
        let e = error(&data, SplitSpec::Ratio { valid, test });
        assert!(e.contains("shares of") && e.contains("--test-share"), "{e}");
    }

    // All events of each user are on one side of the cut: test events exist, but no user has a history.
    let apart = dataset(&[("u", "a", Some(1)), ("u", "b", Some(2)), ("v", "a", Some(8)), ("v", "b", Some(9))]);
    let e = error(&apart, SplitSpec::Time { cut: 5, valid_cut: None });
    assert!(e.contains("empty split"), "{e}");
}
