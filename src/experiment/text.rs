/*! The results as text for a terminal: aligned tables, at most about 150 columns wide.

A table with too many metrics is printed in blocks of equal size, so that a value and its published counterpart are
always on one line.
*/

use std::fmt::Write;

use super::{
    results::{Claim, ResultRow, Results, Table, Test},
    words,
};
use crate::data::digits;

/// Maximum width of tables.
const WIDTH: usize = 150;
/// Maximum width of paragraphs.
const PARAGRAPH: usize = 120;

/// Returns the report.
pub fn text(r: &Results) -> String {
    let mut out = String::new();
    head(&mut out, r);
    for table in &r.tables {
        table_of_rows(&mut out, table);
        table_of_tests(&mut out, table);
        table_of_slices(&mut out, table);
    }
    bases(&mut out, r);
    findings(&mut out, r);
    let failed = words::failures(r);
    if !failed.is_empty() {
        let _ = writeln!(out, "\nfailed runs: {}", failed.len());
        for (whose, why) in failed {
            paragraph(&mut out, "  ", &format!("{}: {}", clean(&whose), clean(&why)));
        }
    }
    out
}

fn head(out: &mut String, r: &Results) {
    let title = clean(if r.title.is_empty() { &r.name } else { &r.title });
    let _ = writeln!(out, "{title}\n{}", "=".repeat(width(&title)));
    for note in &r.notes {
        paragraph(out, "", &clean(note));
    }
    for (i, line) in r.data.iter().enumerate() {
        let _ = writeln!(out, "{}{}", if i == 0 { "data     " } else { "         " }, clean(line));
    }
    if !r.machine.is_empty() {
        let _ = writeln!(out, "machine  {}", clean(&r.machine));
    }
    let (done, runs) = (digits(r.done as u64), digits(r.runs as u64));
    let _ = writeln!(out, "runs     {done} of {runs} done, {} of computing", words::duration(r.seconds));
}

/// A table of cells, aligned when it is printed.
#[derive(Default)]
struct Grid {
    /// Rows of cells, and remarks, which do not affect the column widths.
    lines: Vec<Line>,
    /// Columns that are left-aligned.
    left: Vec<usize>,
    /// Columns with extra space before them.
    apart: Vec<usize>,
}

enum Line {
    Cells(Vec<String>),
    Remark(String),
}

impl Grid {
    fn push<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.lines.push(Line::Cells(cells.into_iter().map(Into::into).collect()));
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for line in &self.lines {
            let Line::Cells(cells) = line else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            widths.iter_mut().zip(cells).for_each(|(w, cell)| *w = width(cell).max(*w));
        }
        widths
    }

    fn gap(&self, column: usize) -> usize {
        if self.apart.contains(&column) { 4 } else { 2 }
    }

    fn write(&self, out: &mut String) {
        let widths = self.widths();
        for line in &self.lines {
            let mut text = String::new();
            match line {
                Line::Remark(remark) => {
                    paragraph(out, "      ", remark);
                    continue;
                }
                Line::Cells(cells) => {
                    for (i, cell) in cells.iter().enumerate() {
                        let (gap, wide) = (self.gap(i), widths[i]);
                        let _ = match self.left.contains(&i) {
                            true => write!(text, "{:gap$}{cell:<wide$}", ""),
                            false => write!(text, "{:gap$}{cell:>wide$}", ""),
                        };
                    }
                }
            }
            let _ = writeln!(out, "{}", text.trim_end());
        }
    }
}

fn table_of_rows(out: &mut String, table: &Table) {
    let _ = writeln!(out, "\n{}", clean(&table.title));
    if !table.protocol.is_empty() {
        paragraph(out, "  ", &clean(&table.protocol));
    }
    let percent = if table.scale == 100.0 { "in percent, " } else { "" };
    let beside = match &table.published {
        Some(source) => format!("; paper: {}", clean(source)),
        None => String::new(),
    };
    let meaning = "mean over users and seeds ± half of its 95 % interval";
    let meaning = format!("{meaning}, {}", words::drawn(table.rows.iter().map(|row| &row.seeds)));
    paragraph(out, "  ", &format!("{percent}{}; {meaning}{beside}", words::direction(table.lower)));
    // As many metrics per block as fit; blocks have equal sizes, so that none has a single metric.
    let all = table.metrics.len();
    let blocks = (1..=all.max(1)).find(|n| fits(table, all.div_ceil(*n))).unwrap_or(all.max(1));
    let each = all.div_ceil(blocks).max(1);
    let starts: Vec<usize> = if all == 0 { vec![0] } else { (0..all).step_by(each).collect() };
    for start in starts {
        out.push('\n');
        block(table, start..(start + each).min(all), start == 0).write(out);
    }
}

fn fits(table: &Table, each: usize) -> bool {
    let starts = (0..table.metrics.len()).step_by(each.max(1));
    starts.map(|start| block(table, start..(start + each).min(table.metrics.len()), false)).all(|grid| {
        let widths = grid.widths();
        widths.iter().enumerate().map(|(i, w)| grid.gap(i) + w).sum::<usize>() <= WIDTH
    })
}

/// Prints some metrics of a table: labels, seeds, our and the paper's values. `told`: whether to explain missing values
/// here.
fn block(table: &Table, metrics: std::ops::Range<usize>, told: bool) -> Grid {
    let names: Vec<String> = table.metrics[metrics.clone()].iter().map(|m| clean(m)).collect();
    let paper = table.published.is_some();
    // The number of label columns is the maximum over all rows and does not depend on the headings.
    let labels = table.rows.iter().map(|row| labels_of(row).len()).max().unwrap_or(0).max(table.columns.len());
    let mut grid = Grid { left: (0..labels).collect(), apart: vec![labels + 1], ..Grid::default() };
    if paper {
        grid.apart.push(labels + 1 + names.len());
        let mut over = vec![String::new(); labels + 1];
        over.extend(names.iter().enumerate().map(|(i, _)| if i == 0 { "ours".into() } else { String::new() }));
        over.extend(names.iter().enumerate().map(|(i, _)| if i == 0 { "paper".into() } else { String::new() }));
        grid.push(over);
    }
    let mut head: Vec<String> = table.columns.iter().map(|c| clean(c)).collect();
    head.resize(labels, String::new());
    head.push("seeds".into());
    head.extend(names.iter().cloned());
    if paper {
        head.extend(names);
    }
    grid.push(head);
    for row in &table.rows {
        let mut cells = labels_of(row);
        cells.resize(labels, String::new());
        let (done, of) = words::done(&row.seeds);
        cells.push(format!("{done}/{of}"));
        for (i, m) in metrics.clone().enumerate() {
            cells.push(match (row.mean.get(m), row.interval.get(m)) {
                (Some(mean), Some(interval)) => {
                    format!("{} {}", words::number(*mean, table.scale), words::half(*interval, table.scale))
                }
                (Some(mean), None) => words::number(*mean, table.scale),
                // The reason for a missing value is printed once, under the first metric.
                (None, _) if i == 0 => words::standing(&row.seeds).into(),
                (None, _) => words::NOTHING.into(),
            });
        }
        if paper {
            let published = |m| {
                row.published.get(m).map_or(words::NOTHING.into(), |x: &f64| words::plain(*x, words::printed(table)))
            };
            cells.extend(metrics.clone().map(published));
        }
        grid.push(cells);
        for (what, why) in words::undone(&row.seeds) {
            // The number of finished seeds shows that seeds are waiting.
            if told && !why.is_empty() {
                grid.lines.push(Line::Remark(format!("{what}: {}", clean(&why))));
            }
        }
    }
    grid
}

fn labels_of(row: &ResultRow) -> Vec<String> {
    words::labels(row).iter().map(|label| clean(label)).collect()
}

/// The columns of every table of tests after the names.
const TEST: [&str; 8] = ["users", "difference", "95 % interval", "t", "p (Holm)", "effect", "seeds", "result"];

fn test_cells(test: &Test, scale: f64, lower: bool) -> [String; 8] {
    let r = &test.result;
    [
        digits(r.n as u64),
        words::signed(r.difference, scale),
        words::interval(r.interval, scale),
        words::ratio(r.t),
        words::chance(test.p_holm),
        words::ratio(r.effect),
        words::agreement(test),
        words::Mark::of(test, lower).words().into(),
    ]
}

/// Prints the tests of rows against the rows that they are compared with, on the first metric.
fn table_of_tests(out: &mut String, table: &Table) {
    let Some(metric) = table.metrics.first() else { return };
    let mut grid = Grid { left: vec![0, 1, 9], ..Grid::default() };
    grid.push(["row", "against"].into_iter().chain(TEST));
    for row in &table.rows {
        let Some(against) = &row.against else { continue };
        let names = [words::row_name(row), words::name_in(table, &against.row)].map(|name| clean(&name));
        match against.tests.first() {
            Some(test) => grid.push(names.into_iter().chain(test_cells(test, table.scale, table.lower))),
            None => grid.push(names.into_iter().chain(["open".to_string()])),
        }
    }
    if grid.lines.len() > 1 {
        let _ = writeln!(out, "\n  {}, row minus the row it is compared with, paired by user", clean(metric));
        grid.write(out);
        table.caution.iter().for_each(|caution| paragraph(out, "  ", &clean(caution)));
    }
}

/// Prints the first metric by the number of training events of a user.
fn table_of_slices(out: &mut String, table: &Table) {
    let Some(metric) = table.metrics.first() else { return };
    if table.slices.is_empty() || table.rows.iter().all(|row| row.slices.is_empty()) {
        return;
    }
    let labels = table.rows.iter().map(|row| labels_of(row).len()).max().unwrap_or(0).max(table.columns.len());
    let mut grid = Grid { left: (0..labels).collect(), apart: vec![labels], ..Grid::default() };
    let mut heads: Vec<String> = table.columns.iter().map(|c| clean(c)).collect();
    heads.resize(labels, String::new());
    grid.push(heads.into_iter().chain(table.slices.iter().map(|s| clean(&s.name))));
    let users = table.slices.iter().map(|s| format!("{} users", digits(s.users as u64)));
    grid.push(vec![String::new(); labels].into_iter().chain(users));
    for row in &table.rows {
        let mut cells = labels_of(row);
        cells.resize(labels, String::new());
        for i in 0..table.slices.len() {
            cells.push(match row.slices.get(i) {
                Some(Some(e)) => {
                    format!("{} {}", words::number(e.mean, table.scale), words::half(e.interval, table.scale))
                }
                _ => words::NOTHING.into(),
            });
        }
        grid.push(cells);
    }
    let _ = writeln!(out, "\n  {} by number of training events of a user", clean(metric));
    grid.write(out);
    let tested =
        |row: &&ResultRow| row.against.as_ref().is_some_and(|against| against.slices.iter().any(Option::is_some));
    let rows: Vec<&ResultRow> = table.rows.iter().filter(tested).collect();
    if rows.is_empty() {
        return;
    }
    let mut grid = Grid { left: vec![0, 1], ..Grid::default() };
    let heads = ["row", "against"].map(String::from).into_iter().chain(table.slices.iter().map(|s| clean(&s.name)));
    grid.push(heads);
    for row in rows {
        let Some(against) = &row.against else { continue };
        let names = [words::row_name(row), words::name_in(table, &against.row)].map(|name| clean(&name));
        let cell = |test: &Option<Test>| match test {
            None => words::NOTHING.to_string(),
            Some(test) => {
                let (difference, half) = (test.result.difference, words::half(test.result.interval, table.scale));
                let sure = matches!(words::Mark::of(test, table.lower), words::Mark::Sure { .. });
                format!("{} {half}{}", words::signed(difference, table.scale), if sure { "*" } else { " " })
            }
        };
        grid.push(names.into_iter().chain(against.slices.iter().map(cell)));
    }
    out.push('\n');
    let about = "row minus the row it is compared with, by number of training events of a user; * p < 0.05, corrected \
                 over the rows, with the same sign on every seed";
    paragraph(out, "  ", &format!("{}, {about}", clean(metric)));
    grid.write(out);
}

fn bases(out: &mut String, r: &Results) {
    if r.bases.is_empty() {
        return;
    }
    let mut grid = Grid { left: vec![0, 2], ..Grid::default() };
    grid.push(["name", "seeds", "validation", "best"]);
    for base in &r.bases {
        let (done, of) = words::done(&base.seeds);
        let best = words::best_of(base).map_or(words::NOTHING.into(), |x| words::plain(x, 4));
        grid.push([clean(&base.name), format!("{done}/{of}"), clean(&base.measure), best]);
        for (what, why) in words::undone(&base.seeds) {
            let colon = if why.is_empty() { "" } else { ": " };
            grid.lines.push(Line::Remark(format!("{what}{colon}{}", clean(&why))));
        }
    }
    let _ = writeln!(out, "\nruns that rows start from");
    grid.write(out);
}

fn findings(out: &mut String, r: &Results) {
    if r.findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nfindings");
    paragraph(
        out,
        "  ",
        "a difference counts at p < 0.05, corrected for all claims (Holm), if it has the same sign on every seed",
    );
    r.tables
        .iter()
        .find_map(|t| t.caution.as_ref())
        .into_iter()
        .for_each(|caution| paragraph(out, "  ", &clean(caution)));
    for (i, finding) in r.findings.iter().enumerate() {
        out.push('\n');
        paragraph(
            out,
            &format!("  {}. ", i + 1),
            &format!("{}: {}", clean(&finding.says).trim_end_matches('.'), words::verdict(finding.verdict)),
        );
        if finding.claims.is_empty() {
            continue;
        }
        let mut grid = Grid { left: vec![0, 1, 2, 9, 10], ..Grid::default() };
        let heads =
            ["  claim", "metric", "expected"].into_iter().chain(TEST.into_iter().skip(1).take(6)).chain(["found"]);
        grid.push(heads.map(|head| head.to_string()));
        finding.claims.iter().for_each(|claim| grid.push(claim_cells(claim)));
        grid.write(out);
    }
}

fn claim_cells(claim: &Claim) -> Vec<String> {
    let less = if claim.lower { " (lower is better)" } else { "" };
    let mut cells = vec![
        format!("  {}", clean(&claim.what)),
        format!("{}{less}", clean(&claim.metric)),
        words::expectation(claim.expect).to_string(),
    ];
    match &claim.test {
        Some(test) => cells.extend(test_cells(test, claim.scale, claim.lower).into_iter().skip(1).take(6)),
        None => cells.extend((0..6).map(|_| words::NOTHING.to_string())),
    }
    cells.push(match claim.holds() {
        Some(true) => format!("{}, as expected", words::outcome(claim.outcome)),
        Some(false) => format!("{}, not as expected", words::outcome(claim.outcome)),
        None => words::outcome(None).into(),
    });
    cells
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Returns one line without control characters. Errors may contain line ends and colours.
fn clean(text: &str) -> String {
    let one = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(one).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints wrapped text. The first line begins with `first`, the others have the same indentation.
fn paragraph(out: &mut String, first: &str, text: &str) {
    let indent = width(first);
    let mut line = first.to_string();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && width(&line) + 1 + width(word) > PARAGRAPH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    /// Returns the line that contains all of the given texts.
    fn line_with<'a>(text: &'a str, parts: &[&str]) -> &'a str {
        let found = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no line with {parts:?} in\n{text}"))
    }

    #[test]
    fn the_report_says_every_number_label_and_reason() {
        let text = text(&sample::results());
        assert!(text.starts_with("Does it help? </script>"));
        line_with(&text, &["data     src: 6,040 users"]);
        line_with(&text, &["machine  two cores"]);
        line_with(&text, &["runs     7 of 13 done, 3 h 05 min of computing"]);
        // Rows: means times a hundred, half intervals, seeds, the paper's with as many decimals as it has.
        line_with(&text, &["seeds", "NDCG@3", "Recall@10"]);
        line_with(&text, &["BERT4Rec", "none", "3/3", "42.34 ±0.61", "77.87 ±0.87", "42.34", "77.90"]);
        let tuned = line_with(&text, &["BERT4Rec", sample::NASTY, "2/3", "45.12 ±0.62", "80.64 ±0.64"]);
        assert!(tuned.ends_with('-'), "nothing is published of the second metric: {tuned}");
        line_with(&text, &["seed 3 failed: out of memory: <16 GiB> asked for 17"]);
        line_with(&text, &["Caser", "none", "0/2", "waiting"]);
        line_with(&text, &["Caser", "model", "0/1", "stale"]);
        line_with(&text, &["seed 1 stale: width: 64 was 32"]);
        // Tests of the first metric.
        let parts = ["BERT4Rec, none", "6,040", "+2.78", "[+2.01, +3.55]", "7.08", "<0.0001", "0.09", "2/2", "better"];
        line_with(&text, &parts);
        line_with(&text, &["DACF, transfer", "-0.0177", "[-0.0200, -0.0150]", "0.0010", "1/1", "better"]);
        // Slices.
        line_with(&text, &["1 event", "2-3 events"]);
        line_with(&text, &["1,234 users", "56 users"]);
        line_with(&text, &["BERT4Rec", "35.00 ±1.00", "50.00 ±1.00"]);
        assert!(line_with(&text, &["BERT4Rec", "30.00 ±1.00"]).ends_with('-'));
        line_with(&text, &["RMSE"]);
        line_with(&text, &["DACF", "1/1", "0.9877 ±0.0100"]);
        // Bases and findings.
        line_with(&text, &["mip base", "1/2", "NDCG@10", "0.2100"]);
        line_with(&text, &["1. Pre-training helps: confirmed in part"]);
        line_with(&text, &["2. Errors fall: confirmed"]);
        line_with(&text, &["3. MIP is not better: not confirmed"]);
        line_with(&text, &["4. Embeddings for Caser: open: rows are missing"]);
        line_with(&text, &["tuned over plain", "NDCG@3", "better", "+2.78", "<0.0001", "2/2", "better, as expected"]);
        line_with(&text, &["MIP over NIP", "not better", "better, not as expected"]);
        line_with(&text, &["DACF", "RMSE (lower is better)", "-0.0177", "better, as expected"]);
        line_with(&text, &["Caser: embeddings", "open: rows are missing"]);
        // Errors are repeated at the end.
        line_with(&text, &["failed runs: 2"]);
        line_with(&text, &["mip base, seed 2: no such file"]);
        assert!(!sample::says_nan(&text));
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = text(&sample::results());
        let head = line_with(&text, &["model", "transfer", "NDCG@3"]);
        let row = line_with(&text, &["BERT4Rec", "none", "3/3"]);
        let column = |line: &str, part: &str| line[..line.find(part).unwrap() + part.len()].chars().count();
        assert_eq!(column(head, "seeds"), column(row, "3/3"));
        assert_eq!(column(head, "Recall@10"), column(row, "77.87 ±0.87"));
        assert_eq!(head.chars().count(), row.chars().count());
    }

    #[test]
    fn many_metrics_are_laid_out_in_blocks_that_fit() {
        let mut r = sample::results();
        let table = &mut r.tables[0];
        table.metrics = ["NDCG@3", "NDCG@5", "NDCG@10", "Recall@3", "Recall@5", "Recall@10"].map(String::from).into();
        for row in table.rows.iter_mut().take(2) {
            row.mean = vec![0.5; 6];
            row.interval = vec![Some([0.49, 0.51]); 6];
            row.labels = ["BERT4Rec", "embedding", "MIP", "yes"].map(String::from).into();
        }
        let text = text(&r);
        assert!(text.lines().all(|line| width(line) <= WIDTH), "{text}");
        // Two blocks of three metrics: headings twice, the reason once.
        assert_eq!(text.lines().filter(|l| l.contains("NDCG@3") && l.contains("NDCG@10")).count(), 1);
        assert_eq!(text.lines().filter(|l| l.contains("Recall@3") && l.contains("Recall@10")).count(), 1);
        assert_eq!(text.lines().filter(|l| l.trim_start().starts_with("seed 3 failed")).count(), 1);
    }

    #[test]
    fn nothing_done_and_crooked_results_are_shown_all_the_same() {
        let empty = text(&sample::nothing());
        line_with(&empty, &["runs     0 of 13 done, 0.0 s"]);
        line_with(&empty, &["BERT4Rec", "none", "0/3", "waiting"]);
        // The sign occurs only in the line of each table that explains it.
        assert_eq!(empty.matches('±').count(), 2, "{empty}");
        assert!(!empty.contains("failed") && !empty.contains("stale"), "{empty}");
        let crooked = text(&sample::crooked());
        assert!(!sample::says_nan(&crooked), "{crooked}");
        assert!(
            crooked.lines().any(|line| line.trim_start().starts_with("plain")),
            "a row without labels has its name"
        );
        assert_eq!(text(&Results::default()).lines().last(), Some("runs     0 of 0 done, 0.0 s of computing"));
    }
}
