//! The files of a data set: a truncated, altered, missing or foreign file is rejected and named.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use mipgpu::data::{Dataset, ImportOptions, import};

const LOG: &str = "user,item,rating,time\na,x,1,10\na,y,2,20\nb,x,3,30\nb,z,4,5\nc,y,5,1\nc,x,1,2\nc,z,2,3\n";

/// Returns a small data set of three shards, with side fields.
fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (log, items) = (dir.path().join("log.csv"), dir.path().join("items.csv"));
    fs::write(&log, LOG).unwrap();
    fs::write(&items, "item,genre\nx,A|B\ny,B\n").unwrap();
    let options = ImportOptions { shard_interactions: 2, items: Some(items), ..Default::default() };
    import(&[log], &dir.path().join("data"), &options, &mut |_| {}).unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn refusal(dir: &Path) -> String {
    Dataset::open(dir).expect_err("refused").to_string()
}

#[test]
fn the_folder_holds_what_the_documentation_says() {
    let dir = small();
    let data = dir.path().join("data");
    let expected = [
        "item_counts.safetensors",
        "item_fields.safetensors",
        "items.safetensors",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
        "users.safetensors",
    ];
    assert_eq!(names(&data), expected);
    // The safetensors library reads a shard, and finds the documented tensors.
    let bytes = fs::read(data.join("shard-00002.safetensors")).unwrap();
    let shard = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = shard.names();
    tensors.sort();
    assert_eq!(tensors, ["items", "offsets", "ratings", "times"]);
    let times: &[i64] = bytemuck::cast_slice(shard.tensor("times").unwrap().data());
    assert_eq!(times, [1, 2, 3]);
    let opened = Dataset::open(&data).unwrap();
    assert_eq!(
        (opened.items_of(2), opened.times_of(2), opened.ratings_of(2)),
        (&[1u32, 0, 2][..], Some(&[1i64, 2, 3][..]), Some(&[5f32, 1.0, 2.0][..]))
    );
    assert_eq!(opened.items_of(1), [2, 0]);
    assert_eq!(opened.sources(), ["log.csv"]);
}

#[test]
fn one_flipped_byte_anywhere_is_caught() {
    let dir = small();
    let data = dir.path().join("data");
    for name in names(&data) {
        let path = data.join(&name);
        let whole = fs::read(&path).unwrap();
        // Written in place, because truncating a file makes some file systems wait for the disk each time.
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (at, byte) in whole.iter().enumerate() {
            put(at, byte ^ (1 << (at % 8)));
            let error = refusal(&data);
            assert!(error.contains(data.to_str().unwrap()), "byte {at} of {name}: {error}");
            put(at, *byte);
        }
    }
    Dataset::open(&data).unwrap().verify().unwrap();
}

#[test]
fn a_file_of_another_length_is_named_with_both_lengths() {
    let dir = small();
    let data = dir.path().join("data");
    for name in names(&data).into_iter().filter(|n| n != "manifest.json") {
        let path = data.join(&name);
        let whole = fs::read(&path).unwrap();
        for n in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..n]).unwrap();
            let error = refusal(&data);
            assert!(error.contains(&name) && error.contains(&format!("the file holds {n}")), "{error}");
            assert!(error.contains("hint:"), "{error}");
        }
        fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
        assert!(refusal(&data).contains(&name));
        fs::write(&path, whole).unwrap();
    }
    let manifest = fs::read(data.join("manifest.json")).unwrap();
    fs::write(data.join("manifest.json"), &manifest[..manifest.len() / 2]).unwrap();
    assert!(refusal(&data).contains("manifest.json: is damaged"));
}

#[test]
fn missing_and_foreign_things_are_told_apart() {
    let dir = small();
    let data = dir.path().join("data");
    assert!(refusal(&dir.path().join("nowhere")).contains("there is no such folder"));
    assert!(refusal(dir.path()).contains("no data set is in this folder"));
    assert!(refusal(&dir.path().join("log.csv")).contains("this is a file, not an imported data set"));
    let shard = data.join("shard-00001.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::remove_file(&shard).unwrap();
    assert!(refusal(&data).contains("shard-00001.safetensors"));
    fs::write(&shard, whole).unwrap();
    let manifest = data.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"version\": \"1\"", "\"version\": \"2\"")).unwrap();
    assert!(refusal(&data).contains("format version \"2\"; this program reads version 1"));
    fs::write(&manifest, r#"{"name": "my-web-app"}"#).unwrap();
    assert!(refusal(&data).contains("is not the manifest of a mipgpu data set"));
    // A shard of another data set under this name, of the same length.
    fs::write(&manifest, text).unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("log.csv"), LOG.replace("b,x,3", "b,x,4")).unwrap();
    let options = ImportOptions { shard_interactions: 2, ..Default::default() };
    import(&[other.path().join("log.csv")], &other.path().join("data"), &options, &mut |_| {}).unwrap();
    fs::copy(other.path().join("data/shard-00001.safetensors"), &shard).unwrap();
    assert!(refusal(&data).contains("shard-00001.safetensors: its checksum does not match"));
}

#[test]
fn the_fingerprint_follows_the_data() {
    let one = Dataset::open(&small().path().join("data")).map(|d| d.fingerprint().to_owned()).unwrap();
    let two = Dataset::open(&small().path().join("data")).map(|d| d.fingerprint().to_owned()).unwrap();
    assert_eq!(one, two);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log.csv"), LOG.replace("c,z,2,3", "c,z,3,3")).unwrap();
    import(&[dir.path().join("log.csv")], &dir.path().join("data"), &ImportOptions::default(), &mut |_| {}).unwrap();
    assert_ne!(Dataset::open(&dir.path().join("data")).unwrap().fingerprint(), one);
}

#[test]
fn a_data_set_is_shared_between_threads() {
    let dir = small();
    let data = Dataset::open(&dir.path().join("data")).unwrap();
    let sums: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..data.users()).map(|u| data.items_of(u).len()).sum())).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert_eq!(sums, [7; 4]);
}
