/*! Parquet logs -> blocks of parsed rows, with plain column readers: only the needed columns are read, a batch of rows
at a time. Keys of any scalar type become text, as in a CSV of the same table.
*/

use std::{
    borrow::Cow,
    fs::File,
    sync::{Arc, mpsc::SyncSender},
};

use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::{ColumnDescPtr, ColumnDescriptor},
};

use crate::{
    base::{Error, Result},
    data::import::{
        bad_rows::{NOT_UTF8, bad_time, outside},
        block::Block,
        choose::{Names, choose},
        clock::{self, Clock},
        columns::{Columns, Role, by_wish},
        doubts,
        filter::Filter,
        intern::hash_key,
        nested,
        options::ImportOptions,
        parquet_cells::{Cells, Values},
        ratings::{boolean_word, parse_rating},
        rows::{EventRow, basket_label},
        rules::Rules,
        sequences,
        sniff::{add_partition, describe_columns},
        source::Source,
        table::SAMPLE_ROWS,
        ties,
        time::{Moment, TimeKind, iso},
    },
};

/// Rows per read.
const BATCH: usize = 32 << 10;

/// Records per read if they contain lists.
const LIST_BATCH: usize = 512;

/// The layout of a Parquet file.
pub(crate) struct ParquetLayout {
    pub source: Source,
    pub names: Vec<String>,
    pub columns: Columns,
    pub time_kind: Option<TimeKind>,
    /// Ticks per unit of the time column: a column of a timestamp type is read in seconds.
    ticks: i64,
    pub rows: u64,
    /// Text appended to the item column's description if rows hold lists.
    lists: &'static str,
    pub filter: Filter,
    /// The hint if no cell of the time column is a time.
    pub time_hint: Option<String>,
    /// Warnings about what may be misread.
    pub doubts: Vec<String>,
}

fn damaged(source: &Source, e: &ParquetError) -> Error {
    if matches!(e, ParquetError::NYI(_)) {
        return Error::user(format!("{}: this Parquet file uses an unsupported feature ({e})", source.display()))
            .hint("write it again with the usual settings, compressed with zstd or snappy");
    }
    Error::user(format!("{}: this Parquet file cannot be read ({e})", source.display()))
        .hint("the file was cut short or damaged; copy or download it again")
}

fn open(source: &Source) -> Result<SerializedFileReader<File>> {
    SerializedFileReader::new(source.file()?).map_err(|e| damaged(source, &e))
}

/// Determines the layout of a Parquet log.
pub(crate) fn layout(source: Source, options: &ImportOptions) -> Result<Option<ParquetLayout>> {
    let reader = open(&source)?;
    let meta = reader.metadata().file_metadata();
    let leaves = meta.schema_descr().columns();
    let mut names: Vec<String> = leaves.iter().map(|c| nested::name_of(c)).collect();
    let at = |e: Error| e.at(source.display());
    let list = |c: &usize| leaves.get(*c).is_some_and(|leaf| leaf.max_rep_level() > 0);
    let mut sample = sample(&reader, leaves);
    add_partition(&source, &mut names, &mut sample);
    let columns = choose(&names, Names::Fields, &sample, options).map_err(at)?;
    let rows = u64::try_from(meta.num_rows()).unwrap_or(0);
    if rows == 0 {
        return Ok(None);
    }
    for role in Role::ALL {
        let Some(c) = columns.of(role) else { continue };
        let Some(leaf) = leaves.get(c) else { continue };
        let decimal = leaf.converted_type() == ConvertedType::DECIMAL;
        let supported = match leaf.physical_type() {
            _ if decimal => !matches!(role, Role::Time),
            Type::BYTE_ARRAY => true,
            Type::INT96 => role == Role::Time,
            Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE => true,
            Type::BOOLEAN => role == Role::Rating,
            Type::FIXED_LEN_BYTE_ARRAY => false,
        };
        // Items may be lists, and then times and ratings too.
        let listable = matches!(role, Role::Item | Role::Time | Role::Rating) && list(&columns.item);
        let fits = leaf.max_rep_level() == 0 || leaf.max_rep_level() == 1 && listable;
        if !fits || !supported {
            let kind = match (leaf.max_rep_level(), decimal) {
                (2.., _) => "a list of lists".into(),
                (1, _) if !fits => "a list".into(),
                (_, true) => "of type DECIMAL".into(),
                _ => format!("of type {}", leaf.physical_type()),
            };
            return Err(Error::user(format!("{}: column '{}' is {kind}", source.display(), names[c]))
                .hint(format!("the {} must be a column of text or numbers, one row an interaction", role.name())));
        }
    }
    let mut wheres = options.wheres.clone();
    for wish in &mut wheres {
        let c = by_wish(&names, &wish.column, "--where").map_err(at)?;
        if leaves.get(c).is_some_and(|leaf| leaf.physical_type() == Type::BOOLEAN) {
            // Boolean columns are read as 0 and 1.
            let digit = |value: &String| boolean_word(value).map_or(value.clone(), |yes| u8::from(yes).to_string());
            wish.values = wish.values.iter().map(digit).collect();
        }
    }
    let filter = Filter::new(&names, &sample, &columns, &wheres).map_err(at)?;
    for c in filter.columns().filter(|c| *c < leaves.len()) {
        let leaf = &leaves[c];
        let text = !matches!(leaf.physical_type(), Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY);
        if list(&c) || !text && leaf.converted_type() != ConvertedType::DECIMAL {
            return Err(Error::user(format!("{}: column '{}' holds no plain values", source.display(), names[c]))
                .hint("--where takes a column of text or numbers"));
        }
    }
    let clock = Clock::of(options)?;
    if let (Some(_), None) = (clock, columns.time) {
        return Err(clock::no_times().at(source.display()));
    }
    let (time_kind, time_hint) = match columns.time {
        None => (None, None),
        Some(c) if c >= leaves.len() => {
            let cell = std::iter::once(sample[0][c].as_str());
            (Some(TimeKind::of_column(cell, clock).map_err(at)?), None)
        }
        Some(c) => match first_times(&reader, c, &leaves[c]).map_err(|e| damaged(&source, &e))? {
            FirstTimes::Text(cells) => {
                let cells = cells.iter().map(String::as_str);
                let kind = TimeKind::of_column(cells.clone(), clock).map_err(at)?;
                (Some(kind), (kind == TimeKind::Unread).then(|| clock::hint(cells)).flatten())
            }
            FirstTimes::Kind(_) if clock.is_some() => {
                return Err(at(Error::user(format!("column '{}' holds moments, not text", names[c]))
                    .hint("leave --time-format and --time-zone out")));
            }
            FirstTimes::Kind(kind) => (Some(kind), None),
        },
    };
    let mut doubts = doubts::ignored(&source, &names, &columns, &sample, options);
    let lists = if list(&columns.item) { ", a list, oldest first" } else { "" };
    if lists.is_empty() {
        doubts.extend(sequences::ignored_lists(&source, &names, (0..leaves.len()).filter(list), &columns));
        doubts::lists(&source, &names, &columns, &sample)?;
        doubts.extend(ties::unused_order(&source, &names, &columns, time_kind, &sample, options));
    }
    let ticks = columns.time.and_then(|c| leaves.get(c)).map_or(1, |leaf| ticks_of(leaf));
    Ok(Some(ParquetLayout { source, names, columns, time_kind, ticks, rows, lists, filter, time_hint, doubts }))
}

/// The first rows as text, as in a CSV of the same table; a cell of a list column becomes `[]`. Cells that cannot be
/// read stay empty.
fn sample(reader: &SerializedFileReader<File>, leaves: &[Arc<ColumnDescriptor>]) -> Vec<Vec<String>> {
    let column = |c: usize| -> Option<Vec<String>> {
        let leaf = &leaves[c];
        if leaf.max_rep_level() > 0 {
            return None;
        }
        let boolean = leaf.physical_type() == Type::BOOLEAN;
        let mut cells = Cells::new(reader.get_row_group(0).ok()?.get_column_reader(c).ok()?, leaf, None);
        let rows = cells.read(SAMPLE_ROWS).ok()?;
        let text = |i: usize| {
            let mut text = Vec::new();
            cells.text(i, &mut text);
            let text = String::from_utf8_lossy(&text).into_owned();
            match (declared_unit(leaf).is_some(), boolean, text.as_str()) {
                (_, _, "") => text,
                (true, ..) => {
                    let moment = text.parse().ok().map(|n| Moment::of_ticks(n, ticks_of(leaf)));
                    moment.and_then(iso).unwrap_or_else(|| "9999-12-31".into())
                }
                (_, true, "0") => "False".into(),
                (_, true, _) => "True".into(),
                _ => text,
            }
        };
        Some((0..rows).map(text).collect())
    };
    let columns: Vec<Option<Vec<String>>> = (0..leaves.len()).map(column).collect();
    let rows = columns.iter().flatten().map(Vec::len).max().unwrap_or(1).max(1);
    let cell = |c: usize, row: usize| match &columns[c] {
        Some(cells) => cells.get(row).cloned().unwrap_or_default(),
        None if leaves[c].max_rep_level() > 0 => "[]".into(),
        None => String::new(),
    };
    (0..rows).map(|row| (0..leaves.len()).map(|c| cell(c, row)).collect()).collect()
}

/// Ticks per second of a column with a time type, else 1.
fn ticks_of(leaf: &ColumnDescriptor) -> i64 {
    match declared_unit(leaf) {
        Some("ms") => 1_000,
        Some("us") => 1_000_000,
        Some("ns") => 1_000_000_000,
        _ => 1,
    }
}

/// The unit of a column with a time type.
fn declared_unit(leaf: &ColumnDescriptor) -> Option<&'static str> {
    match (leaf.logical_type_ref(), leaf.converted_type(), leaf.physical_type()) {
        (Some(LogicalType::Timestamp(t)), ..) => Some(match t.unit {
            TimeUnit::MILLIS => "ms",
            TimeUnit::MICROS => "us",
            TimeUnit::NANOS => "ns",
        }),
        (_, ConvertedType::TIMESTAMP_MILLIS, _) => Some("ms"),
        (_, ConvertedType::TIMESTAMP_MICROS, _) => Some("us"),
        (_, ConvertedType::DATE, _) | (Some(LogicalType::Date), ..) => Some("s"),
        (_, _, Type::INT96) => Some("ns"),
        _ => None,
    }
}

/// The first cells of a text time column, or the unit given by the column's type or its first numbers.
enum FirstTimes {
    Text(Vec<String>),
    Kind(TimeKind),
}

fn first_times(
    reader: &SerializedFileReader<File>,
    column: usize,
    leaf: &ColumnDescriptor,
) -> std::result::Result<FirstTimes, ParquetError> {
    if declared_unit(leaf).is_some() {
        return Ok(FirstTimes::Kind(TimeKind::Date));
    }
    let schema = reader.metadata().file_metadata().schema_descr();
    let element = (leaf.max_rep_level() > 0).then(|| nested::element_level(schema, leaf));
    let mut cells = Cells::new(reader.get_row_group(0)?.get_column_reader(column)?, leaf, element);
    cells.read(1000)?;
    let numbers: Vec<String> = match &cells.values {
        Values::Text(texts) => {
            let texts = texts.iter().flatten().map(|t| String::from_utf8_lossy(t).into_owned());
            return Ok(FirstTimes::Text(texts.collect()));
        }
        Values::Whole(numbers) => numbers.iter().flatten().map(i64::to_string).collect(),
        Values::Real(numbers) => numbers.iter().flatten().map(f64::to_string).collect(),
    };
    Ok(FirstTimes::Kind(match TimeKind::of_sample(numbers.iter().map(String::as_str)) {
        TimeKind::Unread => TimeKind::Number { unit: "unknown" },
        kind => kind,
    }))
}

impl ParquetLayout {
    /// The layout, for the user to check.
    pub fn describe(&self) -> Vec<String> {
        let rows = crate::data::digits(self.rows);
        let mut lines = vec![format!("{}: Parquet, {rows} rows", self.source.display())];
        lines.extend(describe_columns(&self.names, true, &self.columns, &self.filter, self.time_kind));
        if let Some(line) = lines.iter_mut().find(|l| l.trim_start().starts_with(Role::Item.name())) {
            line.push_str(self.lists);
        }
        lines
    }
}

/// Reads a Parquet log to its end and sends its blocks in order. Stops early without an error if the receiver is gone.
pub(crate) fn read(layout: &ParquetLayout, rules: &Rules, out: &SyncSender<Result<Block>>) -> Result<()> {
    let reader = open(&layout.source)?;
    let bad = |e: ParquetError| damaged(&layout.source, &e);
    let schema = reader.metadata().file_metadata().schema_descr();
    let leaves = schema.columns();
    let element = |c: usize| leaves[c].max_rep_level().gt(&0).then(|| nested::element_level(schema, &leaves[c]));
    let listed = element_of(leaves, layout.columns.item);
    let mut line = 1;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(bad)?;
        let cells = |c: usize| match c.checked_sub(leaves.len()) {
            Some(n) => Ok(Cells::constant(&layout.source.partition[n].1)),
            None => Ok(Cells::new(group.get_column_reader(c).map_err(bad)?, &leaves[c], element(c))),
        };
        let mut roles: [Option<Cells>; 5] = [None, None, None, None, None];
        for role in Role::ALL {
            roles[role as usize] = layout.columns.of(role).map(cells).transpose()?;
        }
        let mut filtered = layout.filter.columns().map(|c| Ok((c, cells(c)?))).collect::<Result<Vec<_>>>()?;
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        while left > 0 {
            let now = left.min(if listed { LIST_BATCH } else { BATCH });
            for cells in roles.iter_mut().flatten().chain(filtered.iter_mut().map(|(_, c)| c)) {
                if cells.read(now).map_err(bad)? != now {
                    return Err(damaged(&layout.source, &ParquetError::General("a column is short of rows".into())));
                }
            }
            let mut block = Block::default();
            let lines: Vec<u64> = if listed {
                let lengths = unrolled(layout, &mut roles, &mut filtered, line, &mut block);
                let each = |(n, &length): (usize, &u32)| std::iter::repeat_n(line + n as u64, length as usize);
                lengths.iter().enumerate().flat_map(each).collect()
            } else {
                (line..line + now as u64).collect()
            };
            let [Some(user), Some(item), time, rating, basket] = &roles else {
                unreachable!("the layout has user and item")
            };
            let cell = |c: usize, i: usize| {
                let mut text = Vec::new();
                // Null is empty.
                filtered.iter().find(|(at, _)| *at == c).map(|(_, cells)| cells.text(i, &mut text));
                Cow::Owned(text)
            };
            let filter = &layout.filter;
            for (i, &line) in lines.iter().enumerate() {
                let optional = [time.as_ref(), rating.as_ref(), basket.as_ref()];
                if filter.is_none() || filter.takes(|c| cell(c, i), &mut block.tally) {
                    row(layout, rules, [user, item], optional, i, line, &mut block);
                }
            }
            block.close(layout.time_kind);
            if out.send(Ok(block)).is_err() {
                return Ok(());
            }
            left -= now;
            line += now as u64;
        }
    }
    Ok(())
}

fn element_of(leaves: &[ColumnDescPtr], c: usize) -> bool {
    leaves.get(c).is_some_and(|leaf| leaf.max_rep_level() > 0)
}

/// Expands records with lists: one row per element, with all other columns repeated. Records whose lists are empty or
/// differ in length are bad and give no rows. Returns how many rows each record became.
fn unrolled(
    layout: &ParquetLayout,
    roles: &mut [Option<Cells>; 5],
    filtered: &mut [(usize, Cells)],
    line: u64,
    block: &mut Block,
) -> Vec<u32> {
    let name = |role: Role| format!("'{}'", layout.names[layout.columns.of(role).expect("the role has a column")]);
    let items = roles[Role::Item as usize].as_ref().expect("the layout has an item").lengths.clone();
    let mut kept = items.clone();
    for (n, &length) in items.iter().enumerate() {
        if length == 0 {
            block.reject(line + n as u64, name(Role::Item), "the list is empty");
            continue;
        }
        let other = [Role::Time, Role::Rating].into_iter().find_map(|role| {
            let cells = roles[role as usize].as_ref().filter(|c| c.element.is_some())?;
            (cells.lengths[n] != length).then(|| (role, cells.lengths[n]))
        });
        if let Some((role, other)) = other {
            let reason = format!("the list has {other} elements, that of the items {length}");
            block.reject(line + n as u64, name(role), reason);
            kept[n] = 0;
        }
    }
    for cells in roles.iter_mut().flatten().chain(filtered.iter_mut().map(|(_, c)| c)) {
        if cells.element.is_none() {
            cells.spread(&kept);
        } else {
            cells.drop_records(&kept);
        }
    }
    kept
}

fn row(
    layout: &ParquetLayout,
    rules: &Rules,
    keys: [&Cells; 2],
    [time, rating, basket]: [Option<&Cells>; 3],
    i: usize,
    line: u64,
    block: &mut Block,
) {
    let column = |role: Role| format!("'{}'", layout.names[layout.columns.of(role).expect("the role has a column")]);
    let rule = rules.rating;
    let rating = match rating.map(|r| &r.values) {
        None => 0.0,
        Some(values) => {
            let number = match values {
                Values::Text(v) => v[i].as_deref().map(|t| parse_rating(t.trim_ascii(), rule)),
                Values::Whole(v) => v[i].map(|x| rule.check(Some(x as f32), || x.to_string())),
                Values::Real(v) => v[i].map(|x| rule.check(Some(x as f32), || x.to_string())),
            };
            match number.unwrap_or_else(|| rule.check(None, String::new)) {
                Ok(rating) => rating,
                Err(reason) => return block.reject(line, column(Role::Rating), reason),
            }
        }
    };
    let time = match (time.map(|t| &t.values), layout.time_kind) {
        (Some(values), Some(kind)) => {
            let (moment, shown) = match values {
                Values::Text(v) => {
                    let cell = v[i].as_deref().unwrap_or_default().trim_ascii();
                    (kind.parse(cell), cell.to_vec())
                }
                Values::Whole(v) => (v[i].map(|x| Moment::of_ticks(x, layout.ticks)), Vec::new()),
                Values::Real(v) => {
                    (v[i].and_then(Moment::of_real), v[i].map_or(Vec::new(), |x| x.to_string().into_bytes()))
                }
            };
            match moment {
                Some(time) if rules.refuses(time) => {
                    let shown = if shown.is_empty() { time.whole.to_string().into_bytes() } else { shown };
                    return block.reject(line, column(Role::Time), outside(&shown));
                }
                Some(time) => time,
                None => return block.reject(line, column(Role::Time), bad_time(&shown)),
            }
        }
        _ => Moment { whole: 0, fraction: 0 },
    };
    let basket = match basket {
        None => 0,
        Some(cells) => {
            let mut text = Vec::new();
            if !cells.text(i, &mut text) || text.is_empty() {
                return block.reject(line, column(Role::Basket), "the basket is empty");
            }
            basket_label(&text)
        }
    };
    let mut places = [(0u32, 0u32); 2];
    for (n, role) in [Role::User, Role::Item].into_iter().enumerate() {
        let start = block.text.len();
        let found = keys[n].text(i, &mut block.text);
        if rules.misses(&block.text[start..]) {
            block.missing += 1;
            return;
        }
        let length = rules.length(&block.text[start..]);
        block.text.truncate(start + length);
        if !found || block.text.len() == start {
            return block.reject(line, column(role), format!("the {} is empty", role.name()));
        }
        if std::str::from_utf8(&block.text[start..]).is_err() {
            return block.reject(line, column(role), format!("the {} is {NOT_UTF8}", role.name()));
        }
        places[n] = (start as u32, (block.text.len() - start) as u32);
    }
    if rule.leaves_out(rating) {
        block.below_rating += 1;
        return;
    }
    let (user_hash, item_hash) = (hash_key(block.key(places[0])), hash_key(block.key(places[1])));
    let row = EventRow { user: places[0], item: places[1], user_hash, item_hash, time: time.whole, rating, basket };
    block.push(row, time.fraction);
}
