//! Baskets, defined by a column or by equal times, are preserved by every filter.

use std::{fs, ops::Range};

use mipgpu::data::{Dataset, Duplicates, ImportOptions, Vocab};

use crate::import::{Desk, builtin, builtin_rows, formats::parquet_file, imported, refusal_of};

fn told_by(column: &str) -> ImportOptions {
    ImportOptions { basket_col: Some(column.into()), ..Default::default() }
}

/// Returns the baskets of a user as `a b|c`, items by key.
fn baskets(data: &Dataset, user: &str) -> String {
    let user = data.user_keys().find(user).unwrap() as usize;
    let keys: &Vocab = data.item_keys();
    let basket = |range: Range<usize>| {
        data.items_of(user)[range].iter().map(|&i| keys.key(i as usize)).collect::<Vec<_>>().join(" ")
    };
    data.baskets_of(user).map(basket).collect::<Vec<_>>().join("|")
}

fn times(data: &Dataset, user: &str) -> Vec<i64> {
    data.times_of(data.user_keys().find(user).unwrap() as usize).unwrap().to_vec()
}

#[test]
fn a_column_tells_baskets_apart() {
    // Rows of one basket need not be adjacent; the same number means another basket for another user.
    let log = "order,user,item\n7,u,a\n7,v,b\n3,u,c\n7,u,d\n\"7\",v,e\n\"x\"\"y\",v,a\n";
    let (data, summary, talk) = imported(log, told_by("order"));
    assert!(data.has_baskets() && talk.contains("basket  column 1 'order'"), "{talk}");
    assert_eq!((baskets(&data, "u"), baskets(&data, "v")), ("a d|c".into(), "b e|a".into()));
    assert_eq!((summary.baskets, summary.raised_times), (Some(4), 0));
}

#[test]
fn without_a_column_equal_times_are_a_basket_and_without_times_each_row() {
    let log = "user,item,time\nu,a,5\nu,b,9\nu,c,5\nu,d,9\nv,a,1\n";
    let (data, summary, _) = imported(log, ImportOptions::default());
    assert_eq!((baskets(&data, "u"), baskets(&data, "v")), ("a c|b d".into(), "a".into()));
    assert_eq!((data.has_baskets(), summary.baskets), (false, None));
    let (data, ..) = imported(log, ImportOptions { time_col: Some("none".into()), ..Default::default() });
    assert_eq!(baskets(&data, "u"), "a|b|c|d");
}

#[test]
fn baskets_come_in_order_of_time_and_stay_whole() {
    // u: order 2 begins and ends before order 1; v: order 1 continues after order 2 has begun.
    let log = "user,item,order,time\nu,a,1,50\nu,b,2,10\nu,c,1,50\nu,d,2,20\n\
        v,a,1,10\nv,b,2,20\nv,c,1,40\nv,d,2,30\nv,e,3,35\n";
    let (data, summary, talk) = imported(log, told_by("order"));
    assert_eq!((baskets(&data, "u"), times(&data, "u")), ("b d|a c".into(), vec![10, 20, 50, 50]));
    assert_eq!((baskets(&data, "v"), times(&data, "v")), ("a c|b d|e".into(), vec![10, 40, 40, 40, 40]));
    assert_eq!((summary.raised_times, summary.baskets), (3, Some(5)));
    assert!(talk.contains("3 times were raised"), "{talk}");
}

#[test]
fn filters_leave_no_gaps_between_baskets() {
    let log = "user,item,rating,order\nu,a,5,1\nu,b,1,1\nu,c,1,2\nu,a,5,3\nu,b,5,3\nv,a,5,1\nv,b,4,2\nw,z,5,1\n";
    let with = |options: ImportOptions| imported(log, ImportOptions { basket_col: Some("order".into()), ..options }).0;
    assert_eq!(baskets(&with(ImportOptions { min_rating: Some(2.0), ..Default::default() }), "u"), "a|a b");
    assert_eq!(baskets(&with(ImportOptions { duplicates: Duplicates::Last, ..Default::default() }), "u"), "c|a b");
    let core = with(ImportOptions { min_item: 2, duplicates: Duplicates::First, ..Default::default() });
    assert_eq!((baskets(&core, "u"), baskets(&core, "v")), ("a b".into(), "a|b".into()));
    // `verify`, which every import here calls, detects numbers that are not 0, 1, 2, …
}

/// If the column of times defines the baskets, they are those of equal times: in text, in Parquet, and with any
/// memory limit.
#[test]
fn all_ways_of_reading_give_the_same_baskets() {
    let ranges = |data: &Dataset| -> Vec<Vec<Range<usize>>> {
        (0..data.users()).map(|u| data.baskets_of(u).collect()).collect()
    };
    let desk = Desk::new();
    let (plain, ..) = desk.import(&[builtin()], &ImportOptions::default()).unwrap();
    let expected = ranges(&plain);
    let count: usize = expected.iter().map(Vec::len).sum();
    assert!(count > 50_000 && count < 95_000, "there are baskets of one and of several: {count}");
    let parquet = desk.write("log.parquet", parquet_file(&builtin_rows()));
    for (source, column) in [(builtin(), "timestamp"), (parquet, "other")] {
        for memory_bytes in [1 << 20, 2 << 30] {
            let options = ImportOptions { force: true, memory_bytes, shard_interactions: 9000, ..told_by(column) };
            let (data, summary, _) = desk.import(std::slice::from_ref(&source), &options).unwrap();
            assert!(data.has_baskets() && ranges(&data) == expected, "{column}, {memory_bytes}");
            assert_eq!(summary.baskets, Some(count as u64));
        }
    }
}

#[test]
fn baskets_that_cannot_be_are_refused() {
    let says = |log: &str, column: &str, expected: &str| {
        let error = refusal_of("log.csv", log, told_by(column)).to_string();
        assert!(error.contains(expected) && error.contains("hint:"), "{error}");
    };
    says("user,item,order\nu,a,1\nu,b,\n", "order", "line 3, column 'order': the basket is empty");
    says("user,item,order\nu,a,1\n", "orders", "no column 'orders'");
    says("user,item,order\nu,a,1\n", "user", "cannot be both user and basket");
}

/// Without the column, a data set has the same bytes as those of versions without baskets.
#[test]
fn data_sets_without_the_column_do_not_mention_it() {
    let desk = Desk::new();
    let log = desk.write("log.csv", "user,item,time\nu,a,5\n");
    desk.import(&[log], &ImportOptions::default()).unwrap();
    for entry in fs::read_dir(desk.out()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"basket"));
    }
}
