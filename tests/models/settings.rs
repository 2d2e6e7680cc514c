//! Settings: which of them a run uses, compared with the effect of each on training; and settings files, compared with
//! the same flags on the command line.

use std::{collections::BTreeSet, fs, path::Path, sync::atomic::AtomicBool};

use clap::{Args, Parser, ValueEnum};
use mipgpu::{
    backend::Device,
    cli::{
        finetune,
        printer::Printer,
        settings_file::COMMAND_LINE_ONLY,
        split_flags::SplitFlags,
        train::{self as train_command, JobArgs, Prepared, prepare},
    },
    data::{Dataset, ImportOptions, import, split::Split},
    layers::DataSummary,
    models,
    tasks::{self, LossKind, SamplerKind},
    train::{
        Differs, Flags, FreshRows, Origin, Patching, RunConfig, RunFolder, Settings, SideTables, Transfer, Which,
        resolve::{default_split, rating_scale, resolve_settings},
        run::TrainJob,
        settings, train,
        transfer::{Base, check_plans},
    },
};
use rayon::prelude::*;
use safetensors::SafeTensors;

/// Imports 14 users with 8 events each, in baskets of two, over 10 items of three genres.
fn data(dir: &Path) -> Dataset {
    let mut log = String::from("user,item,rating,timestamp\n");
    for u in 0..14 {
        for t in 0..8 {
            log += &format!(
                "u{u},i{},{},{}\n",
                (u * 3 + t * (1 + u % 3)) % 10,
                1 + (u + t * t) % 5,
                1_000_000_000 + t / 2 * 86_400
            );
        }
    }
    let items: String = (0..10).map(|i| format!("i{i},g{}|g{}\n", i % 3, i % 2)).collect();
    fs::write(dir.join("log.csv"), log).unwrap();
    fs::write(dir.join("items.csv"), format!("item,genre\n{items}")).unwrap();
    let options = ImportOptions { items: Some(dir.join("items.csv")), ..ImportOptions::default() };
    import(&[dir.join("log.csv")], &dir.join("data"), &options, &mut |_| {}).unwrap();
    Dataset::open(&dir.join("data")).unwrap()
}

/// Values of every setting, none of which is its default.
const VALUES: &[(&str, [&str; 2])] = &[
    ("model", ["gru4rec", "peterrec"]),
    ("task", ["next-item", "next-basket"]),
    ("width", ["12", "16"]),
    ("blocks", ["3", "1"]),
    ("heads", ["1", "2"]),
    ("length", ["4", "5"]),
    ("ffn-ratio", ["2", "3"]),
    ("norm", ["pre", "post"]),
    ("projection", ["true", "false"]),
    ("dropout", ["0.3", "0.2"]),
    ("attention-dropout", ["0.3", "0.2"]),
    ("init-std", ["0.1", "0.05"]),
    ("taps", ["2", "5"]),
    ("dilations", ["2", "1,2"]),
    ("window", ["4", "3"]),
    ("horizontal", ["3", "5"]),
    ("vertical", ["2", "3"]),
    ("rating-width", ["4", "0"]),
    ("user-width", ["4", "6"]),
    ("fields", ["genre", "all"]),
    ("field-width", ["3", "5"]),
    ("join", ["sum", "concat"]),
    ("patch", ["serial", "parallel"]),
    ("patches", ["1", "2"]),
    ("patch-width", ["3", "2"]),
    ("freeze", ["network", "all"]),
    ("mask", ["0.6", "0.4"]),
    ("mask-last", ["0.7", "0.5"]),
    ("targets", ["2", "3"]),
    ("loss", ["bce", "bpr"]),
    ("sampler", ["popularity", "log-uniform"]),
    ("negatives", ["3", "5"]),
    ("per-position", ["true", "false"]),
    ("unique-negatives", ["true", "false"]),
    ("log-q", ["false", "true"]),
    ("exclude-seen", ["true", "false"]),
    ("gbce-t", ["0.5", "0.25"]),
    ("epochs", ["5", "3"]),
    ("batch", ["3", "5"]),
    ("lr", ["0.01", "0.003"]),
    ("warmup", ["0", "1"]),
    ("decay", ["linear", "constant"]),
    ("final-lr", ["0.5", "0.3"]),
    ("weight-decay", ["0.3", "0.1"]),
    ("beta1", ["0.8", "0.7"]),
    ("beta2", ["0.99", "0.9"]),
    ("precision", ["bf16", "f32"]),
    ("table-update", ["rows", "dense"]),
    ("clip", ["0.001", "0.01"]),
    ("seed", ["7", "8"]),
    ("eval-every", ["3", "2"]),
    ("keep-seen", ["true", "false"]),
    ("patience", ["1", "2"]),
    ("checkpoint-seconds", ["0", "7"]),
];

/// Settings that disable others, and samplers and losses with the settings that change their formulas.
const SPECIAL: &[&str] = &[
    "",
    "--model dacf --mask 0",
    "--model sasrec --loss sampled-softmax --per-position true",
    "--fields genre",
    "--user-width 4",
    "--model caser --user-width 4",
    "--model caser --fields genre",
    "--decay constant",
    "--mask-last 1",
    "--blocks 0",
    "--model peterrec --length 32 --blocks 0",
];

/// The contexts of each setting: every model with every task that fits, every loss, every sampler, and
/// [`SPECIAL`].
fn contexts() -> Vec<String> {
    let mut all: Vec<String> = SPECIAL.iter().map(|words| words.to_string()).collect();
    for model in models::ALL {
        let users = if model.users { " --user-width 4" } else { "" };
        for task in tasks::ALL.iter().filter(|task| task.suits(model)) {
            all.push(format!("--model {} --task {}{users}", model.name, task.name));
        }
    }
    for (loss, word) in LossKind::named() {
        all.push(format!("--model sasrec --loss {word}"));
        // Pairwise losses draw like the corrected ones.
        for sampler in SamplerKind::value_variants().iter().filter(|_| loss.correctable()) {
            let sampler = sampler.to_possible_value().expect("samplers have names");
            all.push(format!("--model sasrec --loss {word} --sampler {}", sampler.get_name()));
        }
    }
    all
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(flatten)]
    settings: Flags,
    #[command(flatten)]
    split: SplitFlags,
}

/// Returns settings that train in a moment.
fn tiny() -> Settings {
    let sizes = "width = 8\nheads = 4\nlength = 8\nwindow = 2\nnegatives = 4\n";
    let steps = "batch = 2\nepochs = 4\neval-every = 1\nwarmup = 2\nlr = 0.02\n";
    toml::from_str(&format!("{sizes}{steps}")).unwrap()
}

#[derive(Clone, Copy)]
struct Tried<'a> {
    data: &'a Dataset,
    dir: &'a Path,
    transfer: Option<Transfer>,
    base: Option<&'a Base>,
}

impl Tried<'_> {
    /// Returns the requested run or the error, and the settings that were specified.
    fn config(&self, words: &str) -> (Settings, Result<RunConfig, String>) {
        let words = Words::try_parse_from(words.split_whitespace()).unwrap();
        let mut settings = tiny();
        words.settings.apply(&mut settings);
        let split = words.split.spec(self.data).unwrap().unwrap_or(default_split(&settings).unwrap_or_default());
        if let (Some(Transfer::Patch), Some(base)) = (self.transfer, self.base) {
            settings.patch = if settings.patch == Patching::None { Patching::Serial } else { settings.patch };
            settings.freeze = base.freezes(self.data, &settings);
        }
        let concluded = resolve_settings(&words.settings.given(), &mut settings, self.data, self.transfer)
            .map_err(|e| e.to_string());
        let config = concluded.map(|()| self.run(settings.clone(), split));
        (settings, config)
    }

    fn run(&self, settings: Settings, split: mipgpu::data::split::SplitSpec) -> RunConfig {
        let from = self.base.zip(self.transfer).map(|(base, transfer)| Origin {
            run: self.dir.join("base"),
            checkpoint: Which::Best,
            sha256: base.sha256().into(),
            transfer,
            fresh_rows: FreshRows::Random,
        });
        RunConfig {
            version: RunConfig::VERSION,
            data: self.dir.join("data"),
            data_fingerprint: self.data.fingerprint().into(),
            split,
            from,
            ratings: rating_scale(&settings, self.data, split).unwrap(),
            settings,
        }
    }

    /// Returns all tensors of both checkpoints and the learning curve; `None` if these settings cannot be planned.
    fn outcome(&self, config: &RunConfig, name: &str) -> Option<Vec<u8>> {
        let split = Split::for_task(self.data, config.split, config.settings.find().unwrap().1.baskets).unwrap();
        mipgpu::train::run::check(config, self.data, &split).ok()?;
        let folder = RunFolder::new(self.dir.join(name));
        let _ = fs::remove_dir_all(&folder.path);
        folder.create(config, self.data).unwrap();
        let stop = AtomicBool::new(false);
        let job = TrainJob {
            config,
            data: self.data,
            split: &split,
            folder: &folder,
            device: Device::Cpu,
            resume: false,
            stop: &stop,
        };
        train(&job, &mut |_| {}).unwrap();
        let mut all = fs::read(folder.path.join("metrics.jsonl")).unwrap();
        for file in [folder.best(), folder.last()].iter().filter(|file| file.exists()) {
            let bytes = fs::read(file).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let mut tensors = file.tensors();
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            tensors.iter().for_each(|(name, tensor)| all.extend([name.as_bytes(), tensor.data()].concat()));
        }
        Some(all)
    }

    /// Tries every setting in this context. If the table says that it has no effect, training must give the same bits
    /// and the flag must be rejected. Otherwise the flag must be accepted and the bits must differ. Returns the
    /// settings that changed something; deviations are added to `faults`.
    fn try_all(&self, context: &str, faults: &mut Vec<String>) -> BTreeSet<&'static str> {
        let mut used = BTreeSet::new();
        let mut must = |holds: bool, what: String| faults.extend((!holds).then_some(what));
        let (_, config) = self.config(context);
        let plain = config.unwrap_or_else(|e| panic!("{context}: {e}"));
        let Some(before) = self.outcome(&plain, "before") else {
            // The dilations of a convolution must fit the sequences.
            assert!(!context.contains("--length"), "{context} cannot be planned");
            return self.try_all(&format!("{context} --length 32"), faults);
        };
        for (name, values) in VALUES {
            if context.contains(&format!("--{name} ")) {
                continue;
            }
            // One value suffices if a context repeats what another one tests.
            let values = if SPECIAL.contains(&context) { &values[..] } else { &values[..1] };
            for value in values {
                let what = format!("{context} --{name} {value}, {:?}", self.transfer);
                let (settings, config) = self.config(&format!("{context} --{name}={value}"));
                let of = |s: &Settings| serde_json::json!(s)[name].clone();
                if of(&settings) == of(&plain.settings) || settings.find().is_err() {
                    continue;
                }
                let idle = settings.idle(name, self.transfer).unwrap();
                match (idle, config) {
                    (Some(_), config) => {
                        must(config.is_err(), format!("{what} changes nothing, and is taken"));
                        let e = config.err().unwrap_or_default();
                        // Patches and frozen parts would exist without a base, too.
                        let given = ["patch", "freeze"].contains(name);
                        let changed = self.run(settings, plain.split);
                        let after = Some(()).filter(|()| !given && changed.settings.check().is_ok());
                        if let Some(after) = after.and_then(|()| self.outcome(&changed, "after")) {
                            must(e.contains(&format!("--{name} has no effect")), format!("{what}: {e}"));
                            must(after == before, format!("{what} is refused, and changes the run"));
                        }
                    }
                    (None, Ok(changed)) => {
                        let Some(after) = self.outcome(&changed, "after") else { continue };
                        if after != before {
                            used.insert(*name);
                        } else {
                            must(may_come_to_the_same(name, value), format!("{what} is taken, and changes nothing"));
                        }
                    }
                    // Values that contradict each other.
                    (None, Err(_)) => {}
                }
            }
        }
        used
    }
}

/// Returns whether a setting may give the same bits in such a short run although it is always used.
fn may_come_to_the_same(name: &str, value: &str) -> bool {
    // The time of a checkpoint changes nothing; patience has no effect if nothing gets worse; f32 and dense updates are
    // what `auto` chooses here.
    ["checkpoint-seconds", "patience"].contains(&name)
        || [("precision", "f32"), ("table-update", "dense")].contains(&(name, value))
}

#[test]
fn a_setting_without_effect_is_refused_and_every_other_one_changes_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let from_scratch = Tried { data: &data, dir: dir.path(), transfer: None, base: None };
    let all: serde_json::Value = serde_json::json!(Settings::default());
    // `finetune` decides keep-side itself and rejects the flag.
    let names: BTreeSet<&str> =
        all.as_object().unwrap().keys().map(String::as_str).filter(|name| *name != "keep-side").collect();
    let known: BTreeSet<&str> = VALUES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "every setting has values to be tried");
    let (mut used, mut faults) = (BTreeSet::new(), Vec::new());
    // Each context has its own folder, so that they can run in parallel.
    let tried: Vec<(BTreeSet<&str>, Vec<String>)> = contexts()
        .par_iter()
        .enumerate()
        .map(|(i, context)| {
            let own = dir.path().join(i.to_string());
            fs::create_dir(&own).unwrap();
            let mut faults = Vec::new();
            (Tried { dir: &own, ..from_scratch }.try_all(context, &mut faults), faults)
        })
        .collect();
    for (more, wrong) in tried {
        used.extend(more);
        faults.extend(wrong);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let (_, config) = from_scratch.config("");
    from_scratch.outcome(&config.unwrap(), "base").unwrap();
    let base = Base::open(&dir.path().join("base"), Which::Best).unwrap();
    for transfer in [Transfer::None, Transfer::Embedding, Transfer::Model, Transfer::Patch] {
        let tried = Tried { data: &data, dir: dir.path(), transfer: Some(transfer), base: Some(&base) };
        for name in ["patch", "patches", "patch-width", "freeze"] {
            let patched = transfer == Transfer::Patch;
            let taken = patched || name == "freeze" && transfer == Transfer::Model;
            let (settings, _) = tried.config("");
            assert_eq!(settings.idle(name, tried.transfer).unwrap().is_none(), taken, "{name} {transfer}");
        }
        if transfer == Transfer::Patch {
            let of = |words: &str| tried.outcome(&tried.config(words).1.unwrap(), "patched").unwrap();
            let before = of("");
            for (name, value) in [("patch", "parallel"), ("patches", "1"), ("patch-width", "3")] {
                assert!(of(&format!("--{name} {value}")) != before, "{name}");
                used.insert(name);
            }
        }
        if transfer == Transfer::Model {
            let of = |words: &str| tried.outcome(&tried.config(words).1.unwrap(), "frozen").unwrap();
            assert!(of("--freeze network") != of(""));
            used.insert("freeze");
        }
    }
    let unused: Vec<&&str> =
        names.iter().filter(|name| !used.contains(**name) && !may_come_to_the_same(name, "")).collect();
    assert!(unused.is_empty(), "nowhere do these change a run: {unused:?}");
}

/// For settings that shape a model, the list states how far they may differ from a base, and `finetune` follows
/// it.
#[test]
fn what_shapes_a_model_cannot_differ_unseen_from_a_base() {
    let shape = |words: &str| {
        let flags = Words::try_parse_from(words.split_whitespace()).unwrap().settings;
        let mut settings = tiny();
        flags.apply(&mut settings);
        format!("{:?}", settings.model())
    };
    let list = settings::list();
    for (name, values) in VALUES {
        let listed = list.iter().find(|s| s.name == *name).expect("a setting");
        // The width and number of patches have an effect only with patches.
        let patch = if name.starts_with("patch") && *name != "patch" { "--patch serial" } else { "" };
        let shapes = values.iter().any(|value| shape(&format!("{patch} --{name}={value}")) != shape(patch));
        let said = listed.marked || listed.differs == Differs::Never;
        assert!(!shapes || said, "--{name} shapes a model: move it under \"Model\", or mark it in `settings!`");
    }
}

/// Every setting that is not marked prevents a transfer of layers if it has an effect in both runs.
#[test]
fn every_setting_of_the_layers_must_be_the_bases() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let tried = Tried { data: &data, dir: dir.path(), transfer: None, base: None };
    let mut checked = BTreeSet::new();
    let fixed: Vec<String> =
        settings::list().into_iter().filter(|s| s.differs == Differs::Never).map(|s| s.name).collect();
    for model in models::ALL {
        for task in tasks::ALL.iter().filter(|task| task.suits(model)) {
            let users = if model.users { " --user-width 4" } else { "" };
            let context = format!("--model {} --task {} --length 32{users}", model.name, task.name);
            let (base, _) = tried.config(&context);
            for (name, values) in VALUES.iter().filter(|(name, _)| fixed.iter().any(|f| f == name)) {
                let (new, _) = tried.config(&format!("{context} --{name}={}", values[0]));
                let idle = |s: &Settings| s.idle(name, None).unwrap().is_some();
                if idle(&base) || idle(&new) || serde_json::json!(base)[name] == serde_json::json!(new)[name] {
                    continue;
                }
                let facts = |s: &Settings| {
                    let split = default_split(s).unwrap_or_default();
                    DataSummary {
                        ratings: rating_scale(s, &data, split).unwrap(),
                        ..SideTables::data_summary(s, &data).unwrap()
                    }
                };
                let e = check_plans("base", (&base, &facts(&base)), (&new, &facts(&new)), Transfer::Model)
                    .expect_err(&format!("{context} --{name} {}", values[0]))
                    .to_string();
                assert!(e.contains(&format!("the base has --{name} ")), "{context}: {e}");
                checked.insert(name.to_string());
            }
        }
    }
    assert_eq!(checked, fixed.into_iter().collect(), "settings of layers that no model uses");
}

// Settings files.

#[derive(Parser)]
#[command(no_binary_name = true)]
struct TrainLine {
    #[command(flatten)]
    job: JobArgs,
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct TuneLine {
    #[command(flatten)]
    tune: finetune::Args,
}

/// The result of a command line: everything that defines a run.
#[derive(Debug, PartialEq)]
struct Made {
    config: RunConfig,
    device: Device,
    threads: Option<usize>,
}

fn quiet() -> Printer {
    Printer { quiet: true, ..Printer::default() }
}

fn made(tune: bool, words: &[String]) -> Result<Made, String> {
    if tune {
        let planned =
            finetune::plan(TuneLine::try_parse_from(words).unwrap().tune, &quiet()).map_err(|e| e.to_string())?;
        return Ok(Made { config: planned.config, device: planned.device, threads: planned.threads });
    }
    let Prepared { config, device, threads, .. } =
        prepare(TrainLine::try_parse_from(words).unwrap().job, "mipgpu train", &quiet()).map_err(|e| e.to_string())?;
    Ok(Made { config, device, threads })
}

/// Flags other than settings: two values, and the flags they require.
const FLAGS: &[(&str, [&str; 2], &str)] = &[
    ("device", ["reference", "cpu"], ""),
    ("threads", ["3", "2"], ""),
    ("split", ["last-basket", "ratio"], ""),
    ("test-n", ["2", "3"], "--split last-n"),
    ("valid-n", ["2", "3"], "--split last-n"),
    ("test-share", ["0.3", "0.2"], "--split ratio"),
    ("valid-share", ["0.3", "0.2"], "--split ratio"),
    ("cut", ["2001-09-11", "1000259200"], "--split time"),
    // Later than all training events of the base: other cuts would test on them.
    ("valid-cut", ["1000100000", "1000150000"], "--split time --cut 1000259200"),
];

/// The same for `finetune`; `BASE` stands for a folder.
const TUNING: &[(&str, [&str; 2], &str)] = &[
    ("from", ["BASE/base", "BASE/other"], ""),
    ("transfer", ["embedding", "none"], ""),
    ("last", ["true", "true"], ""),
    ("fresh-rows", ["mean", "content"], ""),
];

/// Returns the flags that a setting requires to be used.
fn context_of(name: &str, tune: bool) -> &'static str {
    match name {
        "taps" | "dilations" if !tune => "--model peterrec",
        "window" | "horizontal" | "vertical" if !tune => "--model caser",
        "taps" | "dilations" | "window" | "horizontal" | "vertical" => "",
        "targets" => "--task next-item",
        "rating-width" => "--task rating --transfer none",
        "sampler" | "negatives" | "log-q" | "exclude-seen" | "per-position" | "unique-negatives" | "table-update" => {
            "--loss sampled-softmax"
        }
        "gbce-t" => "--loss gbce",
        "field-width" => "--fields genre",
        "join" => "--user-width 4 --transfer none",
        "patch" | "patches" | "patch-width" => "--transfer patch",
        "freeze" => "--transfer model",
        // The dilations of a convolution must fit the sequences.
        "model" if tune => "--length 32 --transfer none",
        _ => "",
    }
}

fn long_flags(command: clap::Command) -> BTreeSet<String> {
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_string)).collect()
}

/// Every long flag of `train` and `finetune` works in a file as on the command line, or is rejected there with a
/// reason.
#[test]
fn every_long_flag_works_in_a_settings_file_or_is_refused_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let data = data(path);
    let tried = Tried { data: &data, dir: path, transfer: None, base: None };
    // Bases on top of which every setting can be changed.
    for (name, words) in [("base", ""), ("other", "--seed 2"), ("ratings", "--task rating")] {
        tried.outcome(&tried.config(words).1.unwrap(), name).unwrap();
    }
    let all = [
        (false, long_flags(train_command::Args::augment_args(clap::Command::new("train")))),
        (true, long_flags(finetune::Args::augment_args(clap::Command::new("finetune")))),
    ];
    let file = path.join("file.toml").display().to_string();
    for (tune, flags) in all {
        for flag in &flags {
            if COMMAND_LINE_ONLY.iter().any(|(name, _)| name == flag) {
                fs::write(&file, format!("{flag} = \"x\"\n")).unwrap();
                let e = made(
                    tune,
                    &[vec![path.join("data").display().to_string()], vec!["--config".into(), file.clone()]].concat(),
                )
                .unwrap_err();
                assert!(
                    e.contains(&format!("'{flag}' is not accepted in a settings file")) && e.contains("command line"),
                    "{e}"
                );
                continue;
            }
            if flag == "keep-side" {
                let data = path.join("data").display().to_string();
                let from = if tune { vec!["--from".into(), path.join("base").display().to_string()] } else { vec![] };
                made(tune, &[vec![data, "--keep-side=true".into()], from].concat()).unwrap_err();
                continue;
            }
            let setting = VALUES.iter().find(|(name, _)| name == flag);
            let other = FLAGS.iter().chain(TUNING).find(|(name, ..)| name == flag);
            let (values, context) = match (setting, other) {
                (Some((name, values)), _) => (*values, context_of(name, tune)),
                (_, Some((_, values, context))) => (*values, *context),
                _ => panic!("--{flag} is in no table of this test: does it work in a settings file?"),
            };
            // Settings that a run from scratch, or one from such a base, always rejects.
            let transfer = context.contains("--transfer");
            let words = |text: &str| -> Vec<String> {
                let text = text.replace("BASE", &path.display().to_string());
                text.split_whitespace().map(str::to_string).collect()
            };
            let context = if tune { context.to_string() } else { context.replace(" --transfer none", "") };
            if !tune && context.contains("--transfer") {
                continue;
            }
            let usual_transfer =
                if tune && !transfer && flag != "transfer" && setting.is_some() { "--transfer none" } else { "" };
            let from = if tune && flag != "from" { "--from BASE/base" } else { "" };
            let start = |extra: &str| words(&format!("BASE/data {from} {usual_transfer} {context} {extra}"));
            let switch = flag == "last";
            let typed = |value: &str| if switch { format!("--{flag}") } else { format!("--{flag}={value}") };
            let written = |value: &str| {
                let value = value.replace("BASE", &path.display().to_string());
                let plain = value.parse::<f64>().is_ok() || value == "true" || value == "false";
                fs::write(&file, if plain { format!("{flag} = {value}\n") } else { format!("{flag} = \"{value}\"\n") })
                    .unwrap();
            };
            let config = ["--config".to_string(), file.clone()];
            let mut taken = 0;
            for (value, other) in [(values[0], values[1]), (values[1], values[0])] {
                let Ok(by_flag) = made(tune, &start(&typed(value))) else { continue };
                taken += 1;
                written(value);
                let by_file = made(tune, &[&start("")[..], &config].concat());
                assert_eq!(by_file.as_ref(), Ok(&by_flag), "{flag} = {value}, {context}");
                // The flag overrides the file.
                if let (false, Ok(over)) = (switch, made(tune, &start(&typed(other)))) {
                    let both = made(tune, &[&start(&typed(other))[..], &config].concat());
                    assert_eq!(both, Ok(over), "{flag} = {value} and {}", typed(other));
                }
            }
            let refused_by_base =
                tune && ["taps", "dilations", "window", "horizontal", "vertical"].contains(&flag.as_str());
            let refused_by_train = !tune && ["patch", "patches", "patch-width", "freeze"].contains(&flag.as_str());
            assert!(taken > 0 || refused_by_base || refused_by_train, "--{flag} {values:?} {context} is refused");
        }
    }
}

#[test]
fn flags_of_a_split_go_over_those_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    data(path);
    let file = path.join("file.toml").display().to_string();
    let with = |text: &str, words: &str| {
        fs::write(&file, text).unwrap();
        let words = format!("{} --config {file} {words}", path.join("data").display());
        made(false, &words.split_whitespace().map(str::to_string).collect::<Vec<_>>())
            .map(|m| m.config.split.to_string())
    };
    let plain = |words: &str| {
        let words = format!("{} {words}", path.join("data").display());
        made(false, &words.split_whitespace().map(str::to_string).collect::<Vec<_>>()).unwrap().config.split.to_string()
    };
    let three = "split = \"last-n\"\ntest-n = 3\n";
    assert_eq!(with(three, "").unwrap(), plain("--split last-n --test-n 3"));
    assert_eq!(with(three, "--test-n 2").unwrap(), plain("--split last-n --test-n 2"));
    assert_eq!(with(three, "--valid-n 2").unwrap(), plain("--split last-n --test-n 3 --valid-n 2"));
    // With another kind of split, the file's settings of its own kind have no effect.
    assert_eq!(with(three, "--split ratio").unwrap(), plain("--split ratio"));
    assert!(with("test-n = 3\n", "").unwrap_err().contains("--test-n is for --split last-n"));
    assert_eq!(with("split = \"time\"\ncut = 2001-09-11\n", "").unwrap(), plain("--split time --cut 2001-09-11"));
    assert_eq!(
        with("[split]\nkind = \"ratio\"\nvalid = 0.2\ntest = 0.3\n", "").unwrap(),
        plain("--split ratio --valid-share 0.2 --test-share 0.3")
    );
}

/// The config.toml of a run makes the same run again; that of a fine-tuned run needs the same base.
#[test]
fn the_config_of_a_run_is_a_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let data = data(path);
    let tried = Tried { data: &data, dir: path, transfer: None, base: None };
    tried.outcome(&tried.config("").1.unwrap(), "base").unwrap();
    let line = |words: &str| {
        words.replace("DIR", &path.display().to_string()).split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    let keep = |name: &str, made: &Made| RunFolder::new(path.join(name)).create(&made.config, &data).unwrap();
    for (name, words) in [
        ("a", "--task next-item --loss gbce --gbce-t 0.5 --negatives 3 --lr 0.0123 --split last-n --test-n 2 --seed 9"),
        ("b", "--model caser --window 3 --user-width 4 --fields genre --dropout 0.37 --split time --cut 2001-09-11"),
        ("c", "--model dacf --split ratio --valid-share 0.15 --test-share 0.21"),
    ] {
        let first = made(false, &line(&format!("DIR/data {words}"))).unwrap();
        keep(name, &first);
        assert_eq!(made(false, &line(&format!("--config DIR/{name}/config.toml"))), Ok(first), "{name}");
    }
    for (name, words) in [
        ("d", "--transfer model --lr 0.01 --task next-item --freeze network"),
        ("e", "--transfer patch --patches 1 --fresh-rows mean --seed 3"),
        ("f", "--transfer none --width 12"),
        ("g", "--transfer embedding --last"),
    ] {
        let first = made(true, &line(&format!("DIR/data --from DIR/base {words}"))).unwrap();
        keep(name, &first);
        assert_eq!(made(true, &line(&format!("--config DIR/{name}/config.toml"))), Ok(first), "{name}");
        let e = made(false, &line(&format!("--config DIR/{name}/config.toml"))).unwrap_err();
        assert!(e.contains("fine-tuned") && e.contains("mipgpu finetune --config"), "{e}");
    }
    // A flag overrides it and is rejected if it has no effect; settings that the file repeats are not rejected.
    let twice = made(false, &line("--config DIR/a/config.toml --loss bce")).unwrap();
    assert_eq!(serde_json::json!(twice.config.settings)["loss"], "bce");
    let e = made(false, &line("--config DIR/a/config.toml --loss bce --gbce-t 0.3")).unwrap_err();
    assert!(e.contains("--gbce-t has no effect"), "{e}");
}

/// Settings of a file without an effect are rejected, unless they repeat the default or the base's value, or a flag
/// removes their effect.
#[test]
fn idle_settings_of_a_file_are_refused_unless_they_repeat_what_is_usual() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let data = data(path);
    let tried = Tried { data: &data, dir: path, transfer: None, base: None };
    tried.outcome(&tried.config("--mask 0.4").1.unwrap(), "base").unwrap();
    let file = path.join("file.toml").display().to_string();
    let with = |tune: bool, text: &str, words: &str| {
        fs::write(&file, text).unwrap();
        let from = if tune { format!("--from {}", path.join("base").display()) } else { String::new() };
        let words = format!("{} {from} --config {file} {words}", path.join("data").display());
        made(tune, &words.split_whitespace().map(str::to_string).collect::<Vec<_>>()).map(|_| ())
    };
    let no_effect = |got: Result<(), String>, name: &str| {
        let e = got.unwrap_err();
        assert!(e.contains("file.toml") && e.contains(&format!("'{name}' has no effect")) && e.contains("hint"), "{e}");
    };
    no_effect(with(false, "model = \"sasrec\"\nmask = 0.4\n", ""), "mask");
    no_effect(with(false, "loss = \"bce\"\nlog-q = false\n", ""), "log-q");
    assert_eq!(with(false, "model = \"sasrec\"\nmask = 0.2\nnegatives = 512\n", ""), Ok(()));
    // The file alone is valid: the flag removes the effect, or adds it.
    assert_eq!(with(false, "mask = 0.4\n", "--model sasrec"), Ok(()));
    assert_eq!(with(false, "window = 3\n", "--model caser"), Ok(()));
    assert_eq!(with(true, "task = \"next-item\"\nmask = 0.4\n", ""), Ok(()), "the base has it");
    no_effect(with(true, "task = \"next-item\"\nmask = 0.3\n", ""), "mask");
    let e = with(false, "transfer = \"none\"\n", "").unwrap_err();
    assert!(e.contains("'transfer' is a setting of `mipgpu finetune`"), "{e}");
    let e = with(false, "dropuot = 0.2\n", "").unwrap_err();
    assert!(e.contains("unknown setting 'dropuot'") && e.contains("did you mean 'dropout'?"), "{e}");
    let e = with(false, "loss = \"sampled-popularity\"\nsampler = \"uniform\"\n", "").unwrap_err();
    assert!(e.contains("file.toml") && e.contains("already implies a sampler"), "{e}");
}
