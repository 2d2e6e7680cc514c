//! Checkpoints that do not match the run, or were altered.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
};

use mipgpu::{
    backend::Device,
    train::{Trained, Which},
};

use super::{Place, TINY};

#[test]
fn a_checkpoint_of_another_vocabulary_is_refused() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    // As many items with other keys: all shapes match.
    p.write("other.csv", String::from_utf8(p.read("log.csv")).unwrap().replace(",i", ",k").replace("ktem", "item"));
    p.well("import other.csv --out other -q");
    p.well(&format!("train other --out strange -q --epochs 1 {TINY}"));
    p.copy("run", "weights");
    p.write("weights/best.safetensors", p.read("strange/best.safetensors"));
    p.copy("run", "keys");
    p.write("keys/items.safetensors", p.read("strange/items.safetensors"));
    for run in ["weights", "keys"] {
        let says = [&format!("{run}/best.safetensors"), "another vocabulary"];
        p.refused(&format!("eval {run}"), &says);
        p.refused(&format!("recommend {run} --all-users"), &says);
        p.refused(&format!("export {run} --out vectors"), &says);
    }
    p.copy("run", "resumed");
    p.write("resumed/last.safetensors", p.read("strange/last.safetensors"));
    p.refused("train --resume resumed -q", &["resumed/last.safetensors", "another vocabulary"]);
}

#[test]
fn settings_that_make_another_model_name_the_tensor() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let config = String::from_utf8(p.read("run/config.toml")).unwrap();
    for (from, to, says) in [
        ("width = 16", "width = 32", "'item.weight' is F32 [41, 16], with the run's settings it is F32 [41, 32]"),
        ("blocks = 2", "blocks = 1", "tensor 'block.1."),
        ("blocks = 2", "blocks = 3", "tensor 'block.2."),
        ("length = 20", "length = 30", "tensor 'position.weight'"),
        ("heads = 4", "heads = 3", "config.toml: 3 heads do not divide"),
        ("width = 16", "widht = 16", "widht"),
        ("version = 2", "version = 9", "a run folder of version 9, this program reads versions 1 to 2"),
        ("version = 2\n", "", "unknown version"),
    ] {
        assert!(config.contains(from), "{config}");
        p.write("run/config.toml", config.replace(from, to));
        p.refused("eval run", &["run/", says]);
    }
}

/// In the first version `bf16` was the default, and the CPU computed in f32 regardless.
#[test]
fn a_run_of_the_first_version_computes_as_it_did() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let config = String::from_utf8(p.read("run/config.toml")).unwrap();
    assert!(config.contains("version = 2") && config.contains("precision = \"auto\""), "{config}");
    // Returns the scores with all their digits.
    let scores = |version: &str, precision: &str| {
        let config = config.replace("version = 2", version).replace("precision = \"auto\"", precision);
        p.write("run/config.toml", config);
        p.well("recommend run --all-users --k 3 --json --device cpu")
    };
    let now = scores("version = 2", "precision = \"auto\"");
    assert_eq!(scores("version = 1", "precision = \"bf16\""), now);
    assert_ne!(scores("version = 2", "precision = \"bf16\""), now);
}

#[test]
fn files_that_are_cut_foreign_or_missing_are_named() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let whole = p.read("run/best.safetensors");
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        p.write("run/best.safetensors", &whole[..length]);
        p.refused("eval run", &["run/best.safetensors", "hint"]);
    }
    p.write("run/best.safetensors", p.read("run/items.safetensors"));
    p.refused("eval run", &["not a mipgpu checkpoint"]);
    std::fs::remove_file(p.path("run/best.safetensors")).unwrap();
    p.refused("eval run", &["no best checkpoint", "--last", "--resume run"]);
    p.well("eval run --last");
    // A truncated last checkpoint is neither resumed nor evaluated.
    let last = p.read("run/last.safetensors");
    p.write("run/last.safetensors", &last[..last.len() - 4]);
    p.refused("eval run --last", &["run/last.safetensors"]);
    p.refused("train --resume run -q", &["run/last.safetensors"]);
    std::fs::remove_file(p.path("run/items.safetensors")).unwrap();
    assert_eq!(p.run("eval run").code, Some(1));
}

/// Weights have no redundancy: without the checksum, an altered one would be accepted.
#[test]
fn one_flipped_byte_is_caught() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let whole = p.read("run/best.safetensors");
    let path = p.path("run/best.safetensors");
    let mut file = File::options().write(true).open(&path).unwrap();
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    let open = || Trained::open(&p.path("run"), Which::Best, Device::Cpu).map(|_| ()).map_err(|e| e.to_string());
    open().unwrap();
    // Every byte around the metadata, then a sample of the weights and the very last byte.
    for at in (0..700).chain((700..whole.len()).step_by(97)).chain([whole.len() - 1]) {
        put(at, whole[at] ^ (1 << (at % 8)));
        let e = open().expect_err(&format!("byte {at}"));
        assert!(e.contains("best.safetensors"), "byte {at}: {e}");
        put(at, whole[at]);
    }
    open().unwrap();
    let at = whole.len() - 100;
    put(at, whole[at] ^ 0x40);
    p.refused("eval run", &["run/best.safetensors: its checksum does not match its contents", "hint"]);
    let last = p.read("run/last.safetensors");
    let mut altered = last.clone();
    altered[last.len() - 100] ^= 0x40;
    p.write("run/last.safetensors", altered);
    p.refused("train --resume run -q", &["run/last.safetensors: its checksum"]);
}
