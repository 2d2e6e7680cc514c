//! User vectors and side fields through the whole program: training, queries, the run folder, transfer, and rejected
//! inputs.

use std::{collections::HashMap, fs, path::PathBuf, process::Command};

use mipgpu::{
    backend::{Cpu, Device},
    data::Dataset,
    eval::{Encoder, Query},
    layers::DataSummary,
    models,
    ops::{BagLists, Memory},
    tasks::Sequence,
    train::{Engine, Settings, Trained, Which},
};
use safetensors::SafeTensors;

/// Settings of a model that trains in a moment.
const TINY: &str = "--width 16 --heads 2 --length 20 --blocks 1 --batch 16 --warmup 4 --dropout 0 --epochs 1";

/// A temporary folder with data of 60 users who walk through 40 items; `i7` has no genre, the others have one or two.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let mut log = String::from("user,item,timestamp\n");
        for u in 0..60 {
            for t in 0..(12 + u % 10) {
                log += &format!("u{u},i{},{}\n", (u * 7 + t * (1 + u % 3)) % 40, 1_000_000_000 + u * 600 + t * 86_400);
            }
        }
        let mut items = String::from("item,genres,year\n");
        for i in 0..40 {
            let genres = ["Drama", "Action|Drama", "Comedy", "Action", "Crime|Comedy"][i % 5];
            items += &format!("i{i},{},{}\n", if i == 7 { "" } else { genres }, 1990 + i % 4);
        }
        fs::write(place.path("log.csv"), log).unwrap();
        fs::write(place.path("items.csv"), items).unwrap();
        place.well("import log.csv --items items.csv --out data -q");
        place.well("import log.csv --out bare -q");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &str) -> (Option<i32>, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mipgpu"));
        c.current_dir(self.0.path()).args(words.split_whitespace()).env("CUDA_VISIBLE_DEVICES", "");
        let output = c.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn well(&self, words: &str) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, Some(0), "{words}: {out}{err}");
        out
    }

    fn refused(&self, words: &str, says: &[&str]) {
        let (code, _, err) = self.run(words);
        assert_eq!(code, Some(1), "{words}: {err}");
        for word in says {
            assert!(err.contains(word) && !err.contains("panicked"), "{words}: '{word}' is missing in: {err}");
        }
    }

    /// Returns the rows of a table of a run's best checkpoint.
    fn rows(&self, run: &str, name: &str) -> Vec<Vec<u32>> {
        let bytes = fs::read(self.path(run).join("best.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let bits: Vec<u32> = tensor.data().chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        bits.chunks(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    fn trained(&self, run: &str) -> Trained {
        Trained::open(&self.path(run), Which::Best, Device::Cpu).unwrap()
    }

    /// Returns the vectors of exported users by key.
    fn exported(&self, folder: &str) -> HashMap<String, Vec<u8>> {
        let bytes = fs::read(self.path(folder).join("users.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let get = |name: &str| file.tensor(name).unwrap();
        let at: Vec<usize> = get("key_offsets")
            .data()
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap()) as usize)
            .collect();
        let (keys, vectors, width) = (get("key_bytes"), get("vector"), 4 * get("vector").shape()[1]);
        let key = |i: usize| String::from_utf8(keys.data()[at[i]..at[i + 1]].to_vec()).unwrap();
        (0..at.len() - 1).map(|i| (key(i), vectors.data()[i * width..][..width].to_vec())).collect()
    }
}

/// From training through every query to another domain: rows are identified by keys alone.
#[test]
fn the_whole_way_with_users_and_fields() {
    let p = Place::new();
    p.well("split data --out domains --field genres --target-values Action,Crime");
    p.well(&format!("train domains/source --out base -q {TINY} --model sasrec --fields all --user-width 6"));
    let config = fs::read_to_string(p.path("base/config.toml")).unwrap();
    assert!(config.contains("fields = \"genres,year\"") && config.contains("user-width = 6"), "{config}");

    // The run works without its data: its folder contains what it needs to know of users and items.
    let source = Dataset::open(&p.path("domains/source")).unwrap();
    let base = p.trained("base");
    assert_eq!(base.side_tables.users.as_ref().unwrap().len(), source.users());
    let values: Vec<String> = base.side_tables.values.as_ref().unwrap().keys().map(String::from).collect();
    assert!(values.contains(&"genres\tDrama".into()) && values.contains(&"year\t1991".into()), "{values:?}");
    assert_eq!(p.rows("base", "user.weight").len(), source.users());
    assert_eq!(p.rows("base", "field.weight").len(), values.len());
    assert!(p.well("eval base --json").contains("\"event\":\"eval\""));

    // A query of a known user uses the user's vector; the same history without a user gives other scores.
    let key = source.user_keys().key(3).to_owned();
    let history: Vec<&str> = source.items_of(3).iter().map(|i| source.item_keys().key(*i as usize)).collect();
    let scores = |words: &str| {
        let line = p.well(words);
        let answer: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        answer["items"].clone()
    };
    let known = scores(&format!("recommend base --users {key} --json"));
    let nobody = scores(&format!("recommend base --history {} --json", history.join(",")));
    assert_ne!(known, nobody);
    p.well("export base --out vectors --what users --format safetensors");

    // The same users with other numbers: answers are matched by key. One user is added; it is unknown and reported.
    let log = fs::read_to_string(p.path("log.csv")).unwrap();
    let (head, rows) = log.split_once('\n').unwrap();
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.split(',').next().unwrap().to_owned()));
    let stranger = history.iter().enumerate().map(|(t, item)| format!("stranger,{item},{t}"));
    let all: Vec<String> = rows.into_iter().map(String::from).chain(stranger).collect();
    fs::write(p.path("other.csv"), format!("{head}\n{}\n", all.join("\n"))).unwrap();
    p.well("import other.csv --out other -q");
    p.well("export base --data other --out others --what users --format safetensors");
    let (vectors, others) = (p.exported("vectors"), p.exported("others"));
    assert!(vectors.len() == source.users() && vectors.iter().all(|(key, vector)| others[key] == *vector));
    assert_ne!(others["stranger"], others[&key], "one history, of somebody and of nobody");
    assert_eq!(scores("recommend base --data other --users stranger --json"), nobody);
    assert_eq!(scores(&format!("recommend base --data other --users {key} --json")), known);
    let (code, _, err) = p.run("eval base other");
    assert!(code == Some(0) && err.contains("1 of the data's") && err.contains("have no vector"), "{err}");

    // Transfer to the other domain without training: rows are the base's, matched by key.
    let finetune = "finetune domains/target --from base --epochs 1 --lr 0";
    let told = p.well(&format!("{finetune} --out tuned --json"));
    let tuned = p.trained("tuned");
    for (table, keys) in [
        ("user.weight", [&base.side_tables, &tuned.side_tables].map(|s| s.users.as_ref().unwrap())),
        ("field.weight", [&base.side_tables, &tuned.side_tables].map(|s| s.values.as_ref().unwrap())),
    ] {
        let (old, new) = (p.rows("base", table), p.rows("tuned", table));
        let shared: Vec<usize> = (0..new.len()).filter(|i| keys[0].find(keys[1].key(*i)).is_some()).collect();
        assert!(shared.len() > 3, "{table}: {} shared", shared.len());
        for i in &shared {
            assert_eq!(new[*i], old[keys[0].find(keys[1].key(*i)).unwrap() as usize], "{table}: {}", keys[1].key(*i));
        }
        assert!(
            told.contains(&format!("\"name\":\"{table}\"")) && told.contains(&format!("\"rows\":{}", shared.len()))
        );
    }
    // "genres\tCrime" is new, and no user is new. Patches train one table and leave the other unchanged; the base
    // completes the patch checkpoint.
    p.well(&format!("{finetune} --out patched --transfer patch -q"));
    let kept = fs::read(p.path("patched/best.safetensors")).unwrap();
    let kept = SafeTensors::deserialize(&kept).unwrap();
    let has = |name: &str| kept.tensor(name).is_ok();
    assert!(has("field.weight") && has("item.weight") && !has("user.weight") && !has("side.weight"));
    assert!(p.well("eval patched --json").contains("\"event\":\"eval\""));
    p.refused(
        &format!("{finetune} --out x --fields genres"),
        &["the base has --fields", "the order of the fields is part of the network"],
    );
}

#[test]
fn the_built_in_data_train_with_their_genres() {
    let p = Place(tempfile::tempdir().unwrap());
    let (code, _, err) = p.run("train --out run --fields genres --user-width 8 --epochs 1 --width 16 --join sum");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("side    fields genres (16 wide each), users 8 wide, joined by sum"), "{err}");
    p.well("recommend run --users 42 --k 3");
}

#[test]
fn what_the_data_do_not_have_is_refused_with_advice() {
    let p = Place::new();
    let train = |more: &str| format!("train {more} --out x -q {TINY}");
    p.refused(&train("bare --fields all"), &["no side fields", "--item-fields"]);
    p.refused(
        &train("data --fields genre"),
        &["no item field 'genre' (there are: genres, year)", "did you mean 'genres'?"],
    );
    p.refused(&train("data --fields year,zzz,qqq"), &["no item field 'zzz', 'qqq'", "--fields none"]);
    p.refused(&train("data --fields year,year"), &["'year' is given twice"]);
    p.refused(&train("data --field-width 4"), &["--field-width has no effect", "--fields"]);
    p.refused(&train("data --join sum"), &["--join has no effect"]);
    p.refused(&train("data --fields year --field-width 0"), &["--field-width 0 is out of range"]);
    p.refused(&train("data --user-width 100000"), &["--user-width 100000 is out of range", "at most 65536"]);
    assert!(!p.path("x").exists());

    p.well(&format!("train data --out run -q {TINY} --fields genres --user-width 4"));
    p.refused(
        "finetune bare --from run --out x",
        &["run: the new run uses its settings", "--fields genres", "no side fields"],
    );
    p.well("finetune bare --from run --out hinted -q --epochs 1 --fields none");
    p.well("eval hinted");
    // Entirely different users: their vectors cannot be transferred.
    let log = fs::read_to_string(p.path("log.csv")).unwrap().replace("\nu", "\nv");
    fs::write(p.path("others.csv"), log).unwrap();
    p.well("import others.csv --items items.csv --out others -q");
    p.refused("finetune others --from run --out y", &["no user of the new data is known to the base", "--user-width"]);
    p.well("eval run others");

    // Files of the run that are missing, truncated, or from another run of the same sizes.
    for file in ["users", "fields"] {
        let path = p.path(&format!("run/{file}.safetensors"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        p.refused("eval run", &[&format!("{file}.safetensors"), "hint: "]);
        fs::remove_file(&path).unwrap();
        p.refused("eval run", &[&format!("{file}.safetensors"), "hint: "]);
        let text = if file == "users" { ["u41", "u14"] } else { ["Action", "Motion"] };
        let at = whole.windows(text[0].len()).position(|w| w == text[0].as_bytes()).unwrap();
        let mut other = whole.clone();
        other[at..][..text[0].len()].copy_from_slice(text[1].as_bytes());
        fs::write(&path, other).unwrap();
        p.refused("eval run", &["belongs to another vocabulary"]);
        fs::write(&path, whole).unwrap();
    }
    p.well("eval run");
}

/// The inputs of a query: only the user's row, and nothing of the masked position, not even its fields.
#[test]
fn a_user_has_a_vector_and_a_hidden_item_no_fields() {
    const ITEMS: usize = 12;
    let values: Vec<u32> = (0..4).collect();
    let of = |item: usize, _| &values[item % 4..][..1];
    let summary = || DataSummary {
        users: 3,
        fields: BagLists::new(ITEMS, &[4], of).unwrap(),
        ..DataSummary::from(&[1u64; ITEMS])
    };
    let base = Settings {
        width: 8,
        heads: 2,
        blocks: 1,
        length: 6,
        batch: 4,
        init_std: 0.3,
        user_width: 4,
        fields: "all".into(),
        field_width: 3,
        ..Settings::default()
    };
    for model in ["bert4rec", "sasrec"] {
        let s = Settings { model: model.into(), ..base.clone() };
        let mut engine = Engine::<Cpu>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
        let history = [1, 5, 2];
        let ask = |engine: &mut Engine<Cpu>, user| {
            let mut vector = vec![0.0f32; 8];
            engine.encode(&[Query { history: &history, user, ..Query::default() }], &mut vector).unwrap();
            vector
        };
        let answers = [Some(0), Some(1), Some(2), None].map(|user| ask(&mut engine, user));
        for (i, a) in answers.iter().enumerate() {
            assert!(answers[..i].iter().all(|b| a != b), "{model}: {answers:?}");
        }
        let table = engine.params().iter().find(|p| p.name == "user.weight").unwrap().w;
        engine.backend.write(table.slice(4, 4).raw(), &[0.0; 4]);
        assert_eq!(ask(&mut engine, Some(1)), answers[3], "{model}: a zero vector is nobody's");
        assert_eq!(ask(&mut engine, Some(2)), answers[2], "{model}");
    }
    // One sequence of one item, always masked by [MASK]: none of its fields are visible, so none are trained.
    let s = Settings { mask_last: 1.0, dropout: 0.0, ..base };
    let mut engine = Engine::<Cpu>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    engine.begin(1);
    engine.push(0, Sequence::Items(&[7]));
    engine.gradients(1, true);
    for (name, taught) in [("field.weight", false), ("user.weight", true)] {
        let p = engine.params().iter().find(|p| p.name == name).unwrap().clone();
        let mut gradient = vec![0.0f32; p.dw.len()];
        engine.backend.read(p.dw.raw(), &mut gradient);
        assert_eq!(gradient.iter().any(|g| *g != 0.0), taught, "{name}");
    }
}

/// Settings of a model that is trained a little, in one step per epoch.
const SMALL: &str = "--width 16 --length 20 --batch 64 --warmup 0 --dropout 0 --lr 0.01";

/// Returns the scores of all items after a few histories of known users and of no user.
fn scores(p: &Place, run: &str, users: &[&str]) -> Vec<f32> {
    let Trained { mut encoder, side_tables, items, .. } = p.trained(run);
    let (d, v) = (encoder.width(), encoder.items());
    let (mut table, mut bias) = (vec![0.0; v * d], vec![0.0; v]);
    encoder.item_vectors(0..v, &mut table).unwrap();
    encoder.item_biases(&mut bias).unwrap();
    let id = |key: &str| items.find(key).unwrap();
    let histories =
        [vec![id("i3"), id("i7"), id("i11")], vec![id("i20")], (0..15).map(|i| id(&format!("i{i}"))).collect()];
    let mut all = Vec::new();
    for history in &histories {
        for user in users {
            let user = side_tables.users.as_ref().and_then(|known| known.find(user));
            let mut h = vec![0.0; d];
            encoder.encode(&[Query { history, user, ..Query::default() }], &mut h).unwrap();
            let score = |i: usize| table[i * d..][..d].iter().zip(&h).map(|(a, b)| a * b).sum::<f32>() + bias[i];
            // In the order of keys, because data sets may number their items differently.
            all.extend((0..v).map(|i| score(id(&format!("i{i}")) as usize)));
        }
    }
    all
}

/// Asserts equality within f32 rounding.
fn assert_close(a: &[f32], b: &[f32], what: &str) {
    let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(a.len() == b.len() && largest > 0.01, "{what}: {largest}");
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 4e-6 * largest, "{what}: {a} and {b}");
    }
}

/// Whatever a fine-tune adds to the items, the run starts as its base, and the additions are trained.
#[test]
fn what_is_added_begins_as_nothing_and_learns() {
    let p = Place::new();
    let with_items = models::ALL.iter().filter(|model| !model.users && model.takes.items());
    for model in with_items.map(|model| model.name) {
        p.well(&format!("train data --out {model} -q {SMALL} --model {model} --epochs 6"));
        let base = scores(&p, model, &["u3", "nobody"]);
        for (join, what, flags) in ["concat", "sum"].into_iter().flat_map(|join| {
            let users = "--user-width 6";
            let fields = "--fields all --field-width 4";
            [
                (join, "users", users.to_string()),
                (join, "fields", fields.into()),
                (join, "both", format!("{users} {fields}")),
            ]
        }) {
            let run = |name: &str| format!("{model}-{join}-{what}-{name}");
            // Caser's users are added after its output, where nothing is joined: the flag is rejected there.
            let joined = match (model, what) {
                ("caser", "users") => String::new(),
                _ => format!("--join {join}"),
            };
            let tune = |name: &str, rest: &str| {
                p.well(&format!("finetune --from {model} data --out {} {flags} {joined} {rest}", run(name)))
            };
            let told = tune("start", "--json --epochs 1 --lr 0");
            assert_close(&base, &scores(&p, &run("start"), &["u3", "nobody"]), &run("start"));
            // Before training, its metrics are the base's.
            let start = told.lines().find(|line| line.contains("\"event\":\"start\"")).expect("a start is told");
            let start: serde_json::Value = serde_json::from_str(start).unwrap();
            let curve = fs::read_to_string(p.path(model).join("metrics.jsonl")).unwrap();
            let rows: Vec<serde_json::Value> = curve.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            let best = rows.iter().filter_map(|row| row["valid_ndcg@10"].as_f64()).fold(0.0, f64::max);
            assert!((start["valid_ndcg@10"].as_f64().unwrap() - best).abs() < 1e-9, "{start} and {best}");
            // A step changes the columns for the added input; the next one changes the table that it reads.
            let (table, first) = match (model, what) {
                ("caser", "users") => ("item.output.weight", 16),
                _ => ("side.weight", if join == "concat" { 16 } else { 0 }),
            };
            tune("one", "-q --epochs 1");
            let columns = p.rows(&run("one"), table);
            let moved =
                columns.iter().filter(|row| row[first..].iter().any(|bits| f32::from_bits(*bits) != 0.0)).count();
            assert!(moved * 2 > columns.len(), "{}: {moved} of {} rows", run("one"), columns.len());
            tune("two", "-q --epochs 2");
            for (added, name) in [(what != "fields", "user.weight"), (what != "users", "field.weight")] {
                assert!(!added || p.rows(&run("two"), name) != p.rows(&run("start"), name), "{}: {name}", run("two"));
            }
        }
    }
}

/// More fields and users than in the base: known columns are the base's, new ones begin at zero.
#[test]
fn more_is_added_to_what_is_there() {
    let p = Place::new();
    for (model, join) in [("sasrec", "concat"), ("gru4rec", "sum"), ("caser", "concat")] {
        let train = format!("train data --out {model} -q {SMALL} --model {model} --epochs 6 --join {join}");
        p.well(&format!("{train} --fields genres --field-width 4"));
        let base = scores(&p, model, &["u3", "nobody"]);
        let tune = format!("finetune --from {model} data -q --epochs 1 --lr 0");
        for (name, flags) in [
            ("users", "--user-width 6"),
            ("year", "--fields genres,year"),
            ("all", "--fields year,genres --user-width 3"),
        ] {
            let out = format!("{model}-{name}");
            p.well(&format!("{tune} --out {out} {flags}"));
            assert_close(&base, &scores(&p, &out, &["u3", "nobody"]), &out);
        }
        // If they were frozen, new columns would stay at zero forever.
        p.refused(&format!("{tune} --out x --user-width 6 --freeze network,items"), &["frozen", "omit --freeze"]);
        if model == "sasrec" {
            p.refused(&format!("{tune} --out x --user-width 6 --transfer patch"), &["frozen", "--transfer model"]);
            p.well(&format!("{tune} --out x --user-width 6 --transfer model"));
        }
    }
}

/// Transfer to other users, following the hint: without their vectors the run scores like its base for unknown users.
#[test]
fn onto_other_users_by_the_hinted_command() {
    let p = Place::new();
    let log = fs::read_to_string(p.path("log.csv")).unwrap().replace("\nu", "\nv");
    fs::write(p.path("others.csv"), log).unwrap();
    p.well("import others.csv --items items.csv --out others -q");
    let mut n = 0;
    for (model, flags, same) in [
        ("sasrec", "--user-width 6 --fields all", true),
        ("sasrec", "--user-width 6", true),
        ("gru4rec", "--user-width 6 --join sum", true),
        ("peterrec", "--user-width 6 --fields all --join sum", true),
        ("bert4rec", "--user-width 6 --fields genres", true),
        ("caser", "--user-width 6", true),
        ("caser", "--user-width 6 --fields year", true),
        ("mlp", "--user-width 6", false),
    ] {
        n += 1;
        let base = format!("base{n}");
        p.well(&format!("train data --out {base} -q {SMALL} --model {model} --epochs 6 {flags}"));
        let mut transfers = vec!["model", "embedding"];
        transfers.extend((!["caser", "mlp", "gru4rec"].contains(&model)).then_some("patch"));
        for transfer in transfers {
            let tune = format!("finetune --from {base} others --transfer {transfer} -q --epochs 1 --lr 0");
            let (code, _, err) = p.run(&format!("{tune} --out x"));
            assert!(code == Some(1) && err.contains("no user of the new data is known to the base"), "{err}");
            let hint = err.lines().find_map(|l| l.split_once("start without them: ")).expect("a hint").1.trim();
            let kept =
                if hint.contains("--transfer") { tune.replace(&format!("--transfer {transfer} "), "") } else { tune };
            let out = format!("{base}-{transfer}");
            p.well(&format!("{kept} --out {out} {hint}"));
            if same && transfer != "embedding" {
                assert_close(&scores(&p, &base, &["nobody"]), &scores(&p, &out, &["nobody"]), &out);
            }
        }
    }
    // A further fine-tune adds users again.
    p.well("finetune --from base2-model data -q --epochs 1 --lr 0 --user-width 5 --out again");
    assert_close(&scores(&p, "base2", &["nobody"]), &scores(&p, "again", &["u3"]), "again");
}
