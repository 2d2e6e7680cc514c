//! Stop and resume: a run that is killed and resumed ends with the same bytes as an uninterrupted one.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use mipgpu::{
    backend::Device,
    data::{
        Dataset,
        split::{Split, SplitSpec},
    },
    models,
    tasks::{self, LossKind},
    train::{RunConfig, RunFolder, Settings, TableUpdate, TrainEvent, ratings::scale_of, run::TrainJob},
};

const EPOCHS: &str = "8";

/// Imports a small log: 120 users who walk through 40 items, two at a time: baskets.
fn import(dir: &Path) {
    let mut text = String::from("user,item,rating,timestamp\n");
    for u in 0..120 {
        for t in 0..(6 + u % 30) {
            text += &format!("u{u},i{},{},{}\n", (u * 7 + t * (1 + u % 3)) % 40, 1 + (u + t * t) % 5, 1000 + t / 2);
        }
    }
    fs::write(dir.join("log.csv"), text).unwrap();
    let items: String = (0..40).map(|i| format!("i{i},g{}|g{}\n", i % 5, i % 3)).collect();
    fs::write(dir.join("items.csv"), format!("item,group\n{items}")).unwrap();
    let words = ["-q", "import", "log.csv", "--items", "items.csv", "--out", "data"];
    let done = mipgpu().current_dir(dir).args(words).status().unwrap();
    assert!(done.success());
}

fn mipgpu() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mipgpu"))
}

fn train(dir: &Path, out: &str) -> Command {
    let mut c = mipgpu();
    c.current_dir(dir)
        .args(["-q", "train", "data", "--out", out, "--epochs", EPOCHS, "--width", "32", "--length", "30"]);
    // A checkpoint after every epoch; attention dropout is on, so that its draws are resumed too.
    c.args(["--batch", "8", "--eval-every", "2", "--checkpoint-seconds", "0", "--attention-dropout", "0.1"]);
    c.args(["--threads", "2"]).stdout(Stdio::null());
    c
}

fn same(dir: &Path, a: &str, b: &str) {
    for file in ["last.safetensors", "best.safetensors", "metrics.jsonl"] {
        let read = |run: &str| fs::read(dir.join(run).join(file)).unwrap();
        assert!(read(a) == read(b), "{file} of {a} and {b} differ");
    }
    let rows = fs::read_to_string(dir.join(a).join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!(rows.to_string(), EPOCHS);
}

#[test]
fn a_killed_run_continues_to_the_same_bits() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    import(dir);
    assert!(train(dir, "whole").status().unwrap().success());

    let mut child = train(dir, "killed").stderr(Stdio::null()).spawn().unwrap();
    // SIGKILL at an arbitrary point once some epochs are on disk.
    let (metrics, start) = (dir.join("killed/metrics.jsonl"), Instant::now());
    while fs::read_to_string(&metrics).map_or(0, |t| t.lines().count()) < 3 {
        assert!(start.elapsed() < Duration::from_secs(120), "no third epoch within two minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = fs::read_to_string(&metrics).unwrap().lines().count();
    assert!((3..8).contains(&rows), "killed too late: {rows} epochs were done");

    let resumed = mipgpu().current_dir(dir).args(["-q", "train", "--resume", "killed"]).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    same(dir, "whole", "killed");
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    import(dir);
    assert!(train(dir, "two").status().unwrap().success());
    // The same command except for the last word, the number of threads.
    let model = train(dir, "one");
    let mut words: Vec<_> = model.get_args().collect();
    *words.last_mut().unwrap() = "1".as_ref();
    assert!(mipgpu().current_dir(dir).args(words).stdout(Stdio::null()).status().unwrap().success());
    same(dir, "two", "one");
}

#[test]
fn a_finished_run_and_a_changed_setting_are_refused_or_said() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    import(dir);
    assert!(train(dir, "run").args(["--blocks", "1"]).status().unwrap().success());
    let again = mipgpu().current_dir(dir).args(["train", "--resume", "run", "--lr", "0.1"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--lr cannot be changed on --resume"));
    let twice = train(dir, "run").output().unwrap();
    assert_eq!(twice.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("a run is there already"));
    // Resuming a finished run changes no byte.
    let before = fs::read(dir.join("run/last.safetensors")).unwrap();
    assert!(mipgpu().current_dir(dir).args(["-q", "train", "--resume", "run"]).status().unwrap().success());
    assert!(before == fs::read(dir.join("run/last.safetensors")).unwrap());
}

/// Stops inside an epoch, exactly after `at` steps of the run, and continues.
#[test]
fn a_run_stopped_inside_an_epoch_continues_to_the_same_bits() {
    let settings =
        Settings { width: 16, heads: 2, length: 20, batch: 8, epochs: 3, eval_every: 1, ..Settings::default() };
    stop_and_go_on(&settings);
    stop_and_go_on(&Settings { user_width: 5, fields: "group".into(), field_width: 3, ..settings.clone() });
    // If tables are updated by rows, a checkpoint within an epoch contains rows that are behind.
    let by_rows = Settings {
        loss: LossKind::SampledSoftmax,
        negatives: 5,
        table_update: TableUpdate::Rows,
        eval_every: 3,
        ..settings
    };
    stop_and_go_on(&by_rows);
}

/// The same for every model, with each task that fits it.
#[test]
fn every_model_continues_to_the_same_bits() {
    for model in models::ALL {
        for task in tasks::ALL {
            let user_width = if model.users { 8 } else { 0 };
            let s = Settings { model: model.name.into(), task: task.name.into(), user_width, ..Settings::default() };
            if s.find().is_ok() {
                stop_and_go_on(&Settings { width: 16, heads: 2, length: 20, batch: 8, epochs: 3, eval_every: 1, ..s });
            }
        }
    }
}

fn stop_and_go_on(settings: &Settings) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    import(dir);
    let data = Dataset::open(&dir.join("data")).unwrap();
    let baskets = settings.find().unwrap().1.baskets;
    let spec = if baskets { SplitSpec::LastBasket } else { SplitSpec::LeaveOneOut };
    let split = Split::new(&data, spec).unwrap();
    let run = |name: &str, resume: bool, stop_at: Option<u64>| {
        let config = RunConfig {
            version: RunConfig::VERSION,
            data: dir.join("data"),
            data_fingerprint: data.fingerprint().into(),
            split: spec,
            from: None,
            ratings: settings.find().unwrap().1.rated.then(|| scale_of(&data, &split).unwrap()),
            settings: settings.clone(),
        };
        let folder = RunFolder::new(dir.join(name));
        if !resume {
            folder.create(&config, &data).unwrap();
        }
        let (stop, mut steps) = (AtomicBool::new(false), 0);
        let (config, data, split, folder) = (&config, &data, &split, &folder);
        let job = TrainJob { config, data, split, folder, device: Device::Cpu, resume, stop: &stop };
        mipgpu::train::train(&job, &mut |event| {
            if let TrainEvent::Step { .. } = event {
                steps += 1;
                stop.store(Some(steps) == stop_at, Ordering::Relaxed);
            }
        })
        .unwrap()
    };
    let whole = run("whole", false, None);
    assert!(whole.done && whole.epoch == 3);
    // 120 users in batches of 8: 15 steps per epoch. The run stops in the second epoch, then once more in the third. A
    // step is reported when the next one is running, and that one is finished too.
    let first = run("pieces", false, Some(22));
    assert_eq!((first.epoch, first.step_in_epoch, first.done), (1, 8, false));
    assert!(first.scored > 0 && first.loss_sum > 0.0);
    let second = run("pieces", true, Some(9));
    assert_eq!((second.epoch, second.step_in_epoch), (2, 3));
    assert_eq!(run("pieces", true, None), whole);
    for file in ["last.safetensors", "best.safetensors", "metrics.jsonl"] {
        let read = |run: &str| fs::read(dir.join(run).join(file)).unwrap();
        assert!(read("whole") == read("pieces"), "{file} differs");
    }
}

#[test]
fn a_run_is_trained_by_one_process_at_a_time() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    import(dir);
    assert!(train(dir, "run").args(["--blocks", "1"]).status().unwrap().success());
    let lock = RunFolder::new(dir.join("run")).lock().unwrap();
    let second = mipgpu().current_dir(dir).args(["train", "--resume", "run"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process is training this run"));
    drop(lock);
    assert!(mipgpu().current_dir(dir).args(["-q", "train", "--resume", "run"]).status().unwrap().success());
}
