/*! JSON lines: one object per line. The columns are the keys of the first lines; a dotted name reaches into nested
objects (`event.item.id`). Only the wanted values of a line are parsed; they become fields of the piece of text, as in a
delimited file, so that later stages handle both in the same way.
*/

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    base::{Error, Result},
    data::import::{bad_rows::LIST_OF_OBJECTS, grammar::Field, source::Source, table::SAMPLE_ROWS},
};

/// The columns and first rows of a JSON log.
pub(crate) struct Sample {
    pub names: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Columns in which most cells are lists.
    pub lists: Vec<usize>,
    /// Columns of `lists` that hold lists of objects.
    pub objects: Vec<usize>,
    /// Names that first occur below these rows, and the lines where they do.
    pub late: Vec<(String, u64)>,
}

/// Samples the first part of a text. `None`: it is not JSON.
///
/// # Errors
/// JSON that is not one object per line.
pub(crate) fn sample(text: &[u8], source: &Source) -> Result<Option<Sample>> {
    let refuse = |what: &str, hint: String| Err(Error::user(format!("{}: {what}", source.display())).hint(hint));
    let file = source.typed();
    let lines = || text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty());
    let first = lines().next().unwrap_or_default();
    let start = text.trim_ascii_start();
    if start.starts_with(b"[") {
        let inside = start[1..].trim_ascii_start();
        if inside.starts_with(b"{") {
            return refuse(
                "this is one array of JSON objects",
                format!("write one object per line: jq -c '.[]' {file} | mipgpu import - --out DIR"),
            );
        }
        if serde_json::from_slice::<Vec<Value>>(first).is_ok() {
            return refuse(
                "lines of JSON arrays, which name no columns",
                format!("write them as CSV: jq -r '@csv' {file} | mipgpu import - --out DIR"),
            );
        }
        return Ok(None);
    }
    if !start.starts_with(b"{") {
        return Ok(None);
    }
    let one_object = match serde_json::from_slice::<Map<String, Value>>(start) {
        Ok(object) => holds_columns(&object),
        Err(_) => serde_json::from_slice::<IgnoredAny>(first).is_err() && begins_columns(start),
    };
    if one_object {
        return refuse(
            "this is one JSON object that holds columns, not one object per row",
            "write one object per line; in pandas: to_json('OUT.jsonl', orient='records', lines=True)".into(),
        );
    }
    let parsed: Vec<Option<Map<String, Value>>> =
        lines().take(SAMPLE_ROWS).map(|line| serde_json::from_slice(line).ok()).collect();
    let good = parsed.iter().flatten().count();
    if 2 * good < parsed.len() || good == 0 {
        if first.starts_with(b"{'") || first.starts_with(b"{u'") {
            return refuse(
                "these are Python dicts, not JSON",
                format!(
                    "write them as JSON: python3 -c 'import ast,json,sys; [print(json.dumps(ast.literal_eval(l))) for \
                     l in sys.stdin]' < {file} | mipgpu import - --out DIR"
                ),
            );
        }
        let rest = start[1..].trim_ascii_start();
        if rest.starts_with(b"\"") || rest.starts_with(b"}") {
            return refuse(
                "JSON that is not one object per line",
                format!(
                    "write one object per line: jq -c . {file} | mipgpu import - --out DIR (with '.KEY[]' in place of \
                     '.' where one object holds them all)"
                ),
            );
        }
        return Ok(None);
    }
    let mut names: Vec<String> = Vec::new();
    let mut rows: Vec<Vec<(usize, &Value)>> = Vec::new();
    for object in parsed.iter().flatten() {
        let mut row = Vec::new();
        flatten(object, "", &mut names, &mut row);
        rows.push(row);
    }
    let (mut late, mut all) = (Vec::new(), names.clone());
    for (n, line) in text.split(|&b| b == b'\n').enumerate().skip(SAMPLE_ROWS) {
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(line) else { continue };
        flatten(&object, "", &mut all, &mut Vec::new());
        late.extend(
            all[names.len() + late.len()..].iter().map(|name| (name.clone(), n as u64 + 1)).collect::<Vec<_>>(),
        );
    }
    let most = |c: usize| {
        let values = || rows.iter().flatten().filter(|(at, v)| *at == c && !v.is_null());
        2 * values().filter(|(_, v)| v.is_array()).count() > values().count()
    };
    let mut lists: Vec<usize> = (0..names.len()).filter(|c| most(*c)).collect();
    let of_objects = |c: usize| {
        let values = rows.iter().flatten().filter(|(at, _)| *at == c);
        values.filter_map(|(_, v)| v.as_array()?.first()).next().is_some_and(Value::is_object)
    };
    let mut objects: Vec<usize> = lists.iter().copied().filter(|c| of_objects(*c)).collect();
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![String::new(); names.len()];
            row.iter().for_each(|(c, value)| cells[*c] = cell(value));
            cells
        })
        .collect();
    // A value that is null in some objects and an object in others: the columns are its keys, not the value.
    let null = |c: usize| rows.iter().flatten().all(|(at, v)| *at != c || v.is_null());
    for c in (0..names.len()).rev().filter(|c| null(*c)).collect::<Vec<_>>() {
        let inner = format!("{}.", names[c]);
        if late
            .iter()
            .chain(names.iter().map(|name| (name.clone(), 0)).collect::<Vec<_>>().iter())
            .any(|(n, _)| n.starts_with(&inner))
        {
            names.remove(c);
            cells.iter_mut().for_each(|row| drop(row.remove(c)));
            for list in [&mut lists, &mut objects] {
                list.retain(|at| *at != c);
                list.iter_mut().filter(|at| **at > c).for_each(|at| *at -= 1);
            }
            names.extend(late.extract_if(.., |(name, _)| name.starts_with(&inner)).map(|(name, _)| name));
        }
    }
    cells.iter_mut().for_each(|row| row.resize(names.len(), String::new()));
    Ok(Some(Sample { names, rows: cells, lists, objects, late }))
}

/// Whether an object is a table stored by column, the default of pandas.
fn holds_columns(object: &Map<String, Value>) -> bool {
    let number = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
    let values = || object.values();
    let first = values().next();
    let keyed = |first: &Map<String, Value>| {
        !first.is_empty()
            && (first.keys().all(number) || first.len() >= 20)
            && values()
                .all(|v| v.as_object().is_some_and(|inner| inner.len() == first.len() && inner.keys().eq(first.keys())))
    };
    let lists = |first: &Vec<Value>| {
        !first.is_empty() && values().all(|v| v.as_array().is_some_and(|l| l.len() == first.len()))
    };
    let split = || ["columns", "data"].iter().all(|key| object.get(*key).is_some_and(Value::is_array));
    object.len() > 1
        && (first.and_then(Value::as_object).is_some_and(keyed) || first.and_then(Value::as_array).is_some_and(lists))
        || split()
}

/// Whether a truncated text begins as such an object: `{"user":{"0":`.
fn begins_columns(text: &[u8]) -> bool {
    fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
        let text = text.trim_ascii_start().strip_prefix(b"\"")?;
        let end = text.iter().position(|&b| b == b'"')?;
        Some((&text[..end], &text[end + 1..]))
    }
    let value =
        || string(text.strip_prefix(b"{")?)?.1.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
    value().is_some_and(|value| match value {
        [b'{', rest @ ..] => string(rest).is_some_and(|(key, _)| !key.is_empty() && key.iter().all(u8::is_ascii_digit)),
        // With several lines, each may be an object.
        [b'[', rest @ ..] => !text.contains(&b'\n') && !matches!(rest.trim_ascii_start(), [b'{' | b'[', ..]),
        _ => false,
    })
}

/// Lists the values of an object under dotted names; names come in order of first appearance.
fn flatten<'a>(
    object: &'a Map<String, Value>,
    above: &str,
    names: &mut Vec<String>,
    row: &mut Vec<(usize, &'a Value)>,
) {
    for (key, value) in object {
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            Value::Object(inner) => flatten(inner, &name, names, row),
            value => {
                let at = names.iter().position(|n| *n == name).unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                row.push((at, value));
            }
        }
    }
}

/// Replaces each list by its first element, so that checks of cells see elements.
pub(crate) fn first_elements(rows: &mut [Vec<String>], lists: &[usize]) {
    for row in rows {
        for &c in lists {
            let elements: Vec<Value> = serde_json::from_str(&row[c]).unwrap_or_default();
            row[c] = elements.first().map_or(String::new(), cell);
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value to read from each object.
#[derive(Clone, Debug)]
struct Path {
    /// The rest of the dotted name at this depth.
    rest: String,
    /// Its column.
    column: usize,
}

/// The values of an object that form a row.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    paths: Vec<Path>,
    /// Columns that an object must have.
    needed: Vec<usize>,
    names: Vec<String>,
}

/// Positions of the values of one line in the text: (column, start, end), as written in JSON.
type Found = Vec<(usize, usize, usize)>;

/// The fields of one line.
#[derive(Default)]
pub(crate) struct Line {
    found: Found,
    /// By column; empty for columns that are not wanted.
    pub fields: Vec<Field>,
    /// A column that the object must have and does not have.
    pub missing: Option<usize>,
    /// Columns that hold a list in this line, and their elements.
    pub lists: Vec<(usize, Vec<Field>)>,
}

impl Wanted {
    /// Of all `names`, the columns that an object must have, and optional ones.
    pub fn new(names: &[String], needed: Vec<usize>, others: impl Iterator<Item = usize>) -> Wanted {
        let columns = needed.iter().copied().chain(others);
        let mut paths: Vec<Path> = columns.map(|c| Path { rest: names[c].clone(), column: c }).collect();
        paths.sort_by_key(|p| p.column);
        paths.dedup_by_key(|p| p.column);
        Wanted { paths, needed, names: names.to_vec() }
    }

    /// Reads the line at `text[start..end]`. Escaped strings are unescaped in place, which never makes them longer. On
    /// failure: the column, if known, and the reason.
    pub fn read(
        &self,
        text: &mut [u8],
        start: usize,
        end: usize,
        line: &mut Line,
    ) -> std::result::Result<(), (Option<usize>, String)> {
        line.found.clear();
        line.lists.clear();
        line.fields.clear();
        line.fields.resize(self.names.len(), Field { start: 0, end: 0, escaped: false });
        scan(&text[start..end], start, &self.paths, &mut line.found).map_err(|e| (None, no_object(&e)))?;
        if line.found.len() != self.paths.len() {
            // Of duplicate keys the last one wins, as in most JSON parsers.
            let found = std::mem::take(&mut line.found);
            for (n, one) in found.iter().enumerate() {
                if found[n + 1..].iter().all(|(c, ..)| *c != one.0) {
                    line.found.push(*one);
                }
            }
        }
        let has = |column: usize| line.found.iter().any(|(c, ..)| *c == column);
        line.missing = self.needed.iter().copied().find(|c| !has(*c));
        for &(column, from, to) in &line.found {
            if text[from] == b'[' {
                let mut elements = Vec::new();
                for (from, to) in elements_of(&text[from..to], from).map_err(|e| (Some(column), e))? {
                    if text[from] == b'{' {
                        return Err((Some(column), LIST_OF_OBJECTS.into()));
                    }
                    elements.push(scalar(text, from, to).map_err(|e| (Some(column), e))?);
                }
                line.lists.push((column, elements));
            } else if text[from] == b'{' {
                return Err((Some(column), self.inner_key(&text[from..to], column)));
            } else {
                line.fields[column] = scalar(text, from, to).map_err(|e| (Some(column), e))?;
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// The reason for a value that is an object: suggests one of its keys.
    #[cold]
    fn inner_key(&self, object: &[u8], column: usize) -> String {
        let inner: Map<String, Value> = serde_json::from_slice(object).unwrap_or_default();
        let key = inner.keys().find(|key| *key == "id").or(inner.keys().next());
        let name = &self.names[column];
        let name = key.map_or_else(|| "KEY.INNER".into(), |key| format!("{name}.{key}"));
        format!("the value is an object; name a key in it as the column, such as {name}")
    }
}

/// serde's message for a line, without its line number, which is always 1.
fn no_object(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let (what, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    format!("not a JSON object ({what}, at its byte {})", e.column())
}

/// The text of a value that is neither a list nor an object; `null` is empty.
fn scalar(text: &mut [u8], from: usize, to: usize) -> std::result::Result<Field, String> {
    let field = |start, end| Ok(Field { start, end, escaped: false });
    match text[from] {
        b'"' if !text[from..to].contains(&b'\\') => field(from + 1, to - 1),
        b'"' => {
            let plain: String =
                serde_json::from_slice(&text[from..to]).map_err(|_| "the string holds a broken escape".to_owned())?;
            text[from..from + plain.len()].copy_from_slice(plain.as_bytes());
            field(from, from + plain.len())
        }
        b'n' => field(from, from),
        b'{' => Err("the value is an object; name what is meant in it with a dot: KEY.INNER".into()),
        b'[' => Err("the value is a list of lists".into()),
        _ => field(from, to),
    }
}

fn elements_of(list: &[u8], at: usize) -> std::result::Result<Vec<(usize, usize)>, String> {
    let raw: Vec<&RawValue> = serde_json::from_slice(list).map_err(|_| "the list cannot be read".to_owned())?;
    Ok(raw.iter().map(|value| place(value, list, at)).collect())
}

/// The position of a value borrowed from `text`, which begins at `at`.
fn place(value: &RawValue, text: &[u8], at: usize) -> (usize, usize) {
    let start = value.get().as_ptr() as usize - text.as_ptr() as usize + at;
    (start, start + value.get().len())
}

/// Finds the wanted values of the object in `text`, which begins at `at`.
fn scan(text: &[u8], at: usize, paths: &[Path], found: &mut Found) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    reader.deserialize_map(Object { text, at, paths, found })?;
    reader.end()
}

struct Object<'a> {
    text: &'a [u8],
    at: usize,
    paths: &'a [Path],
    found: &'a mut Found,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key { paths: self.paths })? {
            match key {
                Match::None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Match::Leaf(column) => {
                    let value: &RawValue = map.next_value()?;
                    let (start, end) = place(value, self.text, self.at);
                    self.found.push((column, start, end));
                }
                Match::Inner(inner) => {
                    let value: &RawValue = map.next_value()?;
                    let (start, _) = place(value, self.text, self.at);
                    // Other values have no keys, so the wanted column is reported as missing.
                    if value.get().starts_with('{') {
                        scan(value.get().as_bytes(), start, &inner, self.found).map_err(serde::de::Error::custom)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a key of an object leads to.
enum Match {
    None,
    Leaf(usize),
    /// Values wanted from the object under the key.
    Inner(Vec<Path>),
}

struct Key<'a> {
    paths: &'a [Path],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Match;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> std::result::Result<Match, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Match;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<Match, E> {
        let mut inner = Vec::new();
        for path in self.paths {
            match path.rest.strip_prefix(key) {
                Some("") => return Ok(Match::Leaf(path.column)),
                Some(rest) if rest.starts_with('.') => {
                    inner.push(Path { rest: rest[1..].to_owned(), column: path.column });
                }
                _ => {}
            }
        }
        Ok(if inner.is_empty() { Match::None } else { Match::Inner(inner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &[&str], text: &str) -> std::result::Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut bytes = format!("xx{text}").into_bytes();
        let (mut line, end) = (Line::default(), bytes.len());
        let wanted = Wanted::new(&names, (0..names.len()).collect(), std::iter::empty());
        wanted.read(&mut bytes, 2, end, &mut line).map_err(|(_, e)| e)?;
        if let Some(missing) = line.missing {
            return Err(format!("no {}", names[missing]));
        }
        let cell = |f: &Field| String::from_utf8_lossy(&bytes[f.start..f.end]).into_owned();
        let lists = line.lists.iter().map(|(_, list)| list.iter().map(cell).collect::<Vec<_>>().join("+"));
        Ok(line.fields.iter().map(cell).chain(lists).collect())
    }

    #[test]
    fn values_stand_as_they_are_written() {
        let text = concat!(
            r#" {"b": 3.0, "skip": {"a": [1, "}"]}, "a": "x\"y\u00e9\n\ud83d\ude00", "c": true, "#,
            r#""d":12345678901234567890} "#
        );
        let cells = read(&["a", "b", "c", "d"], text).unwrap();
        assert_eq!(cells, ["x\"yé\n😀", "3.0", "true", "12345678901234567890"]);
        assert_eq!(read(&["a", "b"], r#"{"a":null,"b":1,"a":"last"}"#).unwrap(), ["last", "1"]);
    }

    #[test]
    fn dotted_names_reach_into_objects() {
        let text = r#"{"event":{"item":{"id":7,"x":0},"at":5},"user":{"id":"u"},"a.b":1}"#;
        assert_eq!(read(&["user.id", "event.item.id", "event.at", "a.b"], text).unwrap(), ["u", "7", "5", "1"]);
        assert!(read(&["user.id"], r#"{"user":"u"}"#).unwrap_err().contains("no user.id"));
        assert!(read(&["user"], r#"{"user":{"id":1}}"#).unwrap_err().contains("the value is an object"));
    }

    #[test]
    fn lists_are_taken_apart() {
        assert_eq!(read(&["a", "b"], r#"{"a":1,"b":[3, "f\"our",5]}"#).unwrap(), ["1", "", "3+f\"our+5"]);
        assert!(read(&["b"], r#"{"b":[[1]]}"#).unwrap_err().contains("list of lists"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["[1]", "{\"a\":1", "{\"a\":1}}", "{\"a\":1}{\"a\":2}", "nonsense", "{\"a\":\"\\ud800\"}", "3"] {
            assert!(read(&["a"], bad).is_err(), "{bad}");
        }
    }
}
