/*! Speed and memory of an import: writes a log of the given size, imports it, opens and verifies the result, prints
times and the process's peak memory, and deletes both.

`cargo bench --bench import -- [jsonl] ROWS [DIR] [MEMORY_MB] [MIN_USER MIN_ITEM]`. Defaults: one million rows in the
temporary folder, no k-core. The log is a CSV with a header (or the same rows as JSON lines), with numeric keys and
timestamps: about 10 000 users and 1 000 items per million rows. Users are uniform, items have a long tail, and rows are
not ordered by user.
*/

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    time::Instant,
};

use mipgpu::{
    base::rng::philox,
    data::{Dataset, ImportOptions, digits, import},
};

fn main() {
    // Cargo adds --bench; `cargo test --all-targets` does not, and uses a small size.
    let timed = std::env::args().any(|a| a == "--bench");
    let mut args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let json = args.first().is_some_and(|a| a == "jsonl");
    args.drain(..usize::from(json));
    let rows = args.first().map_or(if timed { 1_000_000 } else { 10_000 }, |a| a.parse().expect("ROWS is a number"));
    let dir =
        args.get(1).map_or_else(std::env::temp_dir, Into::into).join(format!("mipgpu-bench-{}", std::process::id()));
    let memory_mb: u64 = args.get(2).map_or(2048, |a| a.parse().expect("MEMORY_MB is a number"));
    let min = |at: usize| args.get(at).map_or(0, |a| a.parse().expect("MIN_USER and MIN_ITEM are numbers"));
    fs::create_dir_all(&dir).expect("the folder can be made");
    let (log, out) = (dir.join(if json { "log.jsonl" } else { "log.csv" }), dir.join("out"));

    let start = Instant::now();
    let bytes = generate(&log, rows, json).expect("the log can be written");
    println!("log        {} rows, {:.2} GB, written in {:.1} s", digits(rows), bytes as f64 / 1e9, seconds(start));

    let options =
        ImportOptions { memory_bytes: memory_mb << 20, min_user: min(3), min_item: min(4), ..ImportOptions::default() };
    let cpu = cpu_seconds();
    let summary = import(&[log], &out, &options, &mut |notice| eprintln!("{notice}")).expect("the log is good");
    println!(
        "import     {:.1} s ({:.1} s of CPU), {:.2} million rows/s, budget {memory_mb} MiB, peak RSS {} MiB",
        summary.seconds,
        cpu_seconds() - cpu,
        summary.rows_per_s / 1e6,
        peak_rss_mib()
    );
    println!(
        "result     {} users, {} items, {} interactions, {:.2} GB in {} shards",
        digits(summary.users),
        digits(summary.items),
        digits(summary.interactions),
        summary.bytes as f64 / 1e9,
        summary.shards
    );
    let (start, before) = (Instant::now(), rss_kib());
    let data = Dataset::open(&out).expect("the data set opens");
    println!("open       {:.1} ms, {} KiB more resident", 1e3 * seconds(start), rss_kib().saturating_sub(before));
    let start = Instant::now();
    data.verify().expect("the data set is whole");
    println!("verify     {:.2} s", seconds(start));
    let start = Instant::now();
    let sum: u64 = (0..data.users()).flat_map(|u| data.items_of(u)).map(|&i| i as u64).sum();
    println!("hash       {}", data.fingerprint());
    println!("read all   {:.2} s (sum of item ids {sum})", seconds(start));
    println!("core       {} rows dropped in {} rounds", digits(summary.dropped_core), summary.core_rounds);
    assert_eq!(data.interactions() + summary.dropped_core, rows);
    drop(data);
    fs::remove_dir_all(&dir).expect("the folder can be removed");
}

fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

/// User and system time of all threads so far, in seconds (Linux counts in hundredths); 0 on other systems.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the program's name in parentheses. User and system time are fields 14 and 15 of the line.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11..13).map_or(0.0, |times| times.iter().filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

/// Writes the log and returns its size in bytes.
fn generate(path: &Path, rows: u64, json: bool) -> std::io::Result<u64> {
    let (users, items) = ((rows / 100).max(10), (rows / 1000).max(10));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    if !json {
        writeln!(out, "user_id,item_id,timestamp")?;
    }
    for row in 0..rows {
        let [a, b, c, _] = philox([row as u32, (row >> 32) as u32, 0, 0], [7, 0]);
        let user = (a as u64 * users) >> 32;
        // The cube of a uniform draw: the first tenth of the items get almost half of the rows.
        let tail = (b as f64 / 4294967296.0).powi(3);
        let item = (tail * items as f64) as u64;
        // Timestamps over ten years, in seconds.
        let time = 1_262_304_000 + ((c as u64 * 315_360_000) >> 32);
        if json {
            writeln!(out, "{{\"user_id\": {user}, \"item_id\": {item}, \"timestamp\": {time}}}")?;
        } else {
            writeln!(out, "{user},{item},{time}")?;
        }
    }
    out.flush()?;
    Ok(path.metadata()?.len())
}

/// A line of /proc/self/status in KiB; 0 if there is no such file.
fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn peak_rss_mib() -> u64 {
    status_kib("VmHWM:") >> 10
}

fn rss_kib() -> u64 {
    status_kib("VmRSS:")
}
