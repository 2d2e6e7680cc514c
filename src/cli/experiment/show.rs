//! Output of an experiment: estimates and the list of runs before it starts, results from the files of its runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

use serde_json::json;

use super::{
    Args,
    plan::{Plan, Spec},
};
use crate::{
    backend::{self, Device},
    base::{
        Error, Result,
        error::{IoContext, typed},
    },
    cli::{evaluate::escape, printer::Printer},
    data::{
        Dataset, digits,
        split::{HeldOut, Split},
    },
    experiment::{
        collect::{Answered, Answers, correct, fill, outcome, read_curve, read_lists, read_ratings, verdict},
        grid::{Grid, TableSpec},
        jobs::seconds_in_all,
        metric::Metric,
        record::record_of,
        results::{Base, Claim, Finding, ResultRow, Results, RunState, Seed, Slice, Table, Test},
        words::{self, duration},
    },
    train::estimate::{Estimate, bytes, estimate as estimate_run},
};

/// Times a few steps of each kind of run to estimate the time of each job.
pub fn estimate(plan: &mut Plan, args: &Args, states: &[RunState], printer: &Printer) {
    let mut known: HashMap<String, f64> = HashMap::new();
    if !states.contains(&RunState::Waiting) {
        return;
    }
    printer.say("timing a few steps of each kind of run ...");
    for i in 0..plan.specs.len() {
        let jobs: Vec<usize> = (0..plan.seeds.len()).map(|k| plan.job(i, k)).collect();
        if jobs.iter().all(|job| states[*job] != RunState::Waiting) {
            continue;
        }
        let spec = &plan.specs[i];
        let Some(data) = plan.data[&spec.data].there() else { continue };
        // Runs that differ only in their seed or name are timed once.
        let kind = format!("{} {:?} {:?}", spec.data, spec.split, spec.config.settings);
        let seconds = *known.entry(kind).or_insert_with(|| {
            let timed = Split::new(data, spec.split)
                .and_then(|split| estimate_run(&spec.config, (data, &split), args.device, args.threads, GLANCE));
            timed.map_or(0.0, |Estimate { seconds, .. }| seconds)
        });
        jobs.into_iter().for_each(|job| plan.jobs[job].seconds = seconds);
    }
}

/// Time spent on each kind of run.
const GLANCE: Duration = Duration::from_millis(400);

/// Returns the number of parallel runs that cores and memory allow.
pub fn at_once(plan: &Plan, args: &Args) -> usize {
    if let Some(n) = args.jobs {
        return n;
    }
    if let (Device::Cuda(_), _) = backend::choose(args.device) {
        // Runs share the device, which small models leave idle between kernels.
        return 4;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let largest =
        plan.specs.iter().filter_map(|s| bytes(&s.config, plan.data[&s.data].there()?).ok()).max().unwrap_or(0);
    let room = free_memory().map_or(usize::MAX, |free| (free / 10 * 8 / (largest + PROCESS)) as usize);
    (cores / args.threads).min(room).max(1)
}

/// Memory of a process in addition to its plan, in bytes.
const PROCESS: u64 = 100 << 20;

/// Returns the bytes of available memory, if the system provides the number.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Prints the plan before the runs start.
pub fn introduce(grid: &Grid, plan: &Plan, states: &[RunState], at_once: usize, args: &Args, printer: &Printer) {
    let waiting: Vec<usize> = (0..states.len()).filter(|job| states[*job] == RunState::Waiting).collect();
    printer.say(format_args!("{}", grid.title));
    for (name, opened) in &plan.data {
        printer.say(format_args!("data    {}", data_line(name, opened.data())));
    }
    let done = states.iter().filter(|s| **s == RunState::Done).count();
    let total: f64 = left(plan, states, at_once);
    printer.say(format_args!(
        "runs    {} in total, {} done, {} to go, {at_once} at a time with {} thread{}: about {}",
        states.len(),
        done,
        waiting.len(),
        args.threads,
        if args.threads == 1 { "" } else { "s" },
        duration(total)
    ));
    printer.say(format_args!("folder  {}\n", plan.out.display()));
}

/// Returns the estimated seconds of all waiting jobs.
fn left(plan: &Plan, states: &[RunState], at_once: usize) -> f64 {
    let jobs: Vec<_> = plan
        .jobs
        .iter()
        .zip(states)
        .map(|(job, state)| {
            let mut job = job.clone();
            job.seconds = if *state == RunState::Waiting { job.seconds } else { 0.0 };
            job
        })
        .collect();
    seconds_in_all(&jobs, at_once)
}

fn data_line(name: &str, data: &Dataset) -> String {
    let mut line = format!(
        "{name}: {} users, {} items, {} interactions",
        digits(data.users() as u64),
        digits(data.items() as u64),
        digits(data.interactions())
    );
    for field in data.item_fields().iter() {
        let with = (0..data.items()).filter(|item| !field.ids_of(*item).is_empty()).count();
        line += &format!("; {} on {:.1} % of the items", field.name(), 100.0 * with as f64 / data.items() as f64);
    }
    line
}

/// Prints all runs as commands with their estimated time. `places` is a folder in the commands and its replacement.
pub fn list(plan: &Plan, states: &[RunState], args: &Args, places: (&Path, &Path), printer: &Printer) {
    let (from, to) = (places.0.display().to_string(), places.1.display().to_string());
    let command = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|w| typed(w.replace(&from, &to))).collect();
        format!("mipgpu {}", words.join(" "))
    };
    let at_once = at_once(plan, args);
    let total = left(plan, states, at_once);
    let missing: Vec<bool> = (0..plan.jobs.len()).map(|job| !plan.has_data(job)).collect();
    for (i, (job, state)) in plan.jobs.iter().zip(states).enumerate() {
        if printer.json {
            let then: Vec<String> = job.then.iter().map(|words| command(words)).collect();
            printer.event(&json!({
                "event": "run", "run": job.name, "key": job.key, "state": state,
                "seconds": (!missing[i]).then_some(job.seconds), "command": command(&job.train),
                "then": then,
            }));
            continue;
        }
        let what = match state {
            _ if missing[i] => "its data set is not available yet".into(),
            RunState::Waiting => format!("about {}", duration(job.seconds)),
            RunState::Done => "done".into(),
            RunState::Failed(why) => format!("failed: {}", why.lines().next().unwrap_or("")),
            RunState::Stale(what) => format!("of an earlier grid: {what}"),
        };
        printer.result(format_args!("{}  ({what})\n  {}", job.name, command(&job.train)));
        job.then.iter().for_each(|words| printer.result(format_args!("  {}", command(words))));
    }
    let waiting = states.iter().filter(|s| **s == RunState::Waiting).count();
    let stale = states.iter().filter(|s| matches!(s, RunState::Stale(_))).count();
    let anew = if stale > 0 { format!(", {stale} of an earlier grid (--redo-stale)") } else { String::new() };
    let unknown = match missing.iter().filter(|missing| **missing).count() {
        0 => String::new(),
        n => format!(", without {n} runs that lack their data set"),
    };
    if printer.json {
        printer.event(&json!({
            "event": "dry-run", "without_data": missing.iter().filter(|m| **m).count(), "runs": states.len(),
            "to_go": waiting, "stale": stale, "at_once": at_once, "seconds": total,
        }));
    } else {
        printer.result(format_args!(
            "\n{} runs, {waiting} to go{anew}, {at_once} at a time with {} thread(s) each: about {}{unknown}",
            states.len(),
            args.threads,
            duration(total)
        ));
    }
}

/// Computes the results of all finished runs.
///
/// # Errors
/// A data set cannot be split as the grid requires.
pub fn results(grid: &Grid, plan: &Plan, mut states: Vec<RunState>) -> Result<Results> {
    let mut read: HashMap<usize, Answers> = HashMap::new();
    for (job, answers) in all_answers(grid, plan, &states)? {
        match answers {
            Ok(answers) => drop(read.insert(job, answers)),
            Err(e) => states[job] = RunState::Failed(format!("{e}; the next start evaluates it again")),
        }
    }
    let states = &states;
    let mut results = Results {
        name: grid.name.clone(),
        title: grid.title.clone(),
        notes: grid.notes.clone(),
        data: plan.data.iter().map(|(name, opened)| data_line(name, opened.data())).collect(),
        done: states.iter().filter(|s| **s == RunState::Done).count(),
        runs: states.len(),
        ..Results::default()
    };
    let records: Vec<_> = plan.jobs.iter().filter_map(|job| record_of(job).ok().flatten()).collect();
    results.seconds = records.iter().map(|r| r.seconds).sum();
    let mut warnings: BTreeMap<&String, usize> = BTreeMap::new();
    records.iter().flat_map(|r| &r.warnings).for_each(|warning| *warnings.entry(warning).or_default() += 1);
    results.notes.extend(warnings.into_iter().map(|(warning, n)| format!("Warning in {n} runs: {warning}")));
    let machines: BTreeSet<String> = records.into_iter().map(|r| r.machine).filter(|m| !m.is_empty()).collect();
    results.machine = machines.into_iter().collect::<Vec<_>>().join("; ");
    for (i, spec) in plan.specs.iter().enumerate().filter(|(_, spec)| spec.row.is_none()) {
        let measure = if spec.config.ratings.is_some() { "RMSE" } else { "NDCG@10" };
        let seeds = seeds(plan, states, i)?;
        results.bases.push(Base { name: spec.name.clone(), measure: measure.into(), seeds });
    }
    let mut answered = Vec::new();
    for (t, table) in grid.tables.iter().enumerate() {
        let (shown, answers) = table_of(plan, states, (t, table), &mut read)?;
        results.tables.push(shown);
        answered.push(answers);
    }
    results.findings = findings(grid, plan, &results.tables, &answered)?;
    Ok(results)
}

/// Reads the results of each user for all rows that are done, by job.
fn all_answers(grid: &Grid, plan: &Plan, states: &[RunState]) -> Result<Vec<(usize, Result<Answers>)>> {
    let mut all = Vec::new();
    for (t, table) in grid.tables.iter().enumerate() {
        let metrics = table.metrics.iter().map(|m| Metric::parse(m)).collect::<Result<Vec<_>>>()?;
        let split = Split::new(plan.data[&table.data].data(), table.split)?;
        let asked = |user: &u32| !table.without_validation || split.train().len_of(*user as usize) > 0;
        let users = split.test().users().iter().filter(|user| asked(user)).count();
        let of_table = |spec: &&Spec| spec.row.is_some_and(|(of, _)| of == t);
        for (i, _) in plan.specs.iter().enumerate().filter(|(_, spec)| of_table(spec)) {
            for job in (0..plan.seeds.len()).map(|k| plan.job(i, k)).filter(|job| states[*job] == RunState::Done) {
                let Some(path) = plan.answers(job) else { continue };
                let read = match table.of_ratings() {
                    true => read_ratings(path, &metrics),
                    false => read_lists(path, &metrics, table.negatives),
                };
                let whole = |answers: Answers| match answers.users.len() == users {
                    true => Ok(answers),
                    false => Err(Error::user(format!(
                        "{}: results of {} users, but the test has {users}",
                        path.display(),
                        answers.users.len()
                    ))),
                };
                all.push((job, read.and_then(whole)));
            }
        }
    }
    Ok(all)
}

/// Removes incomplete files of results, so that they are computed again.
///
/// # Errors
/// A file cannot be removed.
pub fn drop_damaged(grid: &Grid, plan: &Plan, states: &mut [RunState], printer: &Printer) -> Result<()> {
    for (job, answers) in all_answers(grid, plan, states)? {
        let (Err(e), Some(path)) = (answers, plan.answers(job)) else { continue };
        printer.warn(format_args!("{}; it is evaluated again", e.what));
        std::fs::remove_file(path).at_path(path)?;
        states[job] = RunState::Waiting;
    }
    Ok(())
}

fn table_of(
    plan: &Plan,
    states: &[RunState],
    (t, table): (usize, &TableSpec),
    read: &mut HashMap<usize, Answers>,
) -> Result<(Table, Answered)> {
    let metrics = table.metrics.iter().map(|m| Metric::parse(m)).collect::<Result<Vec<_>>>()?;
    let rated = table.of_ratings();
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for (i, spec) in plan.specs.iter().enumerate() {
        let Some((_, r)) = spec.row.filter(|(of, _)| *of == t) else { continue };
        let row = &table.rows[r];
        for (k, seed) in plan.seeds.iter().enumerate() {
            let job = plan.job(i, k);
            runs.extend(read.remove(&job).map(|answers| ((r, *seed), answers)));
        }
        let (labels, published) = (row.labels.clone(), row.published.clone());
        rows.push(ResultRow {
            name: row.name.clone(),
            labels,
            published,
            seeds: seeds(plan, states, i)?,
            ..ResultRow::default()
        });
    }
    let place = |name: &String| table.rows.iter().position(|row| row.name == *name);
    let against: Vec<Option<usize>> = table.rows.iter().map(|row| row.against.as_ref().and_then(place)).collect();
    let data = plan.data[&table.data].data();
    let split = Split::new(data, table.split)?;
    let answered = Answered::new(metrics, runs);
    let lengths: HashMap<String, usize> = split
        .test()
        .users()
        .into_iter()
        .map(|u| (escape(data.user_keys().key(u as usize)), split.train().len_of(u as usize)))
        .collect();
    let trained = |user: &str| lengths.get(user).copied().unwrap_or(0);
    let slices = answered.slices(&trained);
    fill(&mut rows, &against, &answered, &plan.seeds, &slices);
    let among = match (rated, table.negatives) {
        (true, _) => "every held-out rating".to_string(),
        (false, 0) => "ranked among all items that the user has not had".into(),
        (false, n) => {
            format!("ranked among the user's held-out items and {n} items that the user never had, drawn uniformly")
        }
    };
    let history = if table.without_validation { "; predicted from the training events only" } else { "" };
    let shown = Table {
        name: table.name.clone(),
        title: table.title.clone(),
        published: table.published.clone(),
        columns: table.columns.clone(),
        metrics: table.metrics.clone(),
        lower: rated,
        scale: if table.percent { 100.0 } else { 1.0 },
        protocol: format!(
            "{}: {}; {among}{history}; {} users",
            table.data,
            table.split.words(data.ticks_per_second()),
            digits(answered.users.len() as u64)
        ),
        caution: words::caution(rows.iter().map(|row| &row.seeds)).map(str::to_string),
        rows,
        slices: slices.iter().map(|(name, users)| Slice { name: name.clone(), users: users.len() }).collect(),
    };
    Ok((shown, answered))
}

/// Returns all seeds of a spec, with learning curve, best epoch and seconds of their runs.
fn seeds(plan: &Plan, states: &[RunState], spec: usize) -> Result<Vec<Seed>> {
    let of = |(k, seed): (usize, &u64)| {
        let job = plan.job(spec, k);
        let (curve, best) = read_curve(&plan.jobs[job].run()).unwrap_or_default();
        let seconds = record_of(&plan.jobs[job]).ok().flatten().map_or(0.0, |r| r.seconds);
        Ok(Seed { seed: *seed, state: states[job].clone(), metrics: Vec::new(), curve, best, seconds })
    };
    plan.seeds.iter().enumerate().map(of).collect()
}

fn findings(grid: &Grid, plan: &Plan, tables: &[Table], answered: &[Answered]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for finding in &grid.findings {
        let mut claims = Vec::new();
        for claim in &finding.claims {
            let name = &grid.table_of(claim)?.name;
            let t = grid.tables.iter().position(|table| table.name == *name).unwrap_or(0);
            let table = &grid.tables[t];
            let rows = |names: &[String]| -> Vec<usize> {
                names.iter().filter_map(|name| table.rows.iter().position(|row| row.name == *name)).collect()
            };
            let wanted = claim.metric.as_ref().unwrap_or(&table.metrics[0]);
            let metric = table.metrics.iter().position(|m| m == wanted).unwrap_or(0);
            claims.push(Claim {
                what: claim.what.clone(),
                metric: wanted.clone(),
                scale: tables[t].scale,
                lower: tables[t].lower,
                expect: claim.expect,
                test: answered[t].test((&rows(&claim.than), &rows(&claim.better)), &plan.seeds, metric, None),
                outcome: None,
            });
        }
        findings.push(Finding { says: finding.says.clone(), claims, ..Finding::default() });
    }
    correct(findings.iter_mut().flat_map(|f| &mut f.claims).filter_map(|c| c.test.as_mut()).collect());
    for finding in &mut findings {
        for claim in &mut finding.claims {
            // Only after all seeds are done.
            let whole = |test: &&Test| test.by_seed.len() == plan.seeds.len();
            claim.outcome = claim.test.as_ref().filter(whole).map(|test| outcome(test, claim.lower));
        }
        finding.verdict = verdict(&finding.claims);
    }
    Ok(findings)
}
