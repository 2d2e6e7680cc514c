//! Parts of messages that several files use.

/// How many names a message shows.
const SHOWN: usize = 12;

/// Names for a message: the first few, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    let cut = |name: &String| match name.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.clone(),
    };
    let shown: Vec<String> = names.iter().take(SHOWN).map(cut).collect();
    let more = names.len().saturating_sub(SHOWN);
    format!("{}{}", shown.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() })
}

/// A cell for a message, truncated to 40 characters.
pub(crate) fn shown(cell: &[u8]) -> String {
    let text = String::from_utf8_lossy(cell);
    if text.chars().count() > 40 { text.chars().take(40).chain("…".chars()).collect() } else { text.into_owned() }
}

/// The command that writes one line for each object in a list of objects.
pub(crate) fn flattening(key: &str) -> String {
    format!("jq -c '.{key}[] as $x | del(.{key}) + $x' FILE | mipgpu import - --out DIR")
}
