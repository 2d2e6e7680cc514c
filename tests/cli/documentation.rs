//! Tests the documentation: every `sh` block of README.md and docs/ runs, the program accepts the commands of all blocks
//! of all pages, every link resolves, and no line is longer than 120 columns. The figure of the README is drawn from the
//! committed reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mipgpu::page::plot::{Bar, Group, bars, standalone};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the pages for users and developers: README.md, the other top-level pages, and docs/.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let pages = |folder: &Path| -> Vec<PathBuf> {
        let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
    };
    let mut all = [pages(root), pages(&root.join("docs")), vec![root.join("data/README.md")]].concat();
    all.sort();
    assert!(all.len() > 15, "{all:?}");
    all
}

/// A fenced block: its info string, the number of its first line, its lines, and the line before the fence.
struct Block {
    info: String,
    line: usize,
    text: String,
    before: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    let mut before = "";
    for (i, line) in text.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => writeln!(block.text, "{line}").unwrap(),
            (None, Some(info)) => {
                open = Some(Block { info: info.into(), line: i + 2, text: String::new(), before: before.into() });
            }
            (None, None) => {}
        }
        before = line;
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// Returns the key of a user. The first ones are those of the pages.
fn user(u: usize) -> String {
    ["anna", "ben"].get(u).map_or(format!("u{u}"), |key| key.to_string())
}

/// Returns the key of an item. The first ones are those of the pages.
fn item(i: usize) -> String {
    ["tea", "cup", "teapot", "pot", "jug", "Tea, green"].get(i).map_or(format!("i{i}"), |key| key.to_string())
}

/// Returns a key as a cell of a CSV file.
fn cell(key: &str) -> String {
    if key.contains(',') { format!("\"{key}\"") } else { key.into() }
}

/// Creates the files that the commands of a page expect in their folder.
fn inputs(folder: &Path) {
    let write = |name: &str, rows: &[String]| fs::write(folder.join(name), rows.join("\n") + "\n").unwrap();
    let mut log = vec!["user,item,timestamp".to_string()];
    let mut ratings = vec!["user,item,rating,timestamp".to_string()];
    let mut shown = vec!["user,item,timestamp,clicked".to_string()];
    let mut baskets = vec!["user,item,timestamp,order".to_string()];
    let mut other = vec!["user,item,timestamp".to_string()];
    let mut events = Vec::new();
    for u in 0..300 {
        let who = user(u);
        for t in 0..(8 + u % 25) {
            let i = (u * 7 + t * (1 + u % 3) + (u * t) % 5) % 120;
            let time = 1_600_000_000 + u * 600 + t * 86_400;
            let (key, what) = (item(i), cell(&item(i)));
            log.push(format!("{who},{what},{time}"));
            ratings.push(format!("{who},{what},{},{time}", 1 + (u + i) % 5));
            shown.push(format!("{who},{what},{time},1"));
            shown.push(format!("{who},{},{},0", cell(&item((i * 11 + u) % 120)), time + 5));
            baskets.push(format!("{who},{what},{},o{u}x{}", time - t % 3 * 86_400, t / 3));
            let kind = if t % 4 == 0 { "purchase" } else { "view" };
            let event = serde_json::json!({"user": who, "item": key, "ts": time, "event": kind});
            events.push(event.to_string());
            if u < 150 {
                other.push(format!("{who},m{},{time}", (u * 3 + t * 2) % 60));
            }
        }
    }
    let mut items = vec!["item,title,category,brand,price".to_string()];
    items.extend((0..120).map(|i| {
        let key = cell(&item(i));
        format!("{key},Item number {i},c{},b{},{}.50", i % 7, i % 13, 5 + i % 40)
    }));
    for (name, rows) in [
        ("log.csv", log),
        ("ratings.csv", ratings),
        ("impressions.csv", shown),
        ("baskets.csv", baskets),
        ("other.csv", other),
        ("events.jsonl", events),
        ("items.csv", items),
    ] {
        write(name, &rows);
    }
}

/// Creates stand-ins for programs that blocks call: `mipgpu` trains for one epoch, `cargo run --release --` is
/// `mipgpu`, and cargo builds nothing.
fn programs(folder: &Path) {
    let program = |name: &str, text: &str| {
        fs::write(folder.join(name), format!("#!/bin/bash\n{text}")).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    program(
        "mipgpu",
        &format!(
            "words=(\"$@\")\n\
             if [[ ${{1-}} == train || ${{1-}} == finetune ]] && [[ \" $* \" != *' --resume '* ]]; then\n\
               for ((i = 0; i < $#; i++)); do\n\
                 [[ ${{words[i]}} == --epochs ]] && unset 'words[i]' 'words[i+1]'\n\
               done\n\
               words+=(--epochs 1)\n\
             fi\n\
             exec '{}' \"${{words[@]}}\"\n",
            env!("CARGO_BIN_EXE_mipgpu")
        ),
    );
    program(
        "cargo",
        "case \"$1 ${2-} ${3-}\" in\n\
           'run --release --') shift 3; exec mipgpu \"$@\" ;;\n\
           'install --path .' | 'test  ' | 'build --release ') ;;\n\
           *) echo \"cargo $*: no test runs this\" >&2; exit 1 ;;\n\
         esac\n",
    );
}

/// Runs the blocks of a page in one folder. Returns how many ran, and an error for each that failed. A block after
/// `<!-- file: NAME -->` is the text of that file.
fn run(page: &Path) -> (usize, Vec<String>) {
    let text = fs::read_to_string(page).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (work, bin) = (folder.path().join("work"), folder.path().join("bin"));
    [&work, &bin].into_iter().for_each(|f| fs::create_dir(f).unwrap());
    inputs(&work);
    programs(&bin);
    let (mut ran, mut faults) = (0, Vec::new());
    for block in blocks(&text) {
        let place = format!("{}:{}", page.strip_prefix(ROOT).unwrap_or(page).display(), block.line);
        let file = block.before.strip_prefix("<!-- file: ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(file) = file {
            fs::write(work.join(file), &block.text).unwrap();
        }
        match block.info.as_str() {
            "sh" => ran += 1,
            "sh,ignore" if block.before.starts_with("<!-- not run: ") => continue,
            "sh,ignore" => {
                faults.push(format!("{place}: a block that is not run needs its reason: <!-- not run: WHY -->"));
                continue;
            }
            "text" | "toml" | "python" | "json" | "rust,no_run" | "csv" | "cuda" | "html" => continue,
            other => {
                faults.push(format!("{place}: a block of '{other}'"));
                continue;
            }
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let out = Command::new("bash")
            .args(["-eu", "-o", "pipefail", "-c", &block.text])
            .current_dir(&work)
            .env("PATH", path)
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let last: Vec<&str> = said.lines().rev().take(6).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            faults.push(format!("{place}: {}\n{}    {}", out.status, block.text, last.join("\n    ")));
        }
    }
    (ran, faults)
}

#[test]
fn a_command_that_fails_is_found() {
    let page = tempfile::NamedTempFile::new().unwrap();
    let text =
        "```sh\nmipgpu import log.csv --out d -q\n```\n\n```sh\nmipgpu trian d | cat\n```\n\n```sh,ignore\nx\n```\n";
    fs::write(page.path(), text).unwrap();
    let (ran, faults) = run(page.path());
    assert_eq!((ran, faults.len()), (2, 2), "{faults:?}");
    assert!(faults[0].contains(":6: ") && faults[0].contains("trian"), "{}", faults[0]);
    assert!(faults[1].contains("needs its reason"), "{}", faults[1]);
}

#[test]
fn every_command_block_runs() {
    // Two at a time, because each trains on all cores.
    let only = std::env::var("MIPGPU_ONLY").unwrap_or_default();
    let for_users = |p: &PathBuf| p.ends_with("README.md") || p.parent().unwrap().ends_with("docs");
    let chosen = |p: &PathBuf| for_users(p) && p.display().to_string().contains(&only);
    let pages: Vec<PathBuf> = pages().into_iter().filter(chosen).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new((0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(page) = pages.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let (ran, faults) = run(page);
                    let mut found = found.lock().unwrap();
                    found.0 += ran;
                    found.1.extend(faults);
                }
            });
        }
    });
    let (ran, faults) = found.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    assert!(ran > 30 || !only.is_empty(), "only {ran} blocks ran");
}

/// Splits a block into its commands, and those into words, as a shell does: quotes, comments and continued lines. Each
/// command of a pipe or list is separate, and so is the target of a redirection.
fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut all, mut command, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut comment) = (None, false);
    for c in text.replace("\\\n", " ").chars().chain(['\n']) {
        match (quote, c) {
            _ if comment && c != '\n' => {}
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => comment = true,
            (None, ' ' | '\n' | '|' | '&' | ';' | '<' | '>') => {
                command.extend(word.take());
                if c != ' ' {
                    all.push(std::mem::take(&mut command));
                }
                comment = false;
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    all.retain(|words| !words.is_empty());
    all
}

/// Returns the words that a command passes to the program, if it runs it: at any path, under another program, or with
/// `cargo run`.
fn passed(command: &[String]) -> Option<&[String]> {
    let after = |word: &str| command.iter().position(|w| w == word).map(|at| &command[at + 1..]);
    let program = command.iter().position(|w| w == "mipgpu" || w.ends_with("/mipgpu"));
    match program {
        Some(at) => Some(&command[at + 1..]),
        None if after("cargo")?.first()? == "run" && after("--example").is_none() => after("--"),
        None => None,
    }
}

#[test]
fn commands_are_split_as_a_shell_does() {
    let text = "A=1 a/mipgpu x 'b c' \"d\" # note 'e\n\n  cargo run --release -- f \\\n  g#h | k > l; mipgpu\n\
                cargo run --example m -- n && cargo test -- o\n";
    let all = commands(text);
    let lines: Vec<String> = all.iter().map(|words| words.join("_")).collect();
    assert_eq!(
        lines,
        [
            "A=1_a/mipgpu_x_b c_d",
            "cargo_run_--release_--_f_g#h",
            "k",
            "l",
            "mipgpu",
            "cargo_run_--example_m_--_n",
            "cargo_test_--_o"
        ]
    );
    let passed: Vec<Option<String>> = all.iter().map(|words| passed(words).map(|words| words.join("_"))).collect();
    let some = |text: &str| Some(text.to_string());
    assert_eq!(passed, [some("x_b c_d"), some("f_g#h"), None, None, some(""), None, None]);
}

/// Also those of blocks that are not run, and those for developers.
#[test]
fn the_program_accepts_the_commands_of_all_blocks() {
    let (mut tried, mut faults) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks(&text).iter().filter(|block| ["sh", "sh,ignore"].contains(&block.info.as_str())) {
            for command in commands(&block.text) {
                let Some(words) = passed(&command) else { continue };
                // A search is followed by the command that it repeats.
                let repeated = words.first().is_some_and(|name| name == "search").then(|| {
                    let at = words.iter().position(|word| word == "--");
                    at.map_or(&[][..], |at| &words[at + 1..])
                });
                for words in std::iter::once(words).chain(repeated) {
                    tried += 1;
                    let line = std::iter::once("mipgpu").chain(words.iter().map(String::as_str)).map(OsString::from);
                    if let Err(e) = mipgpu::cli::accepts(line) {
                        faults.push(format!("{}:{}: mipgpu {}: {e}", page.display(), block.line, words.join(" ")));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(tried > 100, "only {tried} commands");
    assert!(mipgpu::cli::accepts(["mipgpu", "trian"].map(OsString::from)).is_err());
}

/// Checks the targets of cargo that the pages name, and for `--test NAME MODULE::` the module of the test.
#[test]
fn the_targets_of_cargo_exist() {
    let there = |path: &str| Path::new(ROOT).join(path).exists();
    // Other names are placeholders, such as `NAME`.
    let is_name = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
    let (mut tried, mut faults) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (i, line) in text.lines().enumerate() {
            for command in line.split("cargo ").skip(1) {
                // Up to the end of inline code.
                let words: Vec<&str> = command.split(['`', '#']).next().unwrap().split_whitespace().collect();
                for (at, word) in words.iter().enumerate() {
                    let folder = match *word {
                        "--test" => "tests",
                        "--bench" => "benches",
                        "--example" => "examples",
                        _ => continue,
                    };
                    let Some(name) = words.get(at + 1).filter(|name| is_name(name)) else { continue };
                    tried += 1;
                    let target = format!("{folder}/{name}");
                    if !there(&format!("{target}.rs")) && !there(&format!("{target}/main.rs")) {
                        faults.push(format!("{}:{}: no target {target}", page.display(), i + 1));
                    }
                    let filters = words[at + 2..].iter().filter(|_| folder == "tests");
                    for module in filters.filter_map(|filter| Some(filter.split_once("::")?.0)) {
                        let file = format!("{target}/{module}");
                        if is_name(module) && !there(&file) && !there(&format!("{file}.rs")) {
                            faults.push(format!("{}:{}: no module {file}", page.display(), i + 1));
                        }
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(tried > 20, "only {tried} targets");
}

/// Returns the anchors of a page, as GitHub makes them from its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut fenced, mut seen) = (false, BTreeMap::<String, usize>::new());
    let mut all = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !fenced) else { continue };
        // A link contributes its text.
        let heading = heading.trim_start_matches('#').trim().replace(['`', '*'], "").replace("](", "\u{1}(");
        let heading: String = match heading.split_once('\u{1}') {
            Some((text, rest)) => text.replace('[', "") + rest.split_once(')').map_or("", |(_, rest)| rest),
            None => heading,
        };
        let heading = heading.to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(anchor.clone()).or_default();
        all.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    all
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut fenced = false;
        for (i, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            let inline = line.match_indices("](").map(|(at, _)| line[at + 2..].split([')', ' ']).next().unwrap());
            // `[name]: target`
            let defined =
                line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
            for target in inline.chain(defined) {
                if target.starts_with("http") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
                let there = path.exists()
                    && (anchor.is_empty()
                        || fs::read_to_string(&path).is_ok_and(|text| anchors(&text).contains(anchor)));
                if !there {
                    faults.push(format!("{}:{}: {target}", page.display(), i + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

/// Checks that every page of docs/ is in the table of contents.
#[test]
fn the_table_of_contents_is_whole() {
    let summary = fs::read_to_string(Path::new(ROOT).join("docs/SUMMARY.md")).unwrap();
    for page in pages().iter().filter(|p| p.parent().unwrap().ends_with("docs")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name} is not in docs/SUMMARY.md");
    }
}

#[test]
fn the_readme_is_short_and_lines_fit() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    assert!(readme.lines().count() <= 120, "README.md has {} lines", readme.lines().count());
    let mut faults = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (i, line) in text.lines().enumerate() {
            // An address cannot be broken, and a table row is one line.
            let fits = line.chars().count() <= 120 || line.contains("http") || line.trim_start().starts_with('|');
            if !fits {
                faults.push(format!("{}:{}", page.display(), i + 1));
            }
        }
    }
    assert!(faults.is_empty(), "lines over 120 columns:\n{}", faults.join("\n"));
}

/// Returns one bar of the README's figure: a result of benches/results and the best published number.
fn bar(label: &str, folder: &str, measure: &str, published: f64) -> Bar {
    let report = fs::read_to_string(format!("{ROOT}/benches/results/{folder}/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let at = report["full"]["model"]["at"].as_array().unwrap().iter().find(|at| at["k"] == 10).unwrap();
    let value = at[measure].as_f64().unwrap();
    Bar {
        label: label.into(),
        value: Some(value),
        published: Some(published),
        says: format!("{value:.4}"),
        tip: format!("{label}: {value:.4}, published {published:.4}"),
        ..Bar::default()
    }
}

/// `MIPGPU_UPDATE=1 cargo test --test cli figure` redraws it.
#[test]
fn the_figure_is_drawn_from_the_reports() {
    let group = Group {
        name: "MovieLens-1M, full ranking: HR@10 of mipgpu and the best published value".into(),
        bars: vec![
            bar("SASRec", "ml-1m-sasrec", "hr", 0.3058),
            bar("BERT4Rec", "ml-1m-bert4rec", "hr", 0.2921),
            bar("GRU4Rec", "ml-1m-gru4rec", "hr", 0.2811),
        ],
    };
    let drawn = standalone(&bars("HR@10 on MovieLens-1M", "HR@10", &[group]));
    let path = Path::new(ROOT).join("docs/images/results.svg");
    if std::env::var_os("MIPGPU_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &drawn).unwrap();
    }
    assert!(fs::read_to_string(&path).is_ok_and(|text| text == drawn), "draw docs/images/results.svg anew");
}
