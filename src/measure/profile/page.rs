//! A profile as one self-contained page: what limits the run, a picture of a step, tables, and the numbers as JSON.

use std::fmt::Write;

use super::{
    Profile, ProfileRow,
    text::{self, percent},
};
use crate::page::{
    self, NOTHING, figure,
    icicle::{FlameNode, icicle},
    number,
    plot::{self, Bar, Frame, Group, Series, escape},
};

/// Number of ops drawn as bars: further ops take almost no time.
const BARS: usize = 14;

/// Returns the whole page.
pub fn html(p: &Profile) -> String {
    let title = format!("Profile: {}", p.title());
    let mut out = page::begin(&title);
    let _ = writeln!(out, "<header>\n<h1>{}</h1>\n<p>{}</p>\n<dl class=\"facts\">", escape(&title), escape(&p.verdict));
    for (name, value) in text::facts(p) {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    out.push_str(
        "</dl>\n<nav aria-label=\"Contents\"><a href=\"#step\">A step</a><a href=\"#ops\">Ops</a>\
         <a href=\"#layers\">Layers</a><a href=\"#memory\">Memory</a><a href=\"#data\">The numbers as JSON</a>\
         </nav>\n</header>\n<main>\n",
    );
    step(&mut out, p);
    ops(&mut out, p);
    layers(&mut out, p);
    memory(&mut out, p);
    out.push_str(
        "<section id=\"data\">\n<h2>The numbers as JSON</h2>\n<p>This page's source has all of the above, \
         unrounded, as JSON in the element with the id \"profile\".</p>\n",
    );
    page::data(&mut out, "profile", &p.json());
    out.push_str("\n</section>\n</main>\n");
    out.push_str(page::END);
    out
}

/// Begins a table with these columns.
fn head(out: &mut String, names: &[&str]) {
    out.push_str("<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    for (i, name) in names.iter().enumerate() {
        let class = if i == 0 { "" } else { " class=\"n\"" };
        let _ = write!(out, "<th{class}>{name}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
}

fn step(out: &mut String, p: &Profile) {
    out.push_str(
        "<section id=\"step\">\n<h2>A step</h2>\n<p class=\"meaning\">Whole steps, as training runs them: milliseconds \
         from one step to the next, and of its parts.</p>\n",
    );
    head(out, &["", "Median", "p20", "p80", "Mean", "Share", ""]);
    let whole = [("step", p.whole.wall, String::new())];
    for (name, s, says) in whole.into_iter().chain(text::pieces(p)) {
        let _ = write!(out, "<tr><th scope=\"row\">{name}</th>");
        [s.median, s.p20, s.p80, s.mean].iter().for_each(|x| number(out, &text::ms(*x)));
        number(out, &percent(s.mean / p.whole.wall.mean));
        let _ = writeln!(out, "<td class=\"wrap soft\">{}</td></tr>", escape(&says));
    }
    out.push_str("</tbody></table></div>\n");
    let _ = writeln!(out, "<p>{}</p>", escape(&text::beside(p)));
    if let Some(says) = text::validation(p) {
        let _ = writeln!(out, "<p>{}</p>", escape(&says));
    }
    let picture = icicle("Where the time of a step goes: phases, layers, ops", &flame(p));
    if !picture.is_empty() {
        let caption = "Where the time of a step goes, op by op: phases, their blocks and layers, their ops. Hover \
                       over a part for details.";
        let _ = writeln!(
            out,
            "<figure><figcaption>{caption}</figcaption><div class=\"scroll\" tabindex=\"0\">{picture}</div></figure>"
        );
    }
    let points = p.whole.walls.iter().enumerate().map(|(i, s)| (i as f64 + 1.0, s * 1e3)).collect();
    let frame = Frame {
        title: "Milliseconds of each step".into(),
        x: "step".into(),
        y: "milliseconds of whole steps".into(),
        ..Frame::default()
    };
    let curve = plot::lines(&frame, &[Series { points, tip: "each step".into(), ..Series::default() }]);
    if p.whole.walls.len() > 1 && !curve.is_empty() {
        figure(out, "Each step, in order.", &[curve]);
    }
    out.push_str("</section>\n");
}

/// Returns the tree of phases, which contain blocks, layers and ops.
fn flame(p: &Profile) -> FlameNode {
    let o = &p.op_by_op;
    let mut phases = Vec::new();
    for (colour, phase) in p.phases.iter().enumerate() {
        let word = phase.phase.map_or("", |p| p.word());
        let mut whole = FlameNode { name: format!("{word} {}", percent(phase.share)), colour, ..FlameNode::default() };
        for call in p.calls.iter().filter(|c| c.phase == phase.phase) {
            let (block, layer) = block(&call.layer);
            let op = FlameNode { name: call.op.clone(), value: call.seconds, colour, ..FlameNode::default() };
            let tip = format!(
                "{}, {}, {} calls of {} {}",
                call.layer,
                says(call.seconds, o.ops),
                text::calls(call.calls),
                call.op,
                call.sizes
            );
            let path: Vec<&str> = [block, layer].into_iter().filter(|name| !name.is_empty()).collect();
            add(&mut whole, &path, FlameNode { tip, ..op });
        }
        tell(&mut whole, word, o.ops);
        phases.push(whole);
    }
    let name = format!("all ops: {} ms", text::ms(o.ops));
    FlameNode { tip: name.clone(), name, value: o.ops, colour: 7, parts: phases }
}

fn says(seconds: f64, all: f64) -> String {
    format!("{} ms, {}", text::ms(seconds), percent(seconds / all))
}

/// Splits `block.0.attention.qkv` into `block.0` and `attention.qkv`; other names remain whole.
fn block(layer: &str) -> (&str, &str) {
    match layer.strip_prefix("block.").and_then(|rest| rest.find('.')) {
        Some(at) => (&layer[..6 + at], &layer[7 + at..]),
        None => (layer, ""),
    }
}

/// Adds `part` at `path`, and creates the missing nodes of the path.
fn add(whole: &mut FlameNode, path: &[&str], part: FlameNode) {
    whole.value += part.value;
    let Some((first, rest)) = path.split_first() else { return whole.parts.push(part) };
    let at = whole.parts.iter().position(|p| p.name == *first).unwrap_or_else(|| {
        whole.parts.push(FlameNode { name: first.to_string(), colour: whole.colour, ..FlameNode::default() });
        whole.parts.len() - 1
    });
    add(&mut whole.parts[at], rest, part);
}

/// Gives all nodes without a tooltip one with their time.
fn tell(part: &mut FlameNode, name: &str, all: f64) {
    if part.tip.is_empty() {
        part.tip = format!("{name}: {}", says(part.value, all));
    }
    for inner in &mut part.parts {
        let name = inner.name.clone();
        tell(inner, &name, all);
    }
}

fn ops(out: &mut String, p: &Profile) {
    out.push_str("<section id=\"ops\">\n<h2>Ops</h2>\n");
    let bar = |r: &ProfileRow| Bar {
        label: r.op.clone(),
        value: Some(r.seconds * 1e3),
        interval: Some([r.spread.p20 * 1e3, r.spread.p80 * 1e3]),
        says: format!("{} ms, {}", text::ms(r.seconds), percent(r.share)),
        tip: format!(
            "{}: {} calls, {} GFLOP/s, {} GB/s",
            r.op,
            text::calls(r.calls),
            text::rate(r.gflops),
            text::rate(r.gbps)
        ),
        ..Bar::default()
    };
    let bars: Vec<Bar> = p.ops.iter().take(BARS).map(bar).collect();
    let group = Group { name: String::new(), bars };
    figure(
        out,
        "Milliseconds per step by op; the whiskers exclude a fifth of the steps on either side.",
        &[plot::bars("Milliseconds per step by op", "milliseconds per step", &[group])],
    );
    let _ = writeln!(out, "<p class=\"meaning\">{}</p>", escape(&text::COLUMNS.join(" ")));
    table(out, "Op", &p.ops, |r| r.op.clone());
    out.push_str("<details><summary>By phase, layer and op</summary>\n");
    let name = |r: &ProfileRow| format!("{} · {} · {}", r.phase.map_or("", |p| p.word()), r.layer, r.op);
    table(out, "Phase, layer, op", &p.calls, name);
    out.push_str("</details>\n</section>\n");
}

fn layers(out: &mut String, p: &Profile) {
    out.push_str("<section id=\"layers\">\n<h2>Layers</h2>\n");
    table(out, "Phase", &p.phases, |r| r.phase.map_or("", |p| p.word()).to_string());
    table(out, "Layer", &p.layers, |r| r.layer.clone());
    out.push_str("</section>\n");
}

fn table(out: &mut String, what: &str, rows: &[ProfileRow], name: impl Fn(&ProfileRow) -> String) {
    let names = [
        what,
        "Calls",
        "ms",
        "p20",
        "p80",
        "Share",
        "Idle ms",
        "MFLOP",
        "MB",
        "GFLOP/s",
        "GB/s",
        "Of the roofline",
        "Bound by",
        "Sizes",
    ];
    let sized = rows.iter().any(|r| !r.sizes.is_empty());
    head(out, &names[..names.len() - !sized as usize]);
    for r in rows {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&name(r)));
        for cell in [
            text::calls(r.calls),
            text::ms(r.seconds),
            text::ms(r.spread.p20),
            text::ms(r.spread.p80),
            percent(r.share),
            text::ms(r.idle),
            text::rate(r.flop * 1e-6),
            text::rate(r.bytes * 1e-6),
            text::rate(r.gflops),
            text::rate(r.gbps),
            r.roof.map_or(NOTHING.into(), percent),
            r.bound.map_or(NOTHING, |b| b.word()).into(),
        ] {
            number(out, &cell);
        }
        if sized {
            number(out, &r.sizes);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn memory(out: &mut String, p: &Profile) {
    out.push_str(
        "<section id=\"memory\">\n<h2>Memory</h2>\n<p class=\"meaning\">The memory planned before the first step \
         (of the device's own memory, if it has some), and the peak memory of the process, \
         including mapped files.</p>\n",
    );
    head(out, &["For", "Bytes"]);
    for (name, bytes) in text::memory(p) {
        let _ = write!(out, "<tr><th scope=\"row\">{name}</th>");
        number(out, &bytes.map_or(NOTHING.into(), |b| text::size(b as f64)));
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n</section>\n");
}
