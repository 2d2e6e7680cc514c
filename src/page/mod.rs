/*! Self-contained pages: styles, plots and numbers are inline, and nothing is loaded. [`plot`] draws bars and lines,
[`icicle`] nested parts of a whole. Both are SVG that follows the reader's choice of light or dark.
*/

pub mod icicle;
pub mod plot;
#[cfg(test)]
pub mod sound;

use std::fmt::Write;

use plot::escape;

/// Printed in place of a missing number, never "NaN".
pub const NOTHING: &str = "-";

/// The end of every page.
pub const END: &str = "</body>\n</html>\n";

/// Returns the beginning of a page, up to its visible content.
pub fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n\
         {}{}</style>\n</head>\n<body>\n",
        escape(title),
        plot::STYLE,
        include_str!("page.css")
    )
}

/// Appends plots with one caption; each scrolls horizontally on a narrow screen.
pub fn figure(out: &mut String, caption: &str, plots: &[String]) {
    let _ = writeln!(out, "<figure><figcaption>{caption}</figcaption>");
    out.push_str("<div class=\"plots\">\n");
    for svg in plots {
        let _ = writeln!(out, "<div class=\"scroll\" tabindex=\"0\">{svg}</div>");
    }
    out.push_str("</div></figure>\n");
}

/// Appends a table cell with a number.
pub fn number(out: &mut String, text: &str) {
    let _ = write!(out, "<td class=\"n\">{}</td>", escape(text));
}

/// Appends machine-readable values in an element with this id. A script must not contain `<`, because a name could then
/// end it; JSON has an escape for it.
pub fn data(out: &mut String, id: &str, value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).unwrap_or_default().replace('<', "\\u003c");
    let _ = write!(out, "<script type=\"application/json\" id=\"{id}\">{json}</script>");
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Formats a number with this many decimals; a dash if it is not finite.
pub fn plain(x: f64, decimals: usize) -> String {
    if x.is_finite() { format!("{x:.decimals$}") } else { NOTHING.into() }
}

/// Formats a duration as `45 s`, `12 min` or `3 h 05 min`.
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
