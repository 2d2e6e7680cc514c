/*! Detects a file's format, delimiter, header and columns from its first part. File names only break ties; content
decides, so a `.csv` that contains tabs is read as tab-separated.
*/

use crate::{
    base::{Error, Result},
    data::import::{
        choose::{Names, choose},
        clock::{self, Clock},
        columns::{Columns, Role, bare, cells_of, is_known, is_list_name},
        decode::Encoding,
        doubts,
        filter::Filter,
        grammar::{Delimiter, Grammar},
        jsonl::{self, Wanted},
        messages::{flattening, listed},
        options::ImportOptions,
        sequences::{self, Asked, Lists},
        source::{Packing, Source},
        table::{Table, delimiter_of, rows_of, sample},
        ties,
        time::TimeKind,
        whole_lines::{columns_of_lines, whole_lines},
    },
};

/// The layout of a text file.
#[derive(Clone, Debug)]
pub(crate) struct TextLayout {
    pub source: Source,
    pub grammar: Grammar,
    /// The first record is a header.
    pub header: bool,
    /// Columns have names: from the header, the previous file, or the path.
    pub named: bool,
    /// The columns of the file, then those of its path.
    pub names: Vec<String>,
    pub columns: Columns,
    pub time_kind: Option<TimeKind>,
    /// Comment lines before the first record.
    pub preamble: u64,
    /// The lists, if rows hold lists.
    pub lists: Option<Lists>,
    /// The values to read, for JSON lines.
    pub json: Option<Wanted>,
    pub filter: Filter,
    /// The last column holds numbers.
    pub last_number: bool,
    /// The hint if no cell of the time column is a time.
    pub time_hint: Option<String>,
    /// The first row, if the file has no known header.
    first: Vec<String>,
    /// Warnings about what may be misread.
    pub doubts: Vec<String>,
}

/// Skips comments before the first record: lines that begin with `#` or `%` and a blank, as in graphs of KONECT and
/// SNAP, and the `sep=,` of spreadsheets. Returns the number of lines and the text after them.
fn after_comments(text: &[u8]) -> (u64, &[u8]) {
    let (mut lines, mut rest) = (0, text);
    while let Some(end) = rest.iter().position(|&b| b == b'\n') {
        let line = rest[..end].trim_ascii();
        let comment = matches!(line, [b'#' | b'%'] | [b'#' | b'%', b' ' | b'\t' | b'%' | b'#', ..])
            || line.len() == 5 && line.starts_with(b"sep=");
        if !comment {
            break;
        }
        (lines, rest) = (lines + 1, &rest[end + 1..]);
    }
    // A file of nothing but such lines is data.
    if rest.trim_ascii().is_empty() { (0, text) } else { (lines, rest) }
}

/// What a file without a header inherits from the one before it, if both have the same number of columns.
pub(crate) struct Inherited {
    delimiter: Delimiter,
    names: Vec<String>,
}

/// Determines the layout of a text log.
pub(crate) fn text_layout(
    source: Source,
    options: &ImportOptions,
    above: Option<&Inherited>,
) -> Result<Option<TextLayout>> {
    let at = |e: Error| e.at(source.display());
    // A column name given by a flag also identifies the header.
    let wishes = Role::wishes(options);
    let wished = |cell: &str| wishes.into_iter().flatten().any(|w| w.eq_ignore_ascii_case(bare(cell)));
    let known = |cell: &str| is_known(cell) || wished(cell);
    let (text, whole) = sample(&source)?;
    let (preamble, text) = after_comments(&text);
    let asked = Asked::of(options.list_sep.as_deref())?;
    let json = jsonl::sample(text, &source)?;
    let mut lists = None;
    let (mut list_columns, mut late, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    let Table { delimiter, mut header, mut names, mut rows } = match json {
        Some(json) => {
            list_columns = json.lists;
            late = json.late;
            objects = json.objects;
            let mut table = Table { delimiter: Delimiter::Json, header: true, names: json.names, rows: json.rows };
            // A column named by a flag may first occur in a later object.
            table.names.extend(late.extract_if(.., |(name, _)| wished(name)).map(|(name, _)| name));
            table.rows.iter_mut().for_each(|row| row.resize(table.names.len(), String::new()));
            table
        }
        None => {
            let guess = delimiter_of(text, whole, &source, options);
            if options.delimiter.is_some()
                && let Err(e) = guess
            {
                return Err(e);
            }
            match whole_lines(text, guess.as_ref().ok().copied(), asked, &source)? {
                Some(delimiter) => {
                    lists = Some(Lists::of_whole_lines(delimiter, 1));
                    let mut table = rows_of(text, whole, delimiter, &source, options, &known)?;
                    table.names.resize(2, "items".into());
                    table.rows.iter_mut().for_each(|row| row.truncate(2));
                    table
                }
                None => rows_of(text, whole, guess?, &source, options, &known)?,
            }
        }
    };
    let mut named = header;
    let mut doubts = Vec::new();
    // When a file is split into pieces, only the first one has the header.
    if let (false, false, Some(above)) = (header, options.no_header, above)
        && above.delimiter == delimiter
        && above.names.len() == names.len()
        && lists.is_none()
    {
        names.clone_from(&above.names);
        named = true;
        header = rows.first() == Some(&names);
        if header {
            rows.retain(|row| *row != names);
        }
    }
    if named && !header {
        doubts.push(format!(
            "{}: has no header: its columns are taken to be those of the file before ({}); if they are not, \
             import it alone",
            source.display(),
            listed(&names)
        ));
    }
    add_partition(&source, &mut names, &mut rows);
    // Names in another encoding match none of the known names.
    let odd = if header && options.encoding == Encoding::Utf8 { doubts::odd_header(&names) } else { None };
    let encoded = |e: Error| match &odd {
        Some(odd) => {
            let old = e.hint.as_ref().map_or(String::new(), |hint| format!("; otherwise: {hint}"));
            e.clone().hint(format!("{odd}{old}"))
        }
        None => e,
    };
    let columns = match &lists {
        Some(_) => columns_of_lines(options).map_err(at)?,
        None => {
            let origin = match (delimiter, named) {
                (Delimiter::Json, _) => Names::Fields,
                (_, true) => Names::Header,
                (_, false) => Names::None,
            };
            choose(&names, origin, &rows, options)
                .map_err(|e| of_objects(e, &names, &objects))
                .map_err(encoded)
                .map_err(at)?
        }
    };
    if rows.is_empty() {
        return Ok(None);
    }
    if delimiter == Delimiter::Json {
        jsonl::first_elements(&mut rows, &list_columns);
        doubts.extend(sequences::ignored_lists(
            &source,
            &names,
            list_columns.into_iter().filter(|c| is_list_name(&names[*c]) && !objects.contains(c)),
            &columns,
        ));
        let unread = |c: &&usize| is_list_name(&names[**c]) && Role::ALL.iter().all(|r| columns.of(*r) != Some(**c));
        doubts.extend(objects.iter().find(unread).map(|&c| {
            format!(
                "{}: column '{}' holds lists of objects, which are not supported, and is ignored; to write \
                 one line for each object: {}",
                source.display(),
                names[c],
                flattening(&names[c])
            )
        }));
    } else if lists.is_none() {
        let lines = rows.clone();
        lists = Lists::in_cells(&names, &mut rows, &columns, asked, &source)?;
        let unread = lists.as_ref().and_then(|l| l.ignored_times(&source, &names, &lines, &columns, options));
        doubts.extend(unread);
        let declared = (0..names.len()).filter(|c| names[*c].ends_with("_seq"));
        doubts.extend(sequences::ignored_lists(&source, &names, declared, &columns));
    }
    if lists.is_none() && asked != Asked::Table {
        doubts::lists(&source, &names, &columns, &rows)?;
    }
    let filter = Filter::new(&names, &rows, &columns, &options.wheres).map_err(encoded).map_err(at)?;
    let json = (delimiter == Delimiter::Json).then(|| {
        let own = |c: &usize| *c < names.len() - source.partition.len();
        let needed = Role::ALL.into_iter().filter_map(|role| columns.of(role)).filter(own).collect();
        Wanted::new(&names, needed, filter.columns().filter(own))
    });
    let clock = Clock::of(options)?;
    if let (Some(_), None) = (clock, columns.time) {
        return Err(clock::no_times().at(source.display()));
    }
    let time_kind = columns.time.map(|c| TimeKind::of_column(cells_of(&rows, c), clock)).transpose().map_err(at)?;
    let time_hint = columns.time.filter(|_| time_kind == Some(TimeKind::Unread));
    let time_hint = time_hint.and_then(|c| clock::hint(cells_of(&rows, c)));
    doubts.extend(doubts::ignored(&source, &names, &columns, &rows, options));
    if named && delimiter != Delimiter::Json {
        doubts.extend(doubts::same_names(&source, &names, &columns, options));
    }
    doubts.extend(doubts::late_columns(&source, &late, &columns, options));
    if lists.is_none() {
        doubts.extend(ties::unused_order(&source, &names, &columns, time_kind, &rows, options));
    }
    if !named && lists.is_none() {
        doubts.extend(doubts::keys_by_content(&source, &columns, &rows, options));
        doubts.extend(doubts::header_as_data(&source, &rows, &columns, options));
    }
    let width = match &lists {
        Some(lists) if lists.whole_lines => 0,
        // The most frequent width wins: a few rows may be broken.
        _ if delimiter == Delimiter::Json => 0,
        _ => usual_width(&rows).saturating_sub(source.partition.len()),
    };
    let last = width.checked_sub(1).map(|c| rows.iter().filter_map(move |row| row.get(c)));
    let last_number =
        last.is_some_and(|cells| 2 * cells.clone().filter(|cell| cell.parse::<f64>().is_ok()).count() > cells.count());
    let own = names.len() - source.partition.len();
    let read = Role::ALL.into_iter().filter_map(|role| columns.of(role)).chain(filter.needed());
    // A line without a delimiter is not a row, even if the path names the user and the file needs one column only.
    let needed = read.filter(|c| *c < own).max().map_or(2, |c| (c + 1).max(2));
    let grammar = Grammar { width, needed, ..Grammar::of(delimiter, options.quotes) };
    let first = if header { Vec::new() } else { rows.into_iter().next().unwrap_or_default() };
    Ok(Some(TextLayout {
        source,
        grammar,
        header,
        named,
        names,
        columns,
        time_kind,
        preamble,
        lists,
        json,
        filter,
        last_number,
        time_hint,
        first,
        doubts,
    }))
}

/// Extends the error about a missing column: a list of objects may contain it.
fn of_objects(e: Error, names: &[String], objects: &[usize]) -> Error {
    match objects.first() {
        Some(&c) if e.what.starts_with("no column looks like") => {
            let key = &names[c];
            let hint = e.hint.clone().unwrap_or_default();
            e.hint(format!(
                "{hint}; or is it in '{key}'? lists of objects are not supported; write one line for each object: {}",
                flattening(key)
            ))
        }
        _ => e,
    }
}

/// The most frequent number of cells per row.
fn usual_width(rows: &[Vec<String>]) -> usize {
    let mut widths: Vec<usize> = rows.iter().map(Vec::len).collect();
    widths.sort_unstable();
    widths.chunk_by(|a, b| a == b).max_by_key(|same| same.len()).map_or(0, |same| same[0])
}

/// Adds the columns named by the path. A file column takes precedence over a path column with the same name.
pub(crate) fn add_partition(source: &Source, names: &mut Vec<String>, rows: &mut [Vec<String>]) {
    let width = names.len();
    for (key, value) in &source.partition {
        rows.iter_mut().for_each(|row| {
            row.resize(names.len(), String::new());
            row.push(value.clone());
        });
        names.push(key.clone());
    }
    debug_assert_eq!(names.len(), width + source.partition.len());
}

impl TextLayout {
    /// What a file after this one may inherit.
    pub fn inherited(&self) -> Option<Inherited> {
        let own = self.names.len() - self.source.partition.len();
        self.header.then(|| Inherited { delimiter: self.grammar.delimiter, names: self.names[..own].to_vec() })
    }

    /// The format in words.
    pub fn kind(&self) -> String {
        self.grammar.delimiter.to_string()
    }

    /// The hint if the first row has words where the other rows have a time or a rating: it is probably a header with
    /// unknown names. `None` if it does not look like one.
    pub fn header_hint(&self, options: &ImportOptions) -> Option<String> {
        let is_word = |cell: &&String| cell.starts_with(char::is_alphabetic);
        let cell = |role: Role| self.columns.of(role).and_then(|c| self.first.get(c));
        let (time, rating) = (cell(Role::Time), cell(Role::Rating));
        if !time.iter().chain(&rating).any(is_word) {
            return None;
        }
        if options.no_header {
            return Some("is line 1 a header? then leave --no-header out".into());
        }
        let flags = [Role::User, Role::Item, Role::Time, Role::Rating].into_iter().filter_map(|role| {
            let name = cell(role).filter(is_word)?;
            let name = if name.contains(' ') { format!("\"{name}\"") } else { name.clone() };
            Some(format!(" --{}-col {name}", role.name()))
        });
        Some(format!(
            "is line 1 a header? none of its names is known; name the columns:{}; if line 1 is a bad row, --skip-bad \
             leaves it out",
            flags.collect::<String>()
        ))
    }

    /// The layout, for the user to check.
    pub fn describe(&self) -> Vec<String> {
        let header = match (self.grammar.delimiter, self.header) {
            (Delimiter::Json, _) => "one object per line",
            (_, true) => "with a header",
            (_, false) => "without a header",
        };
        let packing = match self.source.packing {
            Packing::None => String::new(),
            packing => format!(", {}", packing.name()),
        };
        let mut lines = vec![format!("{}: {}, {header}{packing}", self.source.display(), self.grammar.delimiter)];
        lines.extend(describe_columns(&self.names, self.named, &self.columns, &self.filter, self.time_kind));
        if let Some(lists) = &self.lists
            && let Some(line) = lines.iter_mut().find(|l| l.trim_start().starts_with(Role::Item.name()))
        {
            line.push_str(&lists.describe());
        }
        if self.preamble > 0 {
            lines.push(format!(
                "  skipped {} comment line{}",
                self.preamble,
                if self.preamble == 1 { "" } else { "s" }
            ));
        }
        lines
    }
}

/// One line for each role and one for the ignored columns.
pub(crate) fn describe_columns(
    names: &[String],
    named: bool,
    columns: &Columns,
    filter: &Filter,
    time_kind: Option<TimeKind>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for role in Role::ALL {
        let what = match columns.of(role) {
            Some(c) if named => format!("column {} '{}'", c + 1, names[c]),
            Some(c) => format!("column {}", c + 1),
            None if role == Role::Time => "none: the order of the rows is the order in time".into(),
            None if role == Role::Basket => continue,
            None => "none".into(),
        };
        let unit = match (role, columns.of(role), time_kind) {
            (Role::Time, Some(_), Some(kind)) => format!(", {}", kind.describe()),
            _ => String::new(),
        };
        lines.push(format!("  {:<7} {what}{unit}", role.name()));
    }
    let used: Vec<usize> = Role::ALL.iter().filter_map(|r| columns.of(*r)).chain(filter.needed()).collect();
    let ignored: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(c, _)| !used.contains(c))
        .map(|(_, n)| if n.is_empty() { "(unnamed)" } else { n })
        .collect();
    if !ignored.is_empty() {
        let more = if ignored.len() > 8 { format!(" and {} more", ignored.len() - 8) } else { String::new() };
        lines.push(format!("  ignored {}{more}", ignored[..ignored.len().min(8)].join(", ")));
    }
    lines
}
