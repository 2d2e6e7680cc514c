//! Runs that end early: by a non-finite loss, a full disk, Ctrl-C, or a reader that closes the pipe.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Place, TINY, assert_no_leftovers, done};

#[test]
fn a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint() {
    let p = Place::new();
    let blow_up = "--lr 1e30 --clip 0 --warmup 0 --epochs 3";
    p.refused(
        &format!("train data --out run -q --width 16 --length 20 {blow_up}"),
        &["epoch 1: step 2:", "not finite", "linear_fwd of block.0.attention.qkv", "--lr", "run/last.safetensors"],
    );
    p.well("eval run --last");
    p.refused("eval run", &["no best checkpoint", "--last"]);
    assert_no_leftovers(&p.path("run"));
    // The same after successful epochs, with settings that were edited.
    let mut child = start(&p, "edited", "--epochs 100 --checkpoint-seconds 0");
    wait_for_epochs(&mut child, &p.path("edited"), 2);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let config = String::from_utf8(p.read("edited/config.toml")).unwrap();
    let edited: Vec<&str> = config
        .lines()
        .map(|line| match line.split(" = ").next() {
            Some("lr") => "lr = 1e30",
            Some("clip") => "clip = 0.0",
            _ => line,
        })
        .collect();
    p.write("edited/config.toml", edited.join("\n"));
    let before = p.read("edited/last.safetensors");
    p.refused("train --resume edited -q", &["not finite", "edited/last.safetensors"]);
    assert!(before == p.read("edited/last.safetensors"), "the last good checkpoint was overwritten");
    p.well("eval edited --last");
}

/// Starts a run.
fn start(p: &Place, run: &str, flags: &str) -> Child {
    let mut c = p.command(&format!("train data --out {run} -q --json {TINY} {flags}"));
    c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends the signal of Ctrl-C.
fn interrupt(child: &Child) {
    signal(child, "INT");
}

/// Sends signals to a process in immediate succession.
fn signal(child: &Child, names: &str) {
    let id = child.id();
    let kills: Vec<String> = names.split(' ').map(|name| format!("kill -{name} {id}")).collect();
    assert!(Command::new("sh").args(["-c", &kills.join("; ")]).status().unwrap().success());
}

/// Waits until a run has written `rows` lines of its learning curve.
fn wait_for_epochs(child: &mut Child, run: &Path, rows: usize) {
    let start = Instant::now();
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |t| t.lines().count()) < rows {
        assert!(start.elapsed() < Duration::from_secs(120), "no epoch {rows} within two minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be stopped");
        sleep(Duration::from_millis(1));
    }
}

/// Runs `words`, which trains `run`, and stops it at an arbitrary point after some epochs.
pub(super) fn stop_midway(p: &Place, words: &str, run: &str) {
    let mut child = p.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_epochs(&mut child, &p.path(run), 2);
    interrupt(&child);
    assert_ne!(child.wait().unwrap().code(), Some(0), "the run ended before it was stopped");
    assert!(p.path(run).join("last.safetensors").exists() && !p.path(run).join("report.json").exists());
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_the_run_continues_to_the_same_bytes() {
    let p = Place::new();
    let flags = "--epochs 100 --eval-every 20 --checkpoint-seconds 0 --blocks 1";
    p.train("whole", flags);
    let mut child = start(&p, "stopped", flags);
    wait_for_epochs(&mut child, &p.path("stopped"), 2);
    interrupt(&child);
    let stopped = done(child.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(
        stopped.err.contains("of 100 epochs") && stopped.err.contains("mipgpu train --resume stopped"),
        "{stopped:?}"
    );
    // The last events are the stop and the error that is also on stderr.
    let last: Vec<&str> = stopped.out.lines().rev().take(2).collect();
    assert!(last[1].starts_with(r#"{"event":"stopped","run":"stopped""#), "{stopped:?}");
    let error: serde_json::Value = serde_json::from_str(last[0]).unwrap();
    assert!(error["event"] == "error" && error["what"].as_str().unwrap().contains("of 100 epochs"), "{stopped:?}");
    p.well("eval stopped --last");
    p.well("train --resume stopped -q");
    p.assert_same_run("whole", "stopped");
}

/// `timeout` signals its child and then its child's process group, so the child gets two signals at once; Ctrl-C may
/// coincide with a SIGTERM of a supervisor. Two signals within a moment are one request.
#[test]
fn two_signals_in_a_moment_end_with_a_checkpoint() {
    let p = Place::new();
    let flags = "--epochs 3000 --eval-every 3000 --blocks 1";
    for (run, signals) in [("terms", "TERM TERM"), ("mixed", "INT TERM"), ("many", "TERM INT INT TERM")] {
        let mut child = start(&p, run, &format!("{flags} --checkpoint-seconds 0"));
        wait_for_epochs(&mut child, &p.path(run), 2);
        signal(&child, signals);
        let stopped = done(child.wait_with_output().unwrap());
        assert_eq!(stopped.code, Some(1), "{signals}: {stopped:?}");
        assert!(stopped.err.contains("mipgpu train --resume") && stopped.err.contains("of 3000 epochs"), "{stopped:?}");
        p.well(&format!("eval {run} --last"));
    }
    // Without frequent checkpoints too, the run resumes where it stopped.
    let mut child = start(&p, "rare", &format!("{flags} --checkpoint-seconds 3600"));
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(r#""epoch":2,"#) {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the run ended");
    }
    signal(&child, "TERM TERM");
    let rest: Vec<String> = lines.lines().map(|l| l.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let last: Vec<serde_json::Value> =
        rest.iter().rev().take(2).map(|line| serde_json::from_str(line).unwrap()).collect();
    let stopped = &last[1];
    assert!(
        last[0]["event"] == "error" && stopped["event"] == "stopped" && stopped["epochs"].as_u64().unwrap() >= 2,
        "{rest:?}"
    );
    let rows = p.text("rare/metrics.jsonl").lines().count() as u64;
    assert_eq!(Some(rows), stopped["epochs"].as_u64(), "the curve goes as far as the checkpoint");
    // With the real `timeout`, if it is installed: it signals the child and the group.
    let words = format!("train data --out timed -q {TINY} {flags} --checkpoint-seconds 3600");
    let binary = env!("CARGO_BIN_EXE_mipgpu");
    let mut timeout = Command::new("timeout");
    timeout.args(["5", binary]).args(words.split_whitespace()).current_dir(p.path("."));
    match timeout.stderr(Stdio::piped()).stdout(Stdio::null()).output() {
        Ok(output) => {
            let stopped = done(output);
            assert_eq!(stopped.code, Some(124), "{stopped:?}");
            assert!(stopped.err.contains("everything up to here is in timed/last.safetensors"), "{stopped:?}");
        }
        Err(_) => eprintln!("skipped: there is no `timeout` here"),
    }
}

/// A run is blocked because no process reads its output. The first signal requests a stop; a later one ends the run at
/// once, with a message on what is lost.
#[test]
fn a_later_signal_ends_at_once() {
    use std::os::unix::fs::OpenOptionsExt;
    if !cfg!(target_os = "linux") {
        return;
    }
    let p = Place::new();
    for (i, (words, ready, says)) in [
        ("train data --out run --json --width 16 --epochs 2", "run/items.safetensors", "there was no checkpoint yet"),
        ("train --resume half --json", "", "mipgpu train --resume half"),
    ]
    .into_iter()
    .enumerate()
    {
        if i == 1 {
            stop_midway(&p, &format!("train data --out half -q {TINY} --epochs 300 --checkpoint-seconds 0"), "half");
        }
        let pipe = p.path(&format!("pipe{i}"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // O_NONBLOCK: the pipe is filled completely, so that the first line of results waits for a reader that never
        // comes.
        let mut full = fs::File::options().read(true).write(true).custom_flags(0o4000).open(&pipe).unwrap();
        while full.write(&[b' '; 4096]).is_ok() {}
        let mut command = p.command(words);
        command.stdout(fs::File::options().read(true).write(true).open(&pipe).unwrap()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while (!ready.is_empty() && !p.path(ready).exists()) || begun.elapsed() < Duration::from_secs(2) {
            assert!(begun.elapsed() < Duration::from_secs(120), "{words}: it did not begin");
            sleep(Duration::from_millis(20));
        }
        signal(&child, "INT INT");
        sleep(Duration::from_millis(2500));
        assert!(child.try_wait().unwrap().is_none(), "{words}: two at once are one, and it waits");
        signal(&child, "INT");
        let ended = done(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(1), "{words}: {ended:?}");
        assert!(ended.err.contains("stopping: the run writes a checkpoint"), "{words}: {ended:?}");
        assert!(ended.err.contains("mipgpu: error: ended at once") && ended.err.contains(says), "{words}: {ended:?}");
    }
    p.well("eval half --last");
}

/// A click head has no checkpoints: it says that nothing is kept, and leaves no files.
#[test]
fn a_stopped_head_leaves_nothing() {
    let p = Place::new();
    let mut log = String::from("user,item,timestamp,rating\n");
    for u in 0..200 {
        (0..40).for_each(|t| log += &format!("u{u},i{},{},{}\n", (u * 7 + t * 3) % 40, 1_000_000_000 + t, (u + t) % 2));
    }
    p.write("shown.csv", log);
    p.well("import shown.csv --out shown -q");
    p.train("run", "--epochs 1");
    let mut child = p
        .command("clicks --from run shown --out head --epochs 100000 --patience 0 --hidden 128,128")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("epoch") {
        assert!(talk.read_line(&mut text).unwrap() > 0, "{text}");
    }
    signal(&child, "TERM TERM");
    std::io::Read::read_to_string(&mut talk, &mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("stopped after ") && text.contains("nothing was written"), "{text}");
    assert!(!p.path("head").exists());
}

/// `nohup mipgpu train &`, after which the terminal is closed.
#[test]
fn a_run_that_ignores_hang_ups_outlives_its_terminal() {
    let p = Place::new();
    if !Path::new("/proc/self/status").exists() {
        eprintln!("skipped: only where /proc tells of signals");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_mipgpu");
    let script = format!("trap '' HUP; exec {binary} train data --out run -q --epochs 3000 --blocks 1 {TINY}");
    let mut sh = Command::new("sh");
    let mut child = sh.args(["-c", &script]).current_dir(p.path(".")).stdout(Stdio::null()).spawn().unwrap();
    wait_for_epochs(&mut child, &p.path("run"), 2);
    let sent = Command::new("sh").args(["-c", &format!("kill -HUP {}", child.id())]).status().unwrap();
    assert!(sent.success());
    // Still running: it ends by SIGTERM, with a checkpoint.
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // Only the orderly end has written one: the next was due after 60 seconds.
    p.well("eval run --last -q");
}

/// A small temporary file system, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Returns `None` if mounting is not permitted.
    fn mount(at: PathBuf, kib: u32) -> Option<SmallDisk> {
        fs::create_dir(&at).unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|s| s.success()).then_some(SmallDisk(at))
    }

    fn grow(&self, kib: u32) {
        let size = format!("remount,size={kib}k");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_when_there_is_room() {
    let p = Place::new();
    let flags = "--width 32 --length 20 --epochs 4 --eval-every 2 --checkpoint-seconds 0";
    // The last checkpoint has about 330 kB and needs space for its successor at the same time.
    let Some(disk) = SmallDisk::mount(p.path("disk"), 500) else {
        eprintln!("skipped: mounting a small file system is not permitted here");
        return;
    };
    let full = p.run(&format!("train data --out disk/run -q {flags}"));
    assert_eq!((full.code, full.out.as_str()), (Some(2), ""), "{full:?}");
    assert!(full.err.contains("disk/run/last.safetensors") && full.err.contains("free some disk space"), "{full:?}");
    assert_no_leftovers(&p.path("disk/run"));
    p.well("eval disk/run --last");
    disk.grow(4000);
    p.well("train --resume disk/run -q");
    p.well(&format!("train data --out whole -q {flags}"));
    p.assert_same_run("whole", "disk/run");
}

/// The same by a limit on file size, which needs no privileges: the first checkpoint cannot be written.
#[test]
fn a_checkpoint_that_cannot_be_written_is_our_failure_and_leaves_nothing() {
    let p = Place::new();
    let binary = env!("CARGO_BIN_EXE_mipgpu");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {binary} train data --out run -q --width 64 --length 20");
    let failed = done(Command::new("sh").args(["-c", &script]).current_dir(p.path(".")).output().unwrap());
    assert_eq!((failed.code, failed.out.as_str()), (Some(2), ""), "{failed:?}");
    assert!(failed.err.contains("run/last.safetensors"), "{failed:?}");
    // Nothing was trained, so nothing remains, and nothing prevents another attempt.
    assert!(!p.path("run").exists());
    p.refused("train --resume run", &["no run is there"]);
    p.train("run", "--epochs 1");
}

#[test]
fn results_that_cannot_be_written_are_no_success() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full here");
        return;
    }
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for words in ["eval run", "recommend run --all-users", "export run --out vectors"] {
        let failed = done(p.command(words).stdout(full()).output().unwrap());
        assert!(failed.code == Some(2) && failed.err.contains("standard output"), "{words}: {failed:?}");
    }
}

#[test]
fn a_reader_who_leaves_is_a_normal_end() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    for words in
        ["recommend run --all-users --json --batch 1", "train data --out other --json -q --epochs 40 --width 16"]
    {
        let mut child = p.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        drop(lines);
        let done = done(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{words}");
    }
}

/// The files of interactions are read in place during a run: overwriting one must end the run and not train it on other
/// data.
#[test]
fn data_that_changes_during_a_run_ends_it() {
    let p = Place::new();
    let line = format!("train data --out run -q {TINY} --epochs 4000 --checkpoint-seconds 0 --eval-every 4000");
    let mut child = p.command(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (metrics, start) = (p.path("run/metrics.jsonl"), Instant::now());
    while fs::read_to_string(&metrics).map_or(0, |t| t.lines().count()) < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "no second epoch within two minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its data changed");
        sleep(Duration::from_millis(1));
    }
    let shard = p.names("data").into_iter().find(|n| n.contains("shard")).unwrap();
    let mut file = fs::File::options().append(true).open(p.path("data").join(&shard)).unwrap();
    file.write_all(&[0]).unwrap();
    let done = done(child.wait_with_output().unwrap());
    assert!(done.code == Some(1) && done.err.contains("has changed while it was in use"), "{done:?}");
    assert!(done.err.contains(&shard) && done.err.contains("--resume"), "{done:?}");
    assert_no_leftovers(&p.path("run"));
    // With the file restored the run resumes; without that it does not.
    p.refused("train --resume run", &["bytes"]);
    let length = fs::metadata(p.path("data").join(&shard)).unwrap().len() - 1;
    file.set_len(length).unwrap();
    let mut child = p.command("train --resume run -q").stderr(Stdio::piped()).spawn().unwrap();
    let before = fs::read_to_string(&metrics).unwrap().lines().count();
    while fs::read_to_string(&metrics).map_or(0, |t| t.lines().count()) <= before {
        assert!(child.try_wait().unwrap().is_none(), "the run did not go on");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
