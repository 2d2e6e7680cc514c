//! A hanging flame graph: nested parts of a whole, each as wide as its value, without a script.

use std::fmt::Write;

use super::plot::{COLOURS, begin, cut, escape, label};

/// Units of the picture's width; the page scales it.
const WIDTH: f64 = 1040.0;
/// Height of a level and width of a letter.
const ROW: f64 = 27.0;
const LETTER: f64 = 6.7;
/// Narrower parts are not drawn, because they are too small to see or to point at.
const LEAST: f64 = 0.4;

/// A part of a whole and its own parts; the remainder that the parts do not cover stays empty.
#[derive(Clone, Debug, Default)]
pub struct FlameNode {
    pub name: String,
    pub value: f64,
    pub colour: usize,
    /// Tooltip.
    pub tip: String,
    pub parts: Vec<FlameNode>,
}

impl FlameNode {
    fn depth(&self) -> usize {
        1 + self.parts.iter().map(FlameNode::depth).max().unwrap_or(0)
    }
}

/// Returns the picture; empty if the whole is 0. `title` describes it for screen readers.
pub fn icicle(title: &str, whole: &FlameNode) -> String {
    if !(whole.value.is_finite() && whole.value > 0.0) {
        return String::new();
    }
    let mut out = begin(title, [WIDTH, ROW * whole.depth() as f64 + 2.0]);
    draw(&mut out, whole, 0.0, 1.0, WIDTH / whole.value);
    out.push_str("</svg>");
    out
}

fn draw(out: &mut String, part: &FlameNode, left: f64, top: f64, scale: f64) {
    let width = part.value * scale;
    if width.is_nan() || width < LEAST {
        return;
    }
    let (class, tip) = (part.colour % COLOURS, escape(&part.tip));
    let _ = write!(
        out,
        "<g class=\"c{class}\"><title>{tip}</title><rect class=\"part\" x=\"{left:.2}\" y=\"{top:.1}\" \
         width=\"{width:.2}\" height=\"{:.1}\" rx=\"2\"/>",
        ROW - 2.0
    );
    let letters = ((width - 10.0) / LETTER).max(0.0) as usize;
    if letters >= 3 {
        label(out, "", "start", [left + 6.0, top + 17.0], &cut(&part.name, letters));
    }
    out.push_str("</g>");
    let mut at = left;
    for inner in &part.parts {
        draw(out, inner, at, top + ROW, scale);
        at += inner.value * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sound, *};

    fn part(name: &str, value: f64, parts: Vec<FlameNode>) -> FlameNode {
        FlameNode { name: name.into(), value, colour: parts.len(), tip: format!("{name} & \"more\""), parts }
    }

    #[test]
    fn parts_are_as_wide_as_they_are_large_and_stand_within_their_whole() {
        let whole = part(
            "step <1>",
            10.0,
            vec![
                part("forward", 4.0, vec![part("op", 1.0, vec![])]),
                part("back", 5.0, vec![]),
                part("dust", 1e-4, vec![]),
            ],
        );
        let svg = icicle("a step", &whole);
        assert_eq!(sound::faults(&svg), Vec::<String>::new());
        assert!(svg.contains("step &lt;1&gt;") && !svg.contains("dust") && !sound::says_nan(&svg));
        let number = |tag: &str, key: &str| -> f64 {
            tag.split(&format!(" {key}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        let rects: Vec<[f64; 3]> =
            svg.split("<rect").skip(1).map(|t| [number(t, "x"), number(t, "y"), number(t, "width")]).collect();
        let expected = [[0.0, 1.0, 1040.0], [0.0, 28.0, 416.0], [0.0, 55.0, 104.0], [416.0, 28.0, 520.0]];
        assert_eq!(rects, expected);
        for nothing in [part("x", 0.0, vec![]), part("x", f64::NAN, vec![])] {
            assert_eq!(icicle("nothing", &nothing), "");
        }
    }
}
