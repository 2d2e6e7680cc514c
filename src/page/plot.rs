/*! Plots as inline SVG: no scripts, no images, no separate fonts.

Colours are variables of [`STYLE`], which the page contains once, so plots follow the reader's choice of light or
dark. A tooltip (`<title>`) describes each mark. The tables have the same numbers for readers who do not see the
plots.
*/

use std::fmt::Write;

use super::plain;

/// The style that the page contains once for all plots.
pub const STYLE: &str = include_str!("plot.css");

/// Units of a plot's width; the page scales it.
const WIDTH: f64 = 680.0;
/// Number of colours; further lines are dashed.
pub(super) const COLOURS: usize = 8;

/// A horizontal bar, or the reason why it is missing.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    pub label: String,
    pub value: Option<f64>,
    pub interval: Option<[f64; 2]>,
    /// The published value, drawn as a diamond.
    pub published: Option<f64>,
    /// The text at the right: the number, or the reason why it is missing.
    pub says: String,
    /// Tooltip.
    pub tip: String,
}

/// Bars that share an axis.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

/// A line through points.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend; a series without a name is omitted from it.
    pub name: String,
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
    /// Whiskers of the points; empty for none.
    pub intervals: Vec<[f64; 2]>,
    /// Drawn lightly, as one seed of several.
    pub thin: bool,
    /// The x at which a ring is drawn.
    pub mark: Option<f64>,
    pub tip: String,
}

/// The labels of a line plot.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Description for screen readers.
    pub title: String,
    pub x: String,
    pub y: String,
    /// Names of x = 0, 1, ...; empty if x is a number.
    pub names: Vec<String>,
    /// Meaning of the rings; empty for no legend entry.
    pub ring: String,
}

/// Escapes text for HTML and SVG, attributes included. Control characters, which terminal errors may contain, are
/// removed.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// An axis from `low` to `high` with a tick at every `step`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Returns an axis over all values, with about this many ticks at round numbers (1, 2 or 5 times a power of ten).
    /// `None` if no value is finite. `round`: both ends are ticks.
    fn over(values: impl Iterator<Item = f64>, about: usize, round: bool) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.filter(|x| x.is_finite()).for_each(|x| (low, high) = (low.min(x), high.max(x)));
        if low > high || !(high - low).is_finite() {
            return None;
        }
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            // A single value gets some space on both sides.
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let raw = (high - low) / about.max(1) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999).unwrap_or(raw);
        if round {
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Some(Self { low, high, step })
    }

    fn ticks(&self) -> Vec<f64> {
        let (first, last) =
            ((self.low / self.step - 1e-6).ceil() as i64, (self.high / self.step + 1e-6).floor() as i64);
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    /// Formats a tick with as many decimals as the step needs.
    fn label(&self, x: f64) -> String {
        let decimals = (-(self.step.log10() + 1e-9).floor()).max(0.0) as usize;
        plain(if x.abs() < self.step * 1e-6 { 0.0 } else { x }, decimals)
    }

    /// Maps a value to a coordinate between two positions.
    fn at(&self, x: f64, from: f64, to: f64) -> f64 {
        from + (x - self.low) / (self.high - self.low) * (to - from)
    }
}

pub(super) fn begin(title: &str, [width, height]: [f64; 2]) -> String {
    let title = escape(title);
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\" aria-label=\"{title}\">"
    )
}

fn line(out: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

/// Appends a text; `anchor`: start, middle or end.
pub(super) fn label(out: &mut String, class: &str, anchor: &str, [x, y]: [f64; 2], text: &str) {
    let text = escape(text);
    let _ = write!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.into() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

/// Returns a plot as a separate file, with its style and background, for use outside these pages.
pub fn standalone(svg: &str) -> String {
    let (tag, body) = svg.split_once('>').unwrap_or((svg, ""));
    let ground = "<rect width=\"100%\" height=\"100%\" fill=\"var(--ground)\"/>";
    format!("{tag} xmlns=\"http://www.w3.org/2000/svg\">\n<style>\n{STYLE}</style>\n{ground}\n{body}\n")
}

/// Draws horizontal bars with whiskers, and published values as diamonds; every group has a separate axis.
///
/// Bars begin at zero, so that their lengths are proportional to the values. If the values of a group differ little,
/// bars would hide the differences. Then points are drawn on an axis that begins near the values, and the axis says so.
pub fn bars(title: &str, measure: &str, groups: &[Group]) -> String {
    const ROW: f64 = 24.0;
    let groups: Vec<&Group> = groups.iter().filter(|g| !g.bars.is_empty()).collect();
    let chars = |f: &dyn Fn(&Bar) -> usize| groups.iter().flat_map(|g| &g.bars).map(f).max().unwrap_or(0);
    let left = 24.0 + 6.8 * chars(&|b| b.label.chars().count().min(38)) as f64;
    let right = WIDTH - 16.0 - 7.2 * chars(&|b| b.says.chars().count().min(24)) as f64;
    let published = groups.iter().flat_map(|g| &g.bars).any(|b| b.published.is_some_and(f64::is_finite));
    let mut body = String::new();
    let mut y = 4.0;
    for group in groups {
        if !group.name.is_empty() {
            label(&mut body, "head", "start", [0.0, y + 14.0], &group.name);
            y += 26.0;
        }
        let (top, bottom) = (y, y + ROW * group.bars.len() as f64);
        let values = || {
            group.bars.iter().flat_map(|b| {
                let ends = b.interval.map_or([None; 2], |[low, high]| [Some(low), Some(high)]);
                [b.value, b.published, ends[0], ends[1]].into_iter().flatten().filter(|x| x.is_finite())
            })
        };
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let zoom = low > 0.5 * high && high > 0.0;
        let axis = match zoom {
            true => Axis::over(values(), 6, true),
            false => Axis::over(values().chain(values().next().map(|_| 0.0)), 6, true),
        };
        if let Some(axis) = &axis {
            for tick in axis.ticks() {
                let x = axis.at(tick, left, right);
                line(&mut body, if tick == 0.0 { "rest" } else { "grid" }, [x, top, x, bottom]);
                label(&mut body, "soft", "middle", [x, bottom + 15.0], &axis.label(tick));
            }
        }
        for (i, bar) in group.bars.iter().enumerate() {
            one_bar(&mut body, bar, axis.as_ref(), [left, right, top + ROW * (i as f64 + 0.5)], zoom);
        }
        y = bottom + 32.0;
        if axis.is_some() {
            let from = if zoom { format!("{measure}; the axis does not begin at zero") } else { measure.to_string() };
            label(&mut body, "soft", "middle", [(left + right) / 2.0, y], &from);
            y += 20.0;
        }
    }
    if published {
        diamond(&mut body, left + 6.0, y + 4.0);
        label(&mut body, "soft", "start", [left + 18.0, y + 8.0], "published");
        y += 18.0;
    }
    format!("{}{body}</svg>", begin(title, [WIDTH, y + 4.0]))
}

fn one_bar(out: &mut String, bar: &Bar, axis: Option<&Axis>, [left, right, y]: [f64; 3], zoom: bool) {
    let _ = write!(out, "<g class=\"c0\"><title>{}</title>", escape(&bar.tip));
    label(out, "", "end", [left - 12.0, y + 4.0], &cut(&bar.label, 38));
    let says = cut(&bar.says, 24);
    label(out, if bar.value.is_some() { "" } else { "soft" }, "end", [WIDTH - 2.0, y + 4.0], &says);
    if let Some(axis) = axis {
        let at = |x: f64| axis.at(x, left, right);
        if let Some(value) = bar.value.filter(|x| x.is_finite()) {
            let x = at(value);
            if zoom {
                line(out, "grid", [left, y, x, y]);
            } else {
                let zero = at(0.0);
                let (from, wide) = (zero.min(x), (x - zero).abs());
                let _ = write!(
                    out,
                    "<rect class=\"bar\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"14\" rx=\"1\"/>",
                    y - 7.0
                );
            }
            if let Some([low, high]) = bar.interval.filter(|i| i.iter().all(|x| x.is_finite())) {
                let (a, b) = (at(low), at(high));
                line(out, "whisker", [a, y, b, y]);
                line(out, "whisker", [a, y - 4.0, a, y + 4.0]);
                line(out, "whisker", [b, y - 4.0, b, y + 4.0]);
            }
            if zoom {
                let _ = write!(out, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>");
            }
        }
        if let Some(published) = bar.published.filter(|x| x.is_finite()) {
            diamond(out, at(published), y);
        }
    }
    out.push_str("</g>");
}

fn diamond(out: &mut String, x: f64, y: f64) {
    let _ = write!(out, "<path class=\"paper\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0);
}

/// Draws lines over a common x: learning curves, or a measure by slice. Empty if there is no point.
pub fn lines(frame: &Frame, series: &[Series]) -> String {
    let finite = |s: &Series| {
        let intervals = s.intervals.iter().map(|i| Some(*i)).chain(std::iter::repeat(None));
        let both: Vec<_> =
            s.points.iter().copied().zip(intervals).filter(|((x, y), _)| x.is_finite() && y.is_finite()).collect();
        both
    };
    let all: Vec<_> = series.iter().flat_map(&finite).collect();
    let ends = all.iter().filter_map(|(_, i)| *i).flatten();
    let y_axis = Axis::over(all.iter().map(|((_, y), _)| *y).chain(ends), 6, true);
    let x_axis = match frame.names.len() {
        0 => Axis::over(all.iter().map(|((x, _), _)| *x), 8, false),
        n => Some(Axis { low: -0.5, high: n as f64 - 0.5, step: 1.0 }),
    };
    let (Some(y_axis), Some(mut x_axis)) = (y_axis, x_axis) else { return String::new() };
    // Epochs are whole numbers.
    x_axis.step = x_axis.step.max(1.0);
    let (left, right, top, bottom) = (58.0, WIDTH - 12.0, 28.0, 318.0);
    let mut out = String::new();
    label(&mut out, "soft", "start", [0.0, 14.0], &frame.y);
    for tick in y_axis.ticks() {
        let y = y_axis.at(tick, bottom, top);
        line(&mut out, "grid", [left, y, right, y]);
        label(&mut out, "soft", "end", [left - 8.0, y + 4.0], &y_axis.label(tick));
    }
    for tick in x_axis.ticks() {
        let x = x_axis.at(tick, left, right);
        let name = match frame.names.len() {
            0 => x_axis.label(tick),
            _ => frame.names.get(tick.max(0.0) as usize).map(|n| cut(n, 24)).unwrap_or_default(),
        };
        line(&mut out, "rest", [x, bottom, x, bottom + 4.0]);
        label(&mut out, "soft", "middle", [x, bottom + 18.0], &name);
    }
    line(&mut out, "rest", [left, bottom, right, bottom]);
    label(&mut out, "soft", "middle", [(left + right) / 2.0, bottom + 36.0], &frame.x);
    // Light lines are drawn first, below the others.
    for s in series.iter().filter(|s| s.thin).chain(series.iter().filter(|s| !s.thin)) {
        let points = finite(s);
        let place = |(x, y): (f64, f64)| (x_axis.at(x, left, right), y_axis.at(y, bottom, top));
        let _ = write!(out, "<g class=\"c{}\"><title>{}</title>", s.colour % COLOURS, escape(&s.tip));
        if points.len() > 1 {
            let path: Vec<String> =
                points.iter().map(|(p, _)| place(*p)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(out, "<polyline class=\"{}\" points=\"{}\"/>", curve(s), path.join(" "));
        }
        for (point, interval) in &points {
            let (x, y) = place(*point);
            if let Some([low, high]) = interval.filter(|i| i.iter().all(|v| v.is_finite())) {
                line(&mut out, "spread", [x, y_axis.at(low, bottom, top), x, y_axis.at(high, bottom, top)]);
            }
            if !s.intervals.is_empty() || points.len() == 1 {
                let _ = write!(out, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
            }
            if s.mark == Some(point.0) {
                let _ = write!(out, "<circle class=\"ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
            }
        }
        out.push_str("</g>");
    }
    let height = legend(&mut out, series, &frame.ring, bottom + 60.0);
    format!("{}{out}</svg>", begin(&frame.title, [WIDTH, height]))
}

fn curve(s: &Series) -> String {
    let dash = ["", " d1", " d2"][(s.colour / COLOURS).min(2)];
    format!("curve{dash}{}", if s.thin { " thin" } else { "" })
}

/// Appends names with samples of their lines, in as many columns as fit; returns the height.
fn legend(out: &mut String, series: &[Series], ring: &str, top: f64) -> f64 {
    let named: Vec<&Series> = series.iter().filter(|s| !s.name.is_empty()).collect();
    let longest = named.iter().map(|s| s.name.chars().count().min(44)).chain([ring.chars().count()]).max().unwrap_or(0);
    let columns = (WIDTH / (48.0 + 6.8 * longest as f64)).floor().max(1.0);
    let place = |i: usize| {
        let (column, row) = ((i as f64) % columns, (i as f64 / columns).floor());
        [column * WIDTH / columns, top + row * 20.0]
    };
    for (i, s) in named.iter().enumerate() {
        let [x, y] = place(i);
        let _ = write!(out, "<g class=\"c{}\">", s.colour % COLOURS);
        line(out, &curve(s), [x, y, x + 26.0, y]);
        label(out, "", "start", [x + 34.0, y + 4.0], &cut(&s.name, 44));
        out.push_str("</g>");
    }
    let mut count = named.len();
    if !ring.is_empty() && series.iter().any(|s| s.mark.is_some()) {
        let [x, y] = place(count);
        let _ = write!(out, "<g class=\"c7\"><circle class=\"ring\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>", x + 13.0);
        label(out, "soft", "start", [x + 34.0, y + 4.0], ring);
        out.push_str("</g>");
        count += 1;
    }
    if count == 0 { top - 12.0 } else { place(count - 1)[1] + 16.0 }
}

#[cfg(test)]
mod tests {
    use super::{super::sound, *};

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::over([0.42, 0.617].into_iter(), 6, true).unwrap();
        let labels: Vec<String> = axis.ticks().iter().map(|t| axis.label(*t)).collect();
        assert_eq!(labels, ["0.40", "0.45", "0.50", "0.55", "0.60", "0.65"]);
        let axis = Axis::over([-3.0, 14.0].into_iter(), 5, true).unwrap();
        let labels: Vec<String> = axis.ticks().iter().map(|t| axis.label(*t)).collect();
        assert_eq!(labels, ["-5", "0", "5", "10", "15"]);
        assert_eq!(axis.at(5.0, 0.0, 100.0), 50.0);
        // A single value has space on both sides; no value has no axis.
        let axis = Axis::over([5.0, f64::NAN].into_iter(), 5, true).unwrap();
        assert!(axis.low < 5.0 && axis.high > 5.0);
        assert!(Axis::over([f64::NAN, f64::INFINITY].into_iter(), 5, true).is_none());
    }

    #[test]
    fn bars_begin_at_zero_unless_that_would_hide_what_differs() {
        let bar = |value: f64| Bar {
            label: "a<b".into(),
            value: Some(value),
            interval: Some([value - 1.0, value + 1.0]),
            published: Some(value),
            says: format!("{value:.2}"),
            tip: "\"tip\" & more".into(),
        };
        let of = |bars: Vec<Bar>| super::bars("title", "NDCG@3", &[Group { name: "BERT4Rec".into(), bars }]);
        let wide = of(vec![bar(10.0), bar(40.0)]);
        assert_eq!(wide.matches("<rect class=\"bar\"").count(), 2);
        assert!(wide.contains(">0</text>") && !wide.contains("does not begin"));
        // The longer bar is four times as long.
        let lengths: Vec<f64> =
            wide.split("width=\"").skip(2).map(|s| s.split('"').next().unwrap().parse().unwrap()).collect();
        assert!((lengths[1] / lengths[0] - 4.0).abs() < 0.01, "{lengths:?}");
        let close = of(vec![bar(42.0), bar(45.0)]);
        assert!(close.contains("NDCG@3; the axis does not begin at zero") && !close.contains("<rect"));
        assert_eq!(close.matches("class=\"dot\"").count(), 2);
        for svg in [wide, close] {
            assert!(
                svg.contains("a&lt;b") && svg.contains("&quot;tip&quot; &amp; more") && svg.contains(">published<")
            );
            assert_eq!(svg.matches("class=\"paper\"").count(), 3, "two values and the legend");
            assert_eq!(sound::faults(&svg), Vec::<String>::new());
            assert!(!sound::says_nan(&svg));
        }
        // Without a value, only the reason is drawn.
        let none = of(vec![Bar { label: "x".into(), says: "failed".into(), ..Bar::default() }]);
        assert!(none.contains(">failed<") && sound::faults(&none).is_empty() && !sound::says_nan(&none));
    }

    #[test]
    fn lines_have_a_legend_and_seeds_the_colour_of_their_row() {
        let series = |name: &str, colour: usize, thin: bool| Series {
            name: name.into(),
            colour,
            points: vec![(1.0, 0.1), (2.0, 0.3), (3.0, f64::NAN), (4.0, 0.2)],
            thin,
            mark: thin.then_some(2.0),
            tip: "t".into(),
            ..Series::default()
        };
        let frame = Frame {
            title: "curves".into(),
            x: "epoch".into(),
            y: "NDCG".into(),
            ring: "best".into(),
            ..Frame::default()
        };
        let svg = lines(&frame, &[series("", 9, true), series("MIP & NIP", 9, false)]);
        assert_eq!(svg.matches("<polyline class=\"curve d1 thin\"").count(), 1);
        assert_eq!(svg.matches("<polyline class=\"curve d1\"").count(), 1);
        assert_eq!(svg.matches("<g class=\"c1\">").count(), 3, "two lines and the legend");
        assert!(svg.contains("MIP &amp; NIP") && svg.contains(">best<") && svg.contains(">epoch<"));
        assert_eq!(svg.matches("class=\"ring\"").count(), 2);
        assert_eq!(sound::faults(&svg), Vec::<String>::new());
        assert!(!sound::says_nan(&svg));
        assert_eq!(lines(&frame, &[]), "");
        // Slices: names below, whiskers upwards.
        let named = Frame { names: vec!["few".into(), "many".into()], ..frame };
        let spread = Series {
            points: vec![(0.0, 1.0), (1.0, 2.0)],
            intervals: vec![[0.5, 1.5], [1.5, 2.5]],
            ..Series::default()
        };
        let svg = lines(&named, &[spread]);
        assert!(svg.contains(">few<") && svg.contains(">many<"));
        assert_eq!(svg.matches("class=\"spread\"").count(), 2);
    }
}
