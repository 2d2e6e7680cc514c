//! Checks pages and plots for well-formedness, for tests.

/// Returns the faults of a page: unclosed or mismatched tags, unquoted attributes, duplicate ids, and broken links
/// within the page.
pub fn faults(page: &str) -> Vec<String> {
    const VOID: [&str; 2] = ["meta", "br"];
    let (mut open, mut faults): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut ids, mut links): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        if text.contains('>') {
            faults.push(format!("a bare > in {text:?}"));
        }
        let Some(end) = rest[at..].find('>') else {
            faults.push("a tag without end".into());
            break;
        };
        let tag = &rest[at + 1..at + end];
        rest = &rest[at + end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop().as_deref() != Some(name) {
                faults.push(format!("</{name}> closes something else"));
            }
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or("");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            faults.push(format!("no name of a tag: {tag:?}"));
        }
        // Text between quotes is a value, text outside them a name.
        for (i, part) in tag[name.len()..].trim_end_matches('/').split('"').enumerate() {
            let key = part.trim();
            let names = key.is_empty()
                || key.ends_with('=') && key.trim_end_matches('=').chars().all(|c| c.is_alphanumeric() || c == '-');
            if i % 2 == 0 && !names {
                faults.push(format!("attributes of {tag:?}"));
            }
        }
        let value =
            |key: &str| tag.split(&format!(" {key}=\"")).nth(1).map(|v| v.split('"').next().unwrap_or("").to_string());
        ids.extend(value("id"));
        links.extend(value("href"));
        if name == "style" || name == "script" {
            let Some(close) = rest.find(&format!("</{name}>")) else {
                faults.push(format!("{name} without end"));
                break;
            };
            rest = &rest[close + name.len() + 3..];
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name.into());
        }
    }
    faults.extend(open.iter().map(|name| format!("<{name}> is not closed")));
    faults.extend(
        links
            .iter()
            .filter(|l| !l.strip_prefix('#').is_some_and(|id| ids.iter().any(|i| i == id)))
            .map(|l| format!("{l} leads nowhere")),
    );
    let count = ids.len();
    ids.sort();
    ids.dedup();
    if ids.len() < count {
        faults.push("a duplicate id".into());
    }
    faults
}

/// Returns whether a text contains a non-finite number as a separate word.
pub fn says_nan(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "NaN" | "nan" | "inf" | "Infinity"))
}

mod tests {
    use super::faults;

    #[test]
    fn the_checker_of_tags_finds_what_is_wrong() {
        assert!(faults("<p id=\"a\">x<br>y<a href=\"#a\">z</a></p><svg><rect x=\"1\"/></svg>").is_empty());
        for bad in [
            "<p>",
            "</p>",
            "<p><b></p></b>",
            "<p a=b></p>",
            "<a href=\"#x\"></a>",
            "<p id=\"a\"></p><p id=\"a\"></p>",
            "a > b<br>",
        ] {
            assert!(!faults(bad).is_empty(), "{bad}");
        }
    }
}
