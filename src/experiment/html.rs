/*! The results as a self-contained HTML page with style, plots and numbers. It loads nothing from elsewhere.

Findings come first, then each table with the published numbers and plots. All tests and seeds are in collapsible
sections. The page also embeds the complete results as JSON.
*/

use std::fmt::Write;

use super::{
    figures,
    reason::reason,
    results::{Claim, Results, RunState, Verdict},
    section::section,
    words,
};
use crate::{
    data::digits,
    page::{self, capital, figure, number, plot::escape},
};

/// Returns the page.
pub fn html(r: &Results) -> String {
    let title = if r.title.is_empty() { &r.name } else { &r.title };
    let mut out = page::begin(title);
    head(&mut out, r, &escape(title));
    out.push_str("<main>\n");
    findings(&mut out, r);
    for (i, table) in r.tables.iter().enumerate() {
        section(&mut out, table, i);
    }
    bases(&mut out, r);
    not_done(&mut out, r);
    data(&mut out, r);
    out.push_str("</main>\n");
    out.push_str(page::END);
    out
}

fn head(out: &mut String, r: &Results, title: &str) {
    let _ = writeln!(out, "<header>\n<h1>{title}</h1>");
    for note in &r.notes {
        let _ = writeln!(out, "<p>{}</p>", escape(note));
    }
    out.push_str("<dl class=\"facts\">\n");
    for (i, line) in r.data.iter().enumerate() {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", if i == 0 { "Data" } else { "" }, escape(line));
    }
    if !r.machine.is_empty() {
        let _ = writeln!(out, "<dt>Machine</dt><dd>{}</dd>", escape(&r.machine));
    }
    let (done, runs) = (digits(r.done as u64), digits(r.runs as u64));
    let _ = writeln!(
        out,
        "<dt>Runs</dt><dd>{done} of {runs} done, {} of computing</dd>\n</dl>",
        words::duration(r.seconds)
    );
    if r.done < r.runs {
        let _ = writeln!(
            out,
            "<p class=\"unfinished\"><progress max=\"{}\" value=\"{}\">{done} of {runs}</progress> \
             Not all runs are done: numbers and verdicts may change.</p>",
            r.runs, r.done
        );
    }
    out.push_str("<nav aria-label=\"Contents\">");
    if !r.findings.is_empty() {
        out.push_str("<a href=\"#findings\">Findings</a>");
    }
    for (i, table) in r.tables.iter().enumerate() {
        let _ = write!(out, "<a href=\"#t{i}\">{}</a>", escape(&table.title));
    }
    if !r.bases.is_empty() {
        out.push_str("<a href=\"#bases\">Pre-training</a>");
    }
    if r.done < r.runs || !words::failures(r).is_empty() {
        out.push_str("<a href=\"#undone\">Runs that are not done</a>");
    }
    out.push_str("<a href=\"#data\">The numbers as JSON</a></nav>\n</header>\n");
}

fn findings(out: &mut String, r: &Results) {
    if r.findings.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"findings\">\n<h2>Findings</h2>\n<p class=\"meaning\">Each claim compares two groups of rows, \
         paired by user. A difference counts if p &lt; 0.05 after Holm’s correction for all claims and it has the same \
         sign on every seed. “Seeds” is the number of seeds on which the difference has the overall sign. The 95 % \
         interval treats users and seeds as random samples.</p>\n",
    );
    if let Some(caution) = r.tables.iter().find_map(|t| t.caution.as_ref()) {
        let _ = writeln!(out, "<p class=\"meaning\">{}</p>", escape(caution));
    }
    out.push_str("<ol class=\"findings\">\n");
    for (i, finding) in r.findings.iter().enumerate() {
        let (class, sign) = match finding.verdict {
            Verdict::Confirmed => ("confirmed", "✓"),
            Verdict::InPart => ("in-part", "◐"),
            Verdict::NotConfirmed => ("refuted", "✕"),
            Verdict::Open => ("open", "○"),
        };
        let _ = writeln!(
            out,
            "<li class=\"{class}\"><h3>{}. {}</h3>\n<p class=\"verdict\"><span aria-hidden=\"true\">{sign}</span> \
             {}</p>",
            i + 1,
            escape(&finding.says),
            capital(words::verdict(finding.verdict))
        );
        if !finding.claims.is_empty() {
            out.push_str(
                "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>Claim</th><th>Measure</th><th>Expected</th>\
                 <th>Found</th><th class=\"n\">Difference</th><th class=\"n\">95 % interval</th><th class=\"n\">p \
                 (Holm)</th><th class=\"n\">Effect</th><th class=\"n\">Seeds</th></tr></thead><tbody>\n",
            );
            finding.claims.iter().for_each(|c| claim(out, c));
            out.push_str("</tbody></table></div>\n");
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ol>\n</section>\n");
}

fn claim(out: &mut String, c: &Claim) {
    let less = if c.lower { " <span class=\"soft\">(lower is better)</span>" } else { "" };
    let _ = write!(
        out,
        "<tr><th scope=\"row\" class=\"wrap\">{}</th><td>{}{less}</td><td>{}</td>",
        escape(&c.what),
        escape(&c.metric),
        words::expectation(c.expect)
    );
    let (class, as_claimed) = match c.holds() {
        Some(true) => ("up", ", as expected"),
        Some(false) => ("down", ", not as expected"),
        None => ("soft", ""),
    };
    let found = if c.holds().is_some() { words::outcome(c.outcome) } else { words::outcome(None) };
    let _ = write!(out, "<td class=\"{class}\">{found}{as_claimed}</td>");
    let cells = match &c.test {
        Some(test) => [
            words::signed(test.result.difference, c.scale),
            words::interval(test.result.interval, c.scale),
            words::chance(test.p_holm),
            words::ratio(test.result.effect),
            words::agreement(test),
        ],
        None => [words::NOTHING; 5].map(String::from),
    };
    cells.iter().for_each(|cell| number(out, cell));
    out.push_str("</tr>\n");
}

fn bases(out: &mut String, r: &Results) {
    if r.bases.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"bases\">\n<h2>Pre-training</h2>\n<p class=\"meaning\">Runs that rows start from, with their \
         validation at the epoch of the selected weights (mean over seeds).</p>\n<div class=\"scroll\" tabindex=\"0\">\
         <table><thead><tr><th>Name</th><th class=\"n\">Seeds</th><th>Validation</th><th class=\"n\">Best</th>\
         <th class=\"n\">Time</th><th>State</th></tr></thead><tbody>\n",
    );
    for base in &r.bases {
        let (done, of) = words::done(&base.seeds);
        let best = words::best_of(base).map_or(words::NOTHING.into(), |x| words::plain(x, 4));
        let seconds: f64 = base.seeds.iter().map(|s| s.seconds).sum();
        let state: Vec<String> = words::undone(&base.seeds).iter().map(|(what, why)| reason(what, why)).collect();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{done}/{of}</td><td>{}</td><td class=\"n\">{best}</td>\
             <td class=\"n\">{}</td><td class=\"wrap\">{}</td></tr>",
            escape(&base.name),
            escape(&base.measure),
            words::duration(seconds),
            state.join("<br>")
        );
    }
    out.push_str("</tbody></table></div>\n");
    let curves = figures::base_curves(&r.bases);
    if !curves.is_empty() {
        figure(
            out,
            "Validation after each epoch of pre-training: thin lines for each seed, thick lines for their mean.",
            &curves,
        );
    }
    out.push_str("</section>\n");
}

/// Writes the list of all runs that are not done.
fn not_done(out: &mut String, r: &Results) {
    if r.done >= r.runs && words::failures(r).is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<section id=\"undone\">\n<h2>Runs that are not done</h2>\n<p class=\"meaning\">Failed: ended with an error. \
         Stale: done for an earlier grid. Waiting: not started, or stopped.</p>\n<div class=\"scroll\" tabindex=\"0\">\
         <table><thead><tr><th>Run</th><th>State</th><th>Why</th></tr></thead><tbody>"
    );
    let bases = r.bases.iter().map(|b| (b.name.clone(), &b.seeds));
    let of_rows = r
        .tables
        .iter()
        .flat_map(|t| t.rows.iter().map(move |row| (format!("{}: {}", t.title, words::row_name(row)), &row.seeds)));
    for (name, seeds) in bases.chain(of_rows) {
        for seed in seeds.iter().filter(|s| s.state != RunState::Done) {
            let state = words::standing(std::slice::from_ref(seed));
            let why = match &seed.state {
                RunState::Failed(why) | RunState::Stale(why) => why.trim(),
                _ => "",
            };
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}, seed {}</th><td class=\"state {state}\">{state}</td>\
                 <td class=\"error\">{}</td></tr>",
                escape(&name),
                seed.seed,
                escape(why)
            );
        }
    }
    out.push_str("</tbody></table></div>\n</section>\n");
}

/// Writes the results as JSON.
fn data(out: &mut String, r: &Results) {
    out.push_str(
        "<section id=\"data\">\n<h2>The numbers as JSON</h2>\n<p>The source of this page holds all results, unrounded, \
         as JSON in the element with the id “results”.</p>\n",
    );
    page::data(out, "results", r);
    out.push_str("\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            results::{Estimate, Seed},
            sample,
        },
        *,
    };

    fn must_hold(page: &str, parts: &[&str]) {
        for part in parts {
            assert!(page.contains(part), "{part:?} is not in the page");
        }
    }

    /// Returns the visible text: no tags, no style, no JSON.
    fn seen(page: &str) -> String {
        let mut text = String::new();
        let body = &page[page.find("<body>").unwrap()..page.find("<script").unwrap()];
        for part in body.split('<').skip(1) {
            text.push_str(part.split_once('>').map_or("", |(_, text)| text));
            text.push(' ');
        }
        text
    }

    /// Text, page and JSON print the caution for two seeds, and not for one or three.
    #[test]
    fn two_seeds_are_cautioned_about() {
        let of = |done: u64| {
            let mut r = sample::results();
            for row in &mut r.tables[0].rows {
                row.seeds = (1..=done).map(|seed| Seed { seed, state: RunState::Done, ..Seed::default() }).collect();
            }
            let rows = &r.tables[0].rows;
            r.tables[0].caution = words::caution(rows.iter().map(|row| &row.seeds)).map(str::to_string);
            r
        };
        let says = "With two seeds the tests report too many differences";
        for (done, cautioned) in [(1, false), (2, true), (3, false)] {
            let r = of(done);
            let text = super::super::text::text(&r).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(text.matches(says).count(), if cautioned { 2 } else { 0 }, "{text}");
            assert_eq!(seen(&html(&r)).matches(says).count(), if cautioned { 2 } else { 0 });
            assert_eq!(serde_json::json!(r)["tables"][0]["caution"].is_string(), cautioned);
        }
    }

    /// The interval of a single user is printed as unknown, and is null in JSON.
    #[test]
    fn the_interval_of_one_user_is_unknown_everywhere() {
        let mut r = sample::results();
        let row = &mut r.tables[0].rows[1];
        row.interval[0] = None;
        row.slices[0] = Some(Estimate { mean: 0.35, interval: None });
        row.against.as_mut().unwrap().tests[0].result.interval = None;
        let (text, page) = (super::super::text::text(&r), html(&r));
        assert_eq!(sample::faults(&page), Vec::<String>::new());
        for shown in [&text, &seen(&page)] {
            assert!(shown.contains("± unknown") && !shown.contains("±0.00") && !sample::says_nan(shown), "{shown}");
        }
        assert!(text.contains("45.12 ± unknown") && text.contains("35.00 ± unknown"), "{text}");
        let json = serde_json::json!(r);
        let row = &json["tables"][0]["rows"][1];
        assert!(row["interval"][0].is_null() && row["slices"][0]["interval"].is_null(), "{row}");
        assert!(row["against"]["tests"][0]["interval"].is_null(), "{row}");
    }

    #[test]
    fn the_page_holds_every_number_and_is_whole() {
        let page = html(&sample::results());
        assert_eq!(sample::faults(&page), Vec::<String>::new());
        let text = seen(&page);
        assert!(!sample::says_nan(&text));
        must_hold(
            &text,
            &["Does it help? &lt;/script&gt;", "A second note", "src: 6,040 users", "7 of 13 done, 3 h 05 min"],
        );
        // Rows.
        let row = |number: usize| {
            let row = page.split(&format!("<tr id=\"t0r{number}\"")).nth(1).unwrap();
            row.split("</tr>").next().unwrap().to_string()
        };
        must_hold(&row(1), &["BERT4Rec", ">3/3<", ">42.34 <", "±0.61", "77.87 ", "±0.87", ">42.34<", ">77.90<"]);
        must_hold(&row(1), &["95 %: 41.73 to 42.95; standard deviation between seeds 0.12"]);
        must_hold(&row(2), &[">2/3<", "45.12 ", "±0.62", "80.64 ", "±0.64", ">45.12<", "▲", "▽", "href=\"#t0r1\">1<"]);
        must_hold(&row(2), &["better than BERT4Rec, none: +2.78, p (Holm) &lt;0.0001"]);
        must_hold(&row(3), &["Caser", ">0/2<", ">waiting<"]);
        must_hold(&row(4), &[">0/1<", ">stale<"]);
        must_hold(
            &page,
            &["seed 3 failed: out of memory: &lt;16 GiB&gt; asked for 17", "seed 1 stale: width: 64 was 32"],
        );
        // Lower is better: a decrease is marked as better.
        must_hold(page.split("<tr id=\"t1r2\"").nth(1).unwrap().split("</tr>").next().unwrap(), &["0.9700", "▲"]);
        // Slices, tests with every seed's difference, findings, bases.
        must_hold(
            &page,
            &[
                "1,234 users",
                "56 users",
                ">35.00 <",
                "+3.00 +2.50",
                "[-3.00, -2.00]",
                ">0.0123<",
                "worse, not on every seed",
            ],
        );
        must_hold(
            &text,
            &[
                "1. Pre-training helps",
                "Confirmed in part",
                "Not confirmed",
                "Open: rows are missing",
                "better, not as expected",
            ],
        );
        must_hold(&text, &["-0.0177", "(lower is better)", "mip base", "0.2100", "seed 2 failed: no such file"]);
        // Bars of both tables, slices of one group, curves of the groups that have some and of the bases.
        assert_eq!(page.matches("<svg class=\"plot\"").count(), 2 + 1 + 2 + 1);
        // No external resources and no scripts.
        assert!(!page.contains("http") && !page.contains("@import") && !page.contains("url("));
        assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn the_json_in_the_page_is_the_results() {
        let r = sample::results();
        let page = html(&r);
        let json = page.split("id=\"results\">").nth(1).unwrap().split("</script>").next().unwrap();
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read, serde_json::to_value(&r).unwrap());
        assert_eq!(read["tables"][0]["rows"][1]["labels"][1], sample::NASTY);
    }

    #[test]
    fn nothing_done_and_crooked_results_make_a_page_all_the_same() {
        for r in [sample::nothing(), sample::crooked(), Results::default()] {
            let page = html(&r);
            assert_eq!(sample::faults(&page), Vec::<String>::new());
            assert!(!sample::says_nan(&seen(&page)), "{}", seen(&page));
        }
        let page = html(&sample::nothing());
        must_hold(&page, &["0 of 13 done", "Not all runs are done", "open: rows are missing"]);
        assert!(!page.contains("▲") && !page.contains("<svg"));
        // Missing published numbers are printed as missing.
        let mut r = sample::results();
        r.tables[0].published = None;
        assert!(!html(&r).contains("<small>paper</small>"));
    }
}
