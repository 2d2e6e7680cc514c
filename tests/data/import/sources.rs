//! Sources of logs: pipes, standard input, compressed files, folders of parts, two concurrent imports.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use mipgpu::data::{Dataset, ImportOptions};

use crate::import::{
    Desk, builtin, cli, cli_fed, formats::gzip, formats::parquet_file, histories, imported, refusal_of,
};

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A log of 20,000 rows, far longer than the sample that the importer inspects.
fn long_log() -> String {
    let rows: String =
        (0..20_000).map(|i| format!("user{},item{},{}\n", i % 701, i * i % 997, 1_000_000_000 + i)).collect();
    format!("user,item,time\n{rows}")
}

fn fingerprint(out: &Path) -> String {
    let data = Dataset::open(out).unwrap();
    data.verify().unwrap();
    data.fingerprint().to_owned()
}

/// A pipe can be read once. Plain, compressed and Parquet, each from standard input and from a named pipe.
#[test]
fn pipes_are_read_whole() {
    let desk = Desk::new();
    let log = long_log();
    let plain = desk.write("log.csv", &log);
    desk.import(&[plain], &Default::default()).unwrap();
    let expected = fingerprint(&desk.out());
    for (n, bytes) in [log.clone().into_bytes(), gzip(log.as_bytes()), zstd(log.as_bytes())].iter().enumerate() {
        let file = desk.write("piped", bytes);
        let out = desk.dir.path().join(format!("stdin{n}"));
        let (code, _, stderr) =
            cli_fed(&["import", "-", "--out", out.to_str().unwrap()], "2", File::open(&file).unwrap().into());
        assert!(code == 0 && stderr.contains("standard input: comma-separated, with a header"), "{stderr}");
        assert_eq!(fingerprint(&out), expected, "standard input, {n}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 5, "no copy is left in the data set");

        let fifo = desk.dir.path().join(format!("fifo{n}"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let (to, bytes) = (fifo.clone(), bytes.clone());
        let writer = thread::spawn(move || fs::write(to, bytes).unwrap());
        let out = desk.dir.path().join(format!("fifo-out{n}"));
        let (code, _, stderr) = cli(&["import", fifo.to_str().unwrap(), "--out", out.to_str().unwrap()], "2");
        assert_eq!(code, 0, "{stderr}");
        writer.join().unwrap();
        assert_eq!(fingerprint(&out), expected, "named pipe, {n}");
    }
    // A premature end of compressed data is detected, also in a pipe.
    let cut = desk.write("cut.gz", &gzip(log.as_bytes())[..20_000]);
    let out = desk.dir.path().join("cut");
    let (code, _, stderr) =
        cli_fed(&["import", "-", "--out", out.to_str().unwrap()], "2", File::open(cut).unwrap().into());
    assert!(code == 1 && stderr.contains("standard input: the gzip data end early"), "{stderr}");
    assert!(!out.exists());
}

/// The shell's `<(cat LOG)`: a pipe under /dev/fd. It once lost the first 256 KiB.
#[test]
fn process_substitution_loses_nothing() {
    let desk = Desk::new();
    let log = desk.write("log.csv", long_log());
    desk.import(std::slice::from_ref(&log), &Default::default()).unwrap();
    let out = desk.dir.path().join("sub");
    let words = format!(
        "'{}' import <(cat '{}') --items <(printf 'item,kind\\nitem0,a\\n') --out '{}'",
        env!("CARGO_BIN_EXE_mipgpu"),
        log.display(),
        out.display()
    );
    let done = Command::new("bash").arg("-c").arg(words).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let data = Dataset::open(&out).unwrap();
    assert_eq!((data.users(), data.items(), data.interactions()), {
        let plain = Dataset::open(&desk.out()).unwrap();
        (plain.users(), plain.items(), 20_000)
    });
    assert_eq!(data.item_fields().get("kind").unwrap().values(), 1);
}

#[test]
fn parquet_comes_through_a_pipe_and_the_log_may_be_its_own_table() {
    let rows: Vec<_> = crate::import::builtin_rows().into_iter().take(3000).collect();
    let desk = Desk::new();
    let file = desk.write("log.parquet", parquet_file(&rows));
    desk.import(std::slice::from_ref(&file), &Default::default()).unwrap();
    let out = desk.dir.path().join("piped");
    let (code, _, stderr) =
        cli_fed(&["import", "-", "--out", out.to_str().unwrap()], "2", File::open(&file).unwrap().into());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fingerprint(&out), fingerprint(&desk.out()));
    // One pipe as both the log and the table of items.
    let log = desk.write("log.csv", "user,item,kind\na,x,1\na,y,2\nb,x,1\n");
    let out = desk.dir.path().join("both");
    let words = ["import", "-", "--items", "-", "--item-fields", "kind", "--out", out.to_str().unwrap()];
    let (code, _, stderr) = cli_fed(&words, "2", File::open(log).unwrap().into());
    assert!(code == 0 && stderr.contains("2 of 2 items found"), "{stderr}");
    let empty = cli_fed(&["import", "-", "--out", desk.dir.path().join("x").to_str().unwrap()], "2", Stdio::null());
    assert!(empty.0 == 1 && empty.2.contains("standard input: the file is empty"), "{}", empty.2);
}

#[test]
fn zstd_is_read_as_gzip_is() {
    let (plain, ..) = imported(long_log(), Default::default());
    let (packed, _, talk) = imported(zstd(long_log().as_bytes()), Default::default());
    assert_eq!(plain.fingerprint(), packed.fingerprint());
    assert!(talk.contains("with a header, zstd"), "{talk}");
    // Several consecutive frames are one file, as with gzip.
    let log = long_log();
    let (a, b) = log.as_bytes().split_at(log.find("user700").unwrap());
    assert_eq!(imported([zstd(a), zstd(b)].concat(), Default::default()).0.fingerprint(), plain.fingerprint());
    let whole = zstd(long_log().as_bytes());
    let error = refusal_of("log.csv.zst", &whole[..whole.len() / 2], Default::default()).to_string();
    assert!(error.contains("the zstd data end early") && error.contains("cut short"), "{error}");
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 0x55;
    let error = refusal_of("log.csv.zst", &flipped, Default::default()).to_string();
    assert!(error.contains("log.csv.zst: "), "{error}");
}

#[test]
fn foreign_formats_are_refused_by_their_names() {
    let cases: &[(&[u8], &str, &str)] = &[
        (b"ARROW1\0\0....", "this is an Arrow file (Feather)", "read_feather"),
        (b"FEA1....", "this is a Feather file", "read_feather"),
        (b"ORC\x0a....", "this is an ORC file", "read_orc"),
        (b"Obj\x01....", "this is an Avro file", "Parquet"),
        (b"SQLite format 3\0...", "this is an SQLite database", "sqlite3 -header -csv"),
        (b"PK\x03\x04....[Content_Types].xml", "this is an Excel workbook", "CSV"),
        (b"PK\x03\x04....a.csv", "this is a zip archive", "unzip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1..", "this is an Excel workbook", "CSV"),
        (b"\x80\x04\x95....", "this is a Python pickle", "read_pickle"),
        (b"\xfd7zXZ\0....", "this is packed with xz", "xz -dc"),
        (b"BZh91AY&SY....", "this is packed with bzip2", "bzip2 -dc"),
        (b"PARE....", "this is an encrypted Parquet file", "without encryption"),
        (b"<!DOCTYPE html><html>", "this is a web page", "download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "this is a pointer of Git LFS", "git lfs pull"),
    ];
    for (bytes, what, hint) in cases {
        let error = refusal_of("log.csv", bytes, Default::default()).to_string();
        assert!(error.contains(what) && error.contains(hint), "{error}");
    }
    let packed = refusal_of("log.parquet.gz", gzip(b"PAR1...PAR1"), Default::default()).to_string();
    assert!(packed.contains("this is a Parquet file packed with gzip") && packed.contains("gzip -dc"), "{packed}");
    let mut tar = vec![b'x'; 257];
    tar.extend(b"ustar\0");
    let error = refusal_of("log.tar.gz", gzip(&tar), Default::default()).to_string();
    assert!(error.contains("this is a tar archive packed with gzip"), "{error}");
    // Words that begin like the magic bytes of such a format remain words.
    assert_eq!(imported("BZhang,a\nORCA,b\n", Default::default()).1.interactions, 2, "names, not archives");
}

fn write_parts(dir: &Path, parts: &[(&str, &str)]) -> PathBuf {
    for (name, text) in parts {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir.to_path_buf()
}

#[test]
fn a_folder_of_parts_is_the_files_in_the_order_of_their_paths() {
    let desk = Desk::new();
    let folder = write_parts(
        &desk.dir.path().join("parts"),
        &[
            ("part-0001.csv", "item,user,time\nz,b,3\n"),
            ("part-0000.csv", "user,item,time\na,x,1\na,y,2\n"),
            ("part-0002.csv", "user,item,time\n"),
            ("part-0003.csv", ""),
            ("_SUCCESS", ""),
            (".part-0000.csv.crc", "crc"),
        ],
    );
    let (data, summary, talk) = desk.import(std::slice::from_ref(&folder), &Default::default()).unwrap();
    let expected = [("a".to_owned(), vec!["x".to_owned(), "y".to_owned()]), ("b".to_owned(), vec!["z".to_owned()])];
    assert_eq!((histories(&data), summary.rows), (expected.to_vec(), 3), "{talk}");
    assert!(talk.contains("1 of 3 files hold no rows"), "{talk}");
    let named: Vec<PathBuf> = (0..3).map(|n| folder.join(format!("part-000{n}.csv"))).collect();
    let again = Desk::new();
    assert_eq!(again.import(&named, &Default::default()).unwrap().0.fingerprint(), data.fingerprint());
    // Another table in the folder is not read.
    write_parts(&folder, &[("movies.csv", "user,item,title\nm,x,Heat\n")]);
    let error = again.import(&[folder], &ImportOptions { force: true, ..Default::default() }).unwrap_err().to_string();
    assert!(error.contains("movies.csv") && error.contains("differ in their columns"), "{error}");
}

#[test]
fn what_a_path_names_is_a_column() {
    let desk = Desk::new();
    let folder = write_parts(
        &desk.dir.path().join("log"),
        &[
            ("day=2024-05-02/part-0.csv", "user,item\na,y\nb,z\n"),
            ("day=2024-05-01/part-0.csv", "user,item\na,x\n"),
            ("day=2024-05-03/part-0.csv", "item,user\n\"q\"\"q\",a\n"),
        ],
    );
    let (data, summary, talk) = desk.import(&[folder], &Default::default()).unwrap();
    assert!(talk.contains("time    column 3 'day'"), "{talk}");
    assert_eq!(histories(&data)[0], ("a".into(), vec!["x".into(), "y".into(), "q\"q".into()]));
    // 2024-05-01 is day 19,844 since 1970.
    assert_eq!(summary.times, Some([19_844 * 86_400, 19_846 * 86_400]));
    let users = write_parts(
        &desk.dir.path().join("users"),
        &[("user=u%3A1/0.csv", "item,time\nx,2\ny,1\n"), ("user=u2/0.csv", "item,time\nx,5\n")],
    );
    let (data, ..) = desk.import(&[users], &ImportOptions { force: true, ..Default::default() }).unwrap();
    assert_eq!(histories(&data)[0], ("u:1".into(), vec!["y".into(), "x".into()]));
    assert_eq!(histories(&data)[1], ("u2".into(), vec!["x".into()]));
}

#[test]
fn parts_of_parquet_and_json_have_the_columns_of_their_paths_too() {
    let rows: Vec<_> = crate::import::builtin_rows().into_iter().take(300).collect();
    let desk = Desk::new();
    let folder = desk.dir.path().join("log");
    let mut csv = String::from("user,item,rating,day\n");
    for (n, part) in rows.chunks(100).enumerate() {
        let day = format!("2024-05-0{}", 3 - n);
        fs::create_dir_all(folder.join(format!("day={day}"))).unwrap();
        fs::write(folder.join(format!("day={day}/0.parquet")), parquet_file(part)).unwrap();
    }
    // The order of the paths is that of the days.
    for (n, part) in rows.chunks(100).enumerate().collect::<Vec<_>>().into_iter().rev() {
        part.iter().for_each(|r| csv += &format!("{},{},{},2024-05-0{}\n", r.0, r.1, r.2, 3 - n));
    }
    let options = ImportOptions { time_col: Some("day".into()), ..Default::default() };
    let (data, _, talk) = desk.import(&[folder], &options).unwrap();
    assert_eq!(data.fingerprint(), imported(&csv, options.clone()).0.fingerprint(), "{talk}");
    let json = write_parts(
        &desk.dir.path().join("json"),
        &[
            ("day=2024-05-02/0.json", "{\"user\":\"a\",\"item\":\"\\u0079\"}\n"),
            ("day=2024-05-01/0.json", "{\"item\":\"x\",\"user\":\"a\"}\n"),
        ],
    );
    let wheres = vec!["day=2024-05-01,2024-05-02".parse().unwrap()];
    let (data, ..) = desk.import(&[json], &ImportOptions { force: true, wheres, ..options }).unwrap();
    assert_eq!(histories(&data), [("a".to_owned(), vec!["x".to_owned(), "y".to_owned()])]);
}

/// Pieces of one file, as made by `split`: only the first has the header, and its columns are in an unusual
/// order.
#[test]
fn pieces_without_a_header_take_the_columns_of_the_first() {
    let desk = Desk::new();
    let whole = "item,user,time\nx,a,1\ny,a,2\nz,b,3\nx,b,4\n";
    let (head, tail) = whole.split_at(whole.find("z,b").unwrap());
    let pieces = [desk.write("xaa", head), desk.write("xab", tail)];
    let (data, _, talk) = desk.import(&pieces, &Default::default()).unwrap();
    assert_eq!(data.fingerprint(), imported(whole, Default::default()).0.fingerprint());
    assert!(talk.contains("warning: ") && talk.contains("xab: has no header"), "{talk}");
}

#[test]
fn of_two_imports_into_one_folder_one_wins_and_the_other_says_so() {
    let desk = Desk::new();
    let out = desk.dir.path().join("out");
    let (log, out_word) = (builtin(), out.to_str().unwrap());
    // The first one waits for its log in a pipe.
    let fifo = desk.dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for force in [false, true] {
        let mut words = vec!["import", fifo.to_str().unwrap(), "--out", out_word];
        words.extend(force.then_some("--force"));
        let first = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
            .args(&words)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Opening the pipe for writing returns once the first one has opened it for reading.
        let pipe = File::options().write(true).open(&fifo).unwrap();
        let mut words = vec!["import", log.to_str().unwrap(), "--out", out_word];
        words.extend(force.then_some("--force"));
        let (code, _, stderr) = cli(&words, "1");
        assert!(
            code == 1 && stderr.contains("is creating it right now") && stderr.contains("another --out"),
            "{stderr}"
        );
        use std::io::Write;
        let mut pipe = pipe;
        pipe.write_all(b"user,item\na,x\na,y\n").unwrap();
        drop(pipe);
        let done = first.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(Dataset::open(&out).unwrap().interactions(), 2);
        assert_eq!(fs::read_dir(desk.dir.path()).unwrap().count(), 2, "the pipe and the data set");
    }
}

/// No process writes to the pipe: Ctrl-C still ends the import.
#[test]
fn waiting_for_a_pipe_can_be_interrupted() {
    let desk = Desk::new();
    let fifo = desk.dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let cancel = Arc::new(AtomicBool::new(false));
    let options = ImportOptions { cancel: Some(cancel.clone()), ..Default::default() };
    let out = desk.out();
    let import = thread::spawn(move || desk.import(&[fifo], &options).map(|_| ()).unwrap_err().to_string());
    // The staging folder shows that the import has started.
    while fs::read_dir(out.parent().unwrap()).map_or(0, Iterator::count) == 0 {
        thread::yield_now();
    }
    cancel.store(true, Ordering::Relaxed);
    assert!(import.join().unwrap().contains("interrupted"));
}

#[test]
fn what_a_killed_import_left_is_cleared_away() {
    let desk = Desk::new();
    let out = desk.dir.path().join("out");
    let fifo = desk.dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut killed = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
        .args(["import", fifo.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pipe = File::options().write(true).open(&fifo).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(pipe);
    let left = || fs::read_dir(desk.dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(left(), 1, "the folder of the killed import");
    let log = builtin();
    let (code, _, stderr) = cli(&["import", log.to_str().unwrap(), "--out", out.to_str().unwrap()], "1");
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(left(), 1, "the data set alone");
}
