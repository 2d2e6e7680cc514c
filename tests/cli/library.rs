//! The crate as a library: the same bytes and the same lists as the program, and nothing is printed.

use std::sync::Arc;

use mipgpu::{
    Dataset, ErrorKind, Evaluation, FreshRows, Pretrained, Request, Run, Service, ServiceOptions, Training, Transfer,
};
use serde_json::{Value, json};

use super::Place;

fn training() -> Training {
    let settings = [("width", json!(16)), ("length", json!(20)), ("warmup", json!(4)), ("batch", json!(16))];
    let set = |t: Training, (name, value): (&str, Value)| t.set(name, value).unwrap();
    settings.into_iter().fold(Training::new(), set).device(mipgpu::Device::Cpu)
}

fn requests() -> Vec<Request> {
    let history = |n: usize| Request::history((0..n).map(|i| format!("i{}", (i * 7) % 40)));
    vec![
        history(3),
        Request { k: Some(3), ..history(12) },
        Request { keep_seen: Some(true), id: json!("kept"), ..history(25) },
        Request::user("u7"),
        history(0),
        Request { k: Some(1000), ..history(2) },
    ]
}

#[test]
fn a_training_of_the_library_is_the_programs() {
    let p = Place::new();
    p.train("program", "--epochs 2 --lr 0.01 --device cpu");
    let data = Dataset::open(&p.path("data")).unwrap();
    let mut steps = 0;
    let trained = training().set("epochs", 2).unwrap().set("lr", 0.01).unwrap();
    let count = |event| steps += usize::from(matches!(event, mipgpu::TrainEvent::Step { .. }));
    let trained = trained.run_with(&data, &p.path("library"), count).unwrap();
    p.assert_same_run("program", "library");
    assert_eq!((trained.epochs.len(), steps), (2, 2 * 120usize.div_ceil(16)));
    let Evaluation::Ranking(report) = &trained.evaluation else { panic!("a ranking") };
    assert_eq!(report.json(), serde_json::from_slice::<Value>(&p.read("library/report.json")).unwrap());
    // The same evaluation as the program's.
    let (evaluation, warnings) = Run::open(&p.path("library")).unwrap().evaluate(&data).unwrap();
    let program: Value = serde_json::from_str(&p.well("eval library --json -q")).unwrap();
    assert_eq!(evaluation.json()["full"], program["full"]);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_fine_tuning_of_the_library_is_the_programs() {
    let p = Place::new();
    let log: String = (0..600).map(|i| format!("v{},i{},{i}\n", i / 10, 20 + (i / 10 * 5 + i % 10 * 3) % 40)).collect();
    p.write("grown.csv", format!("user,item,timestamp\n{log}"));
    p.well("import grown.csv --out grown -q");
    p.train("base", "--epochs 2 --lr 0.01 --device cpu");
    let (data, base) = (Dataset::open(&p.path("grown")).unwrap(), p.path("base"));
    for (transfer, rows) in [(Transfer::Patch, Some(FreshRows::Mean)), (Transfer::Model, None)] {
        let fresh = rows.map_or("", |_| "--fresh-rows mean");
        let flags = format!("--transfer {transfer} {fresh} --epochs 3 --lr 0.005 --device cpu");
        let said = p.says(&format!("finetune --from base grown -o program-{transfer} {flags}"));
        let pretrained = Pretrained { transfer, fresh_rows: rows, ..Pretrained::new(&base) };
        let tuned = Training::finetune(pretrained).set("epochs", 3).unwrap().set("lr", 0.005).unwrap();
        let tuned = tuned.device(mipgpu::Device::Cpu);
        let tuned = tuned.run(&data, &p.path(&format!("library-{transfer}"))).unwrap();
        let shown: Vec<&String> = tuned.warnings.iter().filter(|warning| said.contains(*warning)).collect();
        assert!(!shown.is_empty() && shown.len() == tuned.warnings.len(), "{:?}: {said}", tuned.warnings);
        p.assert_same_run(&format!("program-{transfer}"), &format!("library-{transfer}"));
        let [program, library] = ["program", "library"].map(|who| p.read(&format!("{who}-{transfer}/config.toml")));
        assert_eq!(String::from_utf8(program).unwrap(), String::from_utf8(library).unwrap());
    }
    // The base was trained on the events that another split of its own data holds out.
    let own = Dataset::open(&p.path("data")).unwrap();
    let other = mipgpu::SplitSpec::LastN { valid: 1, test: 3 };
    let tuned = || Training::finetune(Pretrained::new(&base)).device(mipgpu::Device::Cpu);
    let e = tuned().split(other).run(&own, &p.path("leak")).unwrap_err();
    assert!(e.what.contains("leak") && !p.path("leak").exists(), "{e}");
    let e = tuned().set("width", 24).unwrap().run(&data, &p.path("no")).unwrap_err();
    assert!(e.what.contains("item.weight") && !p.path("no").exists(), "{e}");
    // Old names of losses set the loss and the sampler, as the flags do.
    let old = tuned().set("loss", "sampled-popularity").unwrap().set("epochs", 1).unwrap();
    old.run(&data, &p.path("old")).unwrap();
    let config = String::from_utf8(p.read("old/config.toml")).unwrap();
    assert!(config.contains("loss = \"sampled-softmax\"") && config.contains("sampler = \"popularity\""), "{config}");
}

#[test]
fn mistakes_are_errors_with_a_kind_and_a_hint() {
    let p = Place::new();
    let data = Dataset::open(&p.path("data")).unwrap();
    let e = Training::new().set("widht", 8).unwrap_err();
    assert!(e.what.contains("widht") && e.hint.as_deref() == Some("did you mean 'width'?"), "{e}");
    let e = Training::new().set("width", "wide").unwrap_err();
    assert!(e.kind == ErrorKind::User && e.what.contains("width"), "{e}");
    let e = training().set("width", 17).unwrap().run(&data, &p.path("no")).unwrap_err();
    assert!(e.what.contains("heads") && !p.path("no").exists(), "{e}");
    let e = training().set("negatives", 5).unwrap().run(&data, &p.path("no")).unwrap_err();
    assert!(e.what.contains("--negatives has no effect"), "{e}");
    assert!(Dataset::open(&p.path("nowhere")).is_err() && Run::open(&p.path("nowhere")).is_err());
    let e = mipgpu::import(&[p.path("none.csv")], &p.path("d"), &Default::default(), &mut |_| {}).unwrap_err();
    let source = std::error::Error::source(&e).expect("the file system's error");
    let io = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
    // A stop before the first step leaves a checkpoint to resume from.
    let stopped = training().set("epochs", 3).unwrap();
    stopped.stop().store(true, std::sync::atomic::Ordering::Relaxed);
    let e = stopped.run(&data, &p.path("stopped")).unwrap_err();
    assert!(e.what.contains("stopped"), "{e}");
    p.well("train --resume stopped -q");
}

#[test]
fn lists_vectors_and_scores_agree_with_the_program() {
    let p = Place::new();
    p.train("run", "--epochs 2");
    let mut run = Run::open(&p.path("run")).unwrap();
    let lists: Vec<Value> = run.recommend(requests()).unwrap().into_iter().map(|list| list.unwrap().json()).collect();
    let lengths: Vec<usize> = lists.iter().map(|list| list["items"].as_array().unwrap().len()).collect();
    assert_eq!(lengths, [10, 3, 10, 10, 10, 38]);
    assert_eq!(lists[5]["short"], "the history holds 2 of the 40 items, which are not recommended again (--keep-seen)");
    // The program answers the same requests with the same lists.
    let line = |r: &Request| {
        let mut line = json!({ "id": r.id, "k": r.k, "keep_seen": r.keep_seen });
        match (&r.history, &r.user) {
            (Some(keys), _) => line["history"] = json!(keys),
            (None, user) => line["user"] = json!(user),
        }
        line.to_string()
    };
    p.write("requests.jsonl", requests().iter().map(line).collect::<Vec<_>>().join("\n"));
    let mut command = p.command("recommend run --stdin --json -q");
    command.stdin(std::fs::File::open(p.path("requests.jsonl")).unwrap());
    let out = command.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let program = String::from_utf8(out.stdout).unwrap();
    let program: Vec<Value> = program.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lists, program);
    // A score is the product of the vectors plus the item's bias.
    let history: Vec<String> = requests()[0].history.clone().unwrap();
    let vector = run.encode(&[history]).unwrap();
    let (items, biases) = run.item_vectors().unwrap();
    for item in lists[0]["items"].as_array().unwrap() {
        let i = run.items().find(item["item"].as_str().unwrap()).unwrap() as usize;
        let row = &items[i * run.width()..(i + 1) * run.width()];
        let score: f32 = row.iter().zip(&vector).map(|(a, b)| a * b).sum::<f32>() + biases[i];
        assert!((score as f64 - item["score"].as_f64().unwrap()).abs() < 1e-5, "{item}");
    }
}

#[test]
fn a_service_answers_many_threads_as_one_run_does() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let expected = Run::open(&p.path("run")).unwrap().recommend(requests()).unwrap();
    let expected: Vec<Value> = expected.into_iter().map(|list| list.unwrap().json()).collect();
    let options = ServiceOptions { max_batch: 4, queue: 2, ..ServiceOptions::default() };
    let service = Arc::new(Service::open(&p.path("run"), options).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (service, expected) = (service.clone(), &expected);
            scope.spawn(move || {
                for _ in 0..20 {
                    let lists = service.recommend(requests()).unwrap();
                    let lists: Vec<Value> = lists.into_iter().map(|list| list.unwrap().json()).collect();
                    assert_eq!(&lists, expected);
                }
            });
        }
    });
    // An invalid request fails alone.
    let bad = vec![Request::user("nobody"), Request::history(["i1"]), Request::default()];
    let answers = service.recommend(bad).unwrap();
    assert!(answers[0].as_ref().unwrap_err().error.what.contains("no user 'nobody'"));
    assert_eq!(answers[1].as_ref().unwrap().items.len(), 10);
    assert!(answers[2].as_ref().unwrap_err().error.what.contains("neither a history nor a user"));
    assert!(service.recommend(Vec::new()).unwrap().is_empty());
    // A run that cannot be opened is an error of the call, not of the thread.
    let e = Service::open(&p.path("none"), ServiceOptions::default()).map(drop).unwrap_err();
    assert!(e.what.contains("no such run folder"), "{e}");
}
