//! The section of a table in the HTML page: rows with published numbers, plots, slices, tests and seeds.

use std::fmt::Write;

use super::{
    figures,
    reason::reason,
    results::{ResultRow, RunState, Table, Test},
    words::{self, Mark},
};
use crate::{
    data::digits,
    page::{capital, figure, number, plot::escape},
};

/// Writes the section of a table, the `t`-th of the page.
pub(super) fn section(out: &mut String, table: &Table, t: usize) {
    let _ = writeln!(out, "<section id=\"t{t}\">\n<h2>{}</h2>", escape(&table.title));
    if !table.protocol.is_empty() {
        let _ = writeln!(out, "<p class=\"meaning\">{}.</p>", escape(&capital(table.protocol.trim_end_matches('.'))));
    }
    let percent = if table.scale == 100.0 { "in percent, " } else { "" };
    let paper = match &table.published {
        Some(source) => format!(" “Paper”: {}.", escape(source)),
        None => String::new(),
    };
    let _ = writeln!(
        out,
        "<p class=\"meaning\">{}. Numbers are means over users and seeds ± half of the 95 % interval; {}.{paper}</p>",
        capital(&format!("{percent}{}", words::direction(table.lower))),
        words::drawn(table.rows.iter().map(|row| &row.seeds))
    );
    rows(out, table, t);
    if table.rows.iter().any(|row| row.against.is_some()) {
        out.push_str(
            "<p class=\"legend\">Marks compare a row with the row under “vs”, paired by user: \
             <span class=\"up\">▲</span> better, <span class=\"down\">▼</span> worse, at p &lt; 0.05 (t-test of the \
             users’ differences, Holm’s correction over the rows of the table) and on every seed; \
             <span class=\"up\">△</span> <span class=\"down\">▽</span> the same, but not on every seed; no mark: no \
             significant difference.</p>\n",
        );
        if let Some(caution) = &table.caution {
            let _ = writeln!(out, "<p class=\"legend\">{}</p>", escape(caution));
        }
    }
    if let (Some(svg), Some(metric)) = (figures::bars(table), table.metrics.first()) {
        figure(out, &format!("{} of each row, with its 95 % interval.", escape(metric)), &[svg]);
    }
    slices(out, table);
    let curves = figures::curves(table);
    if !curves.is_empty() {
        out.push_str("<h3>Learning curves</h3>\n");
        figure(
            out,
            "Validation after each epoch: thin lines for each seed, thick lines for their mean over the common epochs.",
            &curves,
        );
    }
    tests(out, table, t);
    seeds(out, table);
    out.push_str("</section>\n");
}

/// Headings and positions of the label columns, which stay in place when the table is scrolled sideways. The first
/// column is the number of the row.
struct Names {
    /// (left, width) in rem of each column, first that of the number.
    places: Vec<(f64, f64)>,
    heads: Vec<String>,
}

impl Names {
    fn of(table: &Table) -> Self {
        let labels = table.rows.iter().map(|row| words::labels(row).len()).max().unwrap_or(0).max(table.columns.len());
        let mut heads: Vec<String> = table.columns.clone();
        heads.resize(labels, String::new());
        let mut places = vec![(0.0, 2.75)];
        for (i, head) in heads.iter().enumerate() {
            let cells = table.rows.iter().filter_map(|row| words::labels(row).get(i).map(|l| l.chars().count()));
            let chars = cells.chain([head.chars().count()]).max().unwrap_or(0);
            // The position of a sticky cell depends on the widths before it, so widths are fixed and longer text is
            // wrapped.
            let wide = (1.4 + 0.54 * chars as f64).clamp(3.25, 14.0);
            let (left, before) = places[places.len() - 1];
            places.push((left + before, wide));
        }
        Self { places, heads }
    }

    fn cell(&self, out: &mut String, tag: &str, column: usize, text: &str) {
        let (left, wide) = self.places[column];
        let class = match column {
            0 => "stick index n",
            c if c + 1 == self.places.len() => "stick last",
            _ => "stick",
        };
        let _ = write!(
            out,
            "<{tag} class=\"{class}\" \
             style=\"left:{left:.2}rem;width:{wide:.2}rem;min-width:{wide:.2}rem;max-width:{wide:.2}rem\">{text}</th>"
        );
    }

    fn head(&self, out: &mut String, rows: usize) {
        let tag = if rows > 1 { format!("th scope=\"col\" rowspan=\"{rows}\"") } else { "th scope=\"col\"".into() };
        self.cell(out, &tag, 0, "<span class=\"hidden\">number</span>#");
        for (i, head) in self.heads.iter().enumerate() {
            self.cell(out, &tag, i + 1, &escape(head));
        }
    }

    fn row(&self, out: &mut String, number: usize, row: &ResultRow) {
        self.cell(out, "th", 0, &number.to_string());
        let labels = words::labels(row);
        for i in 0..self.heads.len() {
            self.cell(out, "th scope=\"row\"", i + 1, &escape(labels.get(i).map_or("", |l| l)));
        }
    }
}

fn rows(out: &mut String, table: &Table, t: usize) {
    let names = Names::of(table);
    let (paper, tested) = (table.published.is_some(), table.rows.iter().any(|row| row.against.is_some()));
    out.push_str("<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    names.head(out, 1 + usize::from(paper));
    let over = if paper { "th scope=\"col\" rowspan=\"2\"" } else { "th scope=\"col\"" };
    let _ = write!(out, "<{over} class=\"n\">Seeds</th>");
    if tested {
        let _ = write!(out, "<{over} class=\"n\">vs</th>");
    }
    for metric in &table.metrics {
        let _ = match paper {
            true => write!(out, "<th scope=\"colgroup\" colspan=\"2\" class=\"over\">{}</th>", escape(metric)),
            false => write!(out, "<th scope=\"col\" class=\"n\">{}</th>", escape(metric)),
        };
    }
    if paper {
        out.push_str("</tr>\n<tr>");
        for _ in &table.metrics {
            out.push_str(
                "<th scope=\"col\" class=\"n\"><small>ours</small></th><th scope=\"col\" class=\"n\">\
                 <small>paper</small></th>",
            );
        }
    }
    out.push_str("</tr></thead><tbody>\n");
    let columns = names.places.len() + 1 + usize::from(tested) + table.metrics.len() * (1 + usize::from(paper));
    let mut before: Option<String> = None;
    for (i, row) in table.rows.iter().enumerate() {
        let group = words::labels(row).first().cloned();
        let mut undone = words::undone(&row.seeds);
        if row.mean.is_empty() && words::standing(&row.seeds) == "waiting" {
            // Printed in place of its numbers.
            undone.clear();
        }
        let first = if before != group { "first " } else { "" };
        let told = if undone.is_empty() { "" } else { "told" };
        before = group;
        let _ = write!(out, "<tr id=\"t{t}r{}\" class=\"{first}{told}\">", i + 1);
        names.row(out, i + 1, row);
        let (done, of) = words::done(&row.seeds);
        number(out, &format!("{done}/{of}"));
        if tested {
            let other = row.against.as_ref().and_then(|a| table.rows.iter().position(|r| r.name == a.row));
            match other.map(|at| at + 1) {
                Some(at) => drop(write!(out, "<td class=\"n\"><a href=\"#t{t}r{at}\">{at}</a></td>")),
                None => out.push_str("<td></td>"),
            }
        }
        for m in 0..table.metrics.len() {
            value(out, table, row, m);
            if paper {
                let x = row.published.get(m).map_or(words::NOTHING.into(), |x| words::plain(*x, words::printed(table)));
                let _ = write!(out, "<td class=\"n paper\">{x}</td>");
            }
        }
        out.push_str("</tr>\n");
        if !undone.is_empty() {
            let failed = row.seeds.iter().any(|s| matches!(s.state, RunState::Failed(_)));
            let quiet = if failed { "" } else { " quiet" };
            let told: Vec<String> = undone.iter().map(|(what, why)| reason(what, why)).collect();
            let _ = writeln!(
                out,
                "<tr class=\"why{quiet}\"><td colspan=\"{columns}\"><span class=\"reason\">{}</span></td></tr>",
                told.join("<br>")
            );
        }
    }
    out.push_str("</tbody></table></div>\n");
}

/// Writes a number with its half interval and its mark, or one word for the reason that there is none.
fn value(out: &mut String, table: &Table, row: &ResultRow, m: usize) {
    let Some(mean) = row.mean.get(m) else {
        // Printed once per row.
        let word = if m == 0 { words::standing(&row.seeds) } else { words::NOTHING };
        let _ = write!(out, "<td class=\"n ours\"><span class=\"state {word}\">{word}</span></td>");
        return;
    };
    let mut tip = Vec::new();
    if let Some(Some([low, high])) = row.interval.get(m) {
        tip.push(format!("95 %: {} to {}", words::number(*low, table.scale), words::number(*high, table.scale)));
    }
    if let Some(deviation) = row.deviation.as_ref().and_then(|d| d.get(m)) {
        tip.push(format!("standard deviation between seeds {}", words::number(*deviation, table.scale)));
    }
    let half = row.interval.get(m).map_or(String::new(), |i| words::half(*i, table.scale));
    let _ = write!(
        out,
        "<td class=\"n ours\" title=\"{}\">{} <span class=\"half\">{half}</span>{}</td>",
        tip.join("; "),
        words::number(*mean, table.scale),
        mark(table, row, row.against.as_ref().and_then(|against| against.tests.get(m)))
    );
}

/// Returns the mark for the test of a row against another.
fn mark(table: &Table, row: &ResultRow, test: Option<&Test>) -> String {
    let (Some(against), Some(test)) = (&row.against, test) else { return "<span class=\"mark\"></span>".into() };
    let mark = Mark::of(test, table.lower);
    let (class, sign) = match mark {
        Mark::Sure { better: true } => ("up", "▲"),
        Mark::Sure { better: false } => ("down", "▼"),
        Mark::Mixed { better: true } => ("up", "△"),
        Mark::Mixed { better: false } => ("down", "▽"),
        Mark::None => return "<span class=\"mark\"></span>".into(),
    };
    format!(
        "<span class=\"mark {class}\" title=\"{} than {}: {}, p (Holm) {}\"><span aria-hidden=\"true\">{sign}</span>\
         <span class=\"hidden\">{}</span></span>",
        mark.words(),
        escape(&words::name_in(table, &against.row)),
        words::signed(test.result.difference, table.scale),
        escape(&words::chance(test.p_holm)),
        mark.words()
    )
}

fn slices(out: &mut String, table: &Table) {
    let Some(metric) = table.metrics.first() else { return };
    if table.slices.is_empty() || table.rows.iter().all(|row| row.slices.is_empty()) {
        return;
    }
    let _ = writeln!(out, "<h3>{} by number of training events of a user</h3>", escape(metric));
    let names = Names::of(table);
    out.push_str("<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    names.head(out, 1);
    for slice in &table.slices {
        let users = digits(slice.users as u64);
        let _ = write!(out, "<th scope=\"col\" class=\"n\">{}<small>{users} users</small></th>", escape(&slice.name));
    }
    out.push_str("</tr></thead><tbody>\n");
    for (i, row) in table.rows.iter().enumerate() {
        out.push_str("<tr>");
        names.row(out, i + 1, row);
        for s in 0..table.slices.len() {
            match row.slices.get(s) {
                Some(Some(e)) => {
                    let (mean, half) = (words::number(e.mean, table.scale), words::half(e.interval, table.scale));
                    let test = row.against.as_ref().and_then(|against| against.slices.get(s)?.as_ref());
                    let mark = mark(table, row, test);
                    let _ = write!(out, "<td class=\"n\">{mean} <span class=\"half\">{half}</span>{mark}</td>");
                }
                _ => number(out, words::NOTHING),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    let plots = figures::slices(table);
    if !plots.is_empty() {
        figure(
            out,
            "The same, with 95 % intervals; points of one slice are shifted so that they do not overlap.",
            &plots,
        );
    }
}

/// Writes every test of every metric as a collapsible section.
fn tests(out: &mut String, table: &Table, t: usize) {
    let tested: Vec<(usize, &ResultRow)> =
        table.rows.iter().enumerate().filter(|(_, row)| row.against.is_some()).collect();
    if tested.is_empty() {
        return;
    }
    out.push_str(
        "<details><summary>All tests of all metrics</summary>\n<p class=\"meaning\">Differences are row minus the row \
         it is compared with; effect is the mean of the users’ differences divided by their standard deviation \
         (Cohen’s d).</p>\n<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Row</th><th>Against</th>\
         <th>Measure</th><th class=\"n\">Users</th><th class=\"n\">Row</th><th class=\"n\">Against</th>\
         <th class=\"n\">Difference</th><th class=\"n\">95 % interval</th><th class=\"n\">t</th><th class=\"n\">p</th>\
         <th class=\"n\">p (Holm)</th><th class=\"n\">Effect</th><th class=\"n\">Seeds</th><th>By seed</th>\
         <th>Result</th></tr></thead><tbody>\n",
    );
    for (m, metric) in table.metrics.iter().enumerate() {
        for (at, (i, row)) in tested.iter().enumerate() {
            let Some(against) = &row.against else { continue };
            let other = words::name_in(table, &against.row);
            let first = if at == 0 { " class=\"first\"" } else { "" };
            let _ = write!(
                out,
                "<tr{first}><th scope=\"row\"><a href=\"#t{t}r{}\">{}</a></th><td>{}</td><td>{}</td>",
                i + 1,
                escape(&words::row_name(row)),
                escape(&other),
                escape(metric)
            );
            match against.tests.get(m) {
                Some(test) => test_cells(out, test, table),
                None => out.push_str("<td colspan=\"12\" class=\"state\">open</td>"),
            }
            out.push_str("</tr>\n");
        }
    }
    out.push_str("</tbody></table></div></details>\n");
}

fn test_cells(out: &mut String, test: &Test, table: &Table) {
    let r = &test.result;
    for cell in [
        digits(r.n as u64),
        words::number(r.means[1], table.scale),
        words::number(r.means[0], table.scale),
        words::signed(r.difference, table.scale),
        words::interval(r.interval, table.scale),
        words::ratio(r.t),
        words::chance(r.p),
        words::chance(test.p_holm),
        words::ratio(r.effect),
        words::agreement(test),
    ] {
        number(out, &cell);
    }
    let by_seed: Vec<String> = test.by_seed.iter().map(|d| words::signed(*d, table.scale)).collect();
    let _ = write!(out, "<td>{}</td><td>{}</td>", by_seed.join(" "), Mark::of(test, table.lower).words());
}

/// Writes every seed of every row as a collapsible section.
fn seeds(out: &mut String, table: &Table) {
    if table.rows.iter().all(|row| row.seeds.is_empty()) {
        return;
    }
    out.push_str(
        "<details><summary>Every seed</summary>\n<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Row</th>\
         <th class=\"n\">Seed</th><th>State</th>",
    );
    for metric in &table.metrics {
        let _ = write!(out, "<th class=\"n\">{}</th>", escape(metric));
    }
    out.push_str("<th class=\"n\">Best epoch</th><th class=\"n\">Time</th></tr></thead><tbody>\n");
    for row in &table.rows {
        for (i, seed) in row.seeds.iter().enumerate() {
            let first = if i == 0 { " class=\"first\"" } else { "" };
            let state = words::standing(std::slice::from_ref(seed));
            let _ = write!(
                out,
                "<tr{first}><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"state {state}\">{state}</td>",
                escape(&words::row_name(row)),
                seed.seed
            );
            for m in 0..table.metrics.len() {
                number(out, &seed.metrics.get(m).map_or(words::NOTHING.into(), |x| words::number(*x, table.scale)));
            }
            number(out, &seed.best.map_or(words::NOTHING.into(), |e| digits(e.into())));
            number(out, &if seed.seconds > 0.0 { words::duration(seed.seconds) } else { words::NOTHING.into() });
            out.push_str("</tr>\n");
        }
    }
    out.push_str("</tbody></table></div></details>\n");
}
