//! Baskets through the whole program: import, train, evaluate, recommend, export, and fine-tune from another task.

use serde_json::Value;

use super::{Place, endings::stop_midway};

const FLAGS: &str = "--task next-basket --width 16 --length 20 --warmup 4 --batch 16 --epochs 2";

/// Returns a place with `orders`: 90 users with two to seven baskets of one to four items, defined by a column, with
/// items' groups in turn.
pub(super) fn place() -> Place {
    let p = Place::new();
    let mut log = String::from("customer,order,product,time\n");
    for u in 0..90 {
        for basket in 0..2 + u % 6 {
            for i in 0..1 + (u + basket) % 4 {
                let item = (u + 3 * basket + 7 * i) % 30;
                log += &format!("c{u},{basket},p{item},{}\n", 1_000_000_000 + basket * 86_400);
            }
        }
    }
    p.write("orders.csv", log);
    p.well("import orders.csv --out orders --user-col customer --item-col product --basket-col order -q");
    p
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn baskets_are_learned_evaluated_and_recommended() {
    let p = place();
    let said = p.run(&format!("train orders --out run {FLAGS} --eval-every 1"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let all = said.out + &said.err;
    // Users with at least four baskets keep two or more in training; users with two hold out none; users with three
    // keep one.
    for word in [
        "last-basket",
        "75 users have two baskets or more",
        "15 have fewer",
        "since baskets repeat",
        "personal: items by the number of the user's earlier baskets with them",
        "times that of personal frequency",
    ] {
        assert!(all.contains(word), "{word} is missing in {all}");
    }
    let config = String::from_utf8(p.read("run/config.toml")).unwrap();
    assert!(config.contains("kind = \"last-basket\"") && config.contains("task = \"next-basket\""), "{config}");
    let report = json(&p.well("eval run --json --k 5"));
    let protocol = &report[0]["protocol"];
    assert_eq!(protocol["history"], "the last basket before the held-out one");
    assert_eq!((&protocol["keep_seen"], &protocol["seen_held_out"]), (&true.into(), &0.into()));
    assert_eq!(protocol["users"], 75, "users of three baskets and more");
    // The personal list knows all of a user's baskets, although the model sees only the last one; the report of `train`
    // agrees.
    let personal = &report[0]["full"]["personal_frequency"]["at"][0];
    let kept: Value = serde_json::from_slice(&p.read("run/report.json")).unwrap();
    assert!(personal["ndcg"].as_f64().unwrap() > 0.0);
    assert_eq!((personal, &personal["k"]), (&kept["full"]["personal_frequency"]["at"][0], &5.into()));
    // An item that `eval` counts as a hit is in the list.
    p.well("eval run --k 5 --per-user ranks.tsv -q");
    let lists = json(&p.well("recommend run --all-users --hold-out test --k 5 --json"));
    let ranks = String::from_utf8(p.read("ranks.tsv")).unwrap();
    assert!(ranks.starts_with("user\thistory\theld_out\trank\tpopularity_rank\tpersonal_rank\tndcg@5\t"), "{ranks}");
    let mut hits = 0;
    for line in ranks.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let list = lists.iter().find(|l| l["id"] == cells[0]).unwrap();
        let items: Vec<&str> = list["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
        for (item, rank) in cells[2].split('|').zip(cells[3].split('|')) {
            assert_eq!(items.contains(&item), rank.parse::<usize>().unwrap() <= 5, "{line}");
            hits += usize::from(items.contains(&item));
        }
    }
    assert!(hits > 0);
    // One basket as a new history, in any order; its own items may be recommended.
    let one = json(&p.well("recommend run --history p1,p8,p15 --k 30 --json"));
    assert_eq!((one[0]["history"].as_u64(), one[0]["items"].as_array().unwrap().len()), (Some(3), 30));
    p.well("export run --out vectors -q");
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let p = place();
    let flags = FLAGS.replace("--epochs 2", "--epochs 80 --eval-every 20");
    let words = |run: &str| format!("train orders --out {run} -q {flags} --checkpoint-seconds 0 --mask-last 0.5");
    p.well(&words("whole"));
    stop_midway(&p, &words("stopped"), "stopped");
    p.well("train --resume stopped -q --threads 1");
    p.assert_same_run("whole", "stopped");
}

/// The rest of a cut basket would be in the history of its held-out items and reveal them.
#[test]
fn splits_that_cut_baskets_are_refused() {
    let p = place();
    p.well(&format!("train orders --out run -q {FLAGS}"));
    let says = &["cuts baskets", "--split last-basket"];
    for split in ["leave-one-out", "last-n --test-n 2", "ratio --test-share 0.3"] {
        p.refused(&format!("train orders --out new {FLAGS} --split {split}"), says);
        p.refused(&format!("finetune --from run orders --out new --split {split}"), says);
        p.refused(&format!("eval run --split {split}"), says);
        p.refused(&format!("recommend run --all-users --hold-out test --split {split}"), says);
        assert!(!p.path("new").exists(), "{split}");
    }
    // A time cut does not split baskets: here a basket is a day.
    let cut = "--split time --cut 2001-09-12";
    p.well(&format!("train orders --out timed -q {FLAGS} {cut}"));
    p.well("eval timed -q");
    // Other tasks predict items, so they may split baskets.
    p.well("train orders --out items -q --width 16 --length 20 --warmup 4 --epochs 1 --split leave-one-out");
}

#[test]
fn other_tasks_meet_baskets_and_lead_to_them() {
    let p = place();
    p.well("train orders --out items -q --width 16 --length 20 --warmup 4 --epochs 1 --split last-basket");
    let carried = p.run(&format!("finetune --from items orders --out fine {FLAGS}"));
    assert_eq!(carried.code, Some(0), "{carried:?}");
    let patched = p.run(&format!("finetune --from items orders --out patched --transfer patch {FLAGS}"));
    assert!(patched.code == Some(1) && patched.err.contains("no 'segment.weight'"), "{patched:?}");
    p.well("finetune --from fine orders --out patched -q --transfer patch --epochs 1");
    p.well("eval patched -q");
    p.well("train orders --out next -q --model sasrec --width 16 --warmup 4 --epochs 1 --split last-basket");
    let report = json(&p.well("eval next --json --k 5"));
    assert_eq!(report[0]["protocol"]["keep_seen"], true);
}

#[test]
fn data_without_baskets_and_settings_without_room_are_refused() {
    let p = place();
    // Users take one step per day: no two events of a user have the same time.
    for words in [format!("train data --out run {FLAGS}"), "train data --out run --split last-basket".into()] {
        p.refused(&words, &["no baskets", "--basket-col"]);
    }
    p.refused("train orders --out run --task next-basket --length 3", &["two baskets"]);
    p.refused("train orders --out run --model sasrec --task next-basket", &["sasrec", "next-item"]);
    // The windows of this model end at a row, and the window of [CLS] would contain neither basket.
    p.refused("train orders --out run --model caser --task next-basket", &["caser", "masked-item"]);
    assert!(!p.path("run").exists());
    p.write("few.csv", "u,b,i\na,1,x\na,2,y\na,3,z\nb,1,y\nb,2,x\nb,3,z\n");
    p.well("import few.csv --out few --user-col u --item-col i --basket-col b -q");
    p.refused(&format!("train few --out run {FLAGS}"), &["no user has two baskets to train on"]);
}
