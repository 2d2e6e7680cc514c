/*! Pages that need nothing else: style, plots and numbers stand in them, and they ask no one for anything. [`plot`] draws bars
and lines, [`icicle`] parts of a whole within each other; both are SVG that follows the reader's choice of light or dark.
*/

pub mod icicle;
pub mod plot;
#[cfg(test)]
pub mod sound;

use std::fmt::Write;

use plot::escape;

/// What stands where there is no number: never "NaN".
pub const NOTHING: &str = "-";

/// What a page ends with.
pub const END: &str = "</body>\n</html>\n";

/// A page up to what is seen of it.
pub fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n",
        escape(title),
        plot::STYLE,
        include_str!("page.css")
    )
}

/// Plots under one caption, each of which can be moved sideways where the screen is narrow.
pub fn figure(out: &mut String, caption: &str, plots: &[String]) {
    let _ = writeln!(out, "<figure><figcaption>{caption}</figcaption>");
    out.push_str("<div class=\"plots\">\n");
    for svg in plots {
        let _ = writeln!(out, "<div class=\"scroll\" tabindex=\"0\">{svg}</div>");
    }
    out.push_str("</div></figure>\n");
}

/// A cell of a table with a number.
pub fn number(out: &mut String, text: &str) {
    let _ = write!(out, "<td class=\"n\">{}</td>", escape(text));
}

/// Values that whoever has the page can compute on, in an element of this id. No `<` may stand in a script, or a name could
/// end it; JSON has an escape for it.
pub fn data(out: &mut String, id: &str, value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).unwrap_or_default().replace('<', "\\u003c");
    let _ = write!(out, "<script type=\"application/json\" id=\"{id}\">{json}</script>");
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// To so many decimals; a dash where it is no number.
pub fn plain(x: f64, decimals: usize) -> String {
    if x.is_finite() { format!("{x:.decimals$}") } else { NOTHING.into() }
}

/// `45 s`, `12 min`, `3 h 05 min`.
pub fn duration(seconds: f64) -> String {
    if !(0.0..1e15).contains(&seconds) {
        return NOTHING.into();
    }
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{minutes} min"),
        _ => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}
