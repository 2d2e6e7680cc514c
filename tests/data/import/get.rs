//! `mipgpu data get` from the outside. Its module tests what it reads and rejects, on a small data set.

use std::{fs, process::Command};

use crate::import::Desk;

#[test]
fn what_cannot_be_had_is_refused_with_a_way_out() {
    let desk = Desk::new();
    fs::create_dir(desk.dir.path().join("empty")).unwrap();
    desk.write("some.zip", "not a zip");
    desk.write("taken", "a file");
    for (words, says) in [
        (&["ml-2m"][..], "'ml-2m'"),
        (&["ml-1m", "--url", "http://127.0.0.1:1/ml-1m.zip"], "--from FILE.zip"),
        (&["ml-1m", "--from", "empty"], "there is no ratings.dat in it"),
        (&["ml-100k", "--from", "empty"], "there is no u.data in it"),
        (&["ml-1m", "--from", "some.zip"], "this zip cannot be read"),
        (&["ml-1m", "--from", "nowhere.zip"], "--from accepts a zip or a folder"),
        (&["ml-1m", "--from", "empty", "--out", "taken"], "something that is not a data set"),
        (&["ml-1m", "--from", "empty", "--url", "http://x/"], "cannot be used with"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mipgpu"));
        // A proxy of the machine would answer instead of the closed port.
        command.env_remove("http_proxy").env_remove("HTTP_PROXY").env_remove("all_proxy").env_remove("ALL_PROXY");
        let done = command.current_dir(desk.dir.path()).args(["data", "get"]).args(words).output().unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 0), "{words:?}: {text}");
        assert!(text.contains(says) && !text.contains("panicked"), "{words:?}: {text}");
    }
    let mut left: Vec<_> = fs::read_dir(desk.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty", "some.zip", "taken"]);
}
