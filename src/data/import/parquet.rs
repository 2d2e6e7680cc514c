/*! Parquet logs -> blocks of parsed rows, through plain column readers: only the needed columns are read, a batch of
rows at a time. Keys of any scalar type become text, as a CSV of the same table would hold them.
*/

use std::{fs::File, sync::mpsc::SyncSender};

use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    column::reader::ColumnReader,
    data_type::DataType,
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescriptor,
};

use crate::{
    base::{Error, Result},
    data::import::{
        ImportOptions,
        columns::{self, Columns, Role},
        doubts,
        intern::hash_key,
        ratings::RatingRule,
        sniff::describe_columns,
        source::Source,
        text::{Block, Row, bad_time, basket_label},
        time::TimeKind,
    },
};

/// Rows read at a time.
const BATCH: usize = 32 << 10;

/// What was understood of a Parquet file.
pub(crate) struct ParquetLayout {
    pub source: Source,
    pub names: Vec<String>,
    pub columns: Columns,
    pub time_kind: Option<TimeKind>,
    pub rows: u64,
    /// What may have been misunderstood.
    doubts: Vec<String>,
}

fn damaged(source: &Source, e: &ParquetError) -> Error {
    Error::user(format!("{}: this Parquet file cannot be read ({e})", source.display()))
        .hint("the file was cut short or damaged; copy or download it again")
}

fn open(source: &Source) -> Result<SerializedFileReader<File>> {
    SerializedFileReader::new(source.file()?).map_err(|e| damaged(source, &e))
}

/// Understands a Parquet log.
pub(crate) fn layout(source: Source, options: &ImportOptions) -> Result<Option<ParquetLayout>> {
    let reader = open(&source)?;
    let meta = reader.metadata().file_metadata();
    let leaves = meta.schema_descr().columns();
    let names: Vec<String> = leaves.iter().map(|c| c.path().string()).collect();
    let at = |e: Error| e.at(source.display());
    let columns = columns::choose(&names, true, &[], options).map_err(at)?;
    let rows = u64::try_from(meta.num_rows()).unwrap_or(0);
    if rows == 0 {
        return Ok(None);
    }
    for role in Role::ALL {
        let Some(c) = columns.of(role) else { continue };
        let leaf = &leaves[c];
        let decimal = leaf.converted_type() == ConvertedType::DECIMAL;
        let supported = match leaf.physical_type() {
            _ if decimal => false,
            Type::BYTE_ARRAY => true,
            Type::INT96 => role == Role::Time,
            Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE => true,
            Type::BOOLEAN | Type::FIXED_LEN_BYTE_ARRAY => false,
        };
        if leaf.max_rep_level() > 0 || !supported {
            let kind = match (leaf.max_rep_level() > 0, decimal) {
                (true, _) => "a list".into(),
                (_, true) => "of type DECIMAL".into(),
                _ => format!("of type {}", leaf.physical_type()),
            };
            return Err(Error::user(format!("{}: column '{}' is {kind}", source.display(), names[c]))
                .hint(format!("the {} must be a column of text or numbers, one row an interaction", role.name())));
        }
    }
    let time_kind = match columns.time {
        Some(c) => Some(time_kind(&reader, c, &leaves[c]).map_err(|e| damaged(&source, &e))?),
        None => None,
    };
    let times = |c: usize| looks_like_times(&reader, c, &leaves[c]);
    let doubts = doubts::ignored_times(&source, &names, &columns, options, times).into_iter().collect();
    Ok(Some(ParquetLayout { source, names, columns, time_kind, rows, doubts }))
}

/// Whether a column is of a type of times, or its first cells look like times.
fn looks_like_times(reader: &SerializedFileReader<File>, column: usize, leaf: &ColumnDescriptor) -> bool {
    if leaf.max_rep_level() > 0 || leaf.converted_type() == ConvertedType::DECIMAL {
        return false;
    }
    if declared_unit(leaf).is_some() {
        return true;
    }
    let cells = || {
        let mut cells = Cells::new(reader.get_row_group(0).ok()?.get_column_reader(column).ok()?, leaf);
        let rows = cells.read(200).ok()?;
        let text = |i: usize| {
            let mut text = Vec::new();
            cells.text(i, &mut text).then(|| String::from_utf8_lossy(&text).into_owned())
        };
        Some((0..rows).filter_map(text).collect::<Vec<String>>())
    };
    // What cannot be read is nobody's business as long as it is ignored.
    cells().is_some_and(|cells| doubts::all_moments(cells.iter().map(String::as_str)))
}

/// The unit of a column whose type says that it holds times.
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

/// The unit of a time column: what its type says, or what its first values look like.
fn time_kind(
    reader: &SerializedFileReader<File>,
    column: usize,
    leaf: &ColumnDescriptor,
) -> std::result::Result<TimeKind, ParquetError> {
    if let Some(unit) = declared_unit(leaf) {
        return Ok(TimeKind::Number { unit });
    }
    let mut cells = Cells::new(reader.get_row_group(0)?.get_column_reader(column)?, leaf);
    cells.read(1000)?;
    Ok(match &cells.values {
        Values::Text(texts) => {
            let texts: Vec<String> = texts.iter().flatten().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
            TimeKind::of_sample(texts.iter().map(String::as_str))
        }
        Values::Whole(numbers) => {
            TimeKind::of_largest(numbers.iter().flatten().map(|x| x.unsigned_abs()).max().unwrap_or(0))
        }
        Values::Real(numbers) => {
            TimeKind::of_largest(numbers.iter().flatten().map(|x| x.abs() as u64).max().unwrap_or(0))
        }
    })
}

impl ParquetLayout {
    /// What was understood, for people to check.
    pub fn describe(&self) -> Vec<String> {
        let rows = crate::data::digits(self.rows);
        let mut lines = vec![format!("{}: Parquet, {rows} rows", self.source.display())];
        lines.extend(describe_columns(&self.names, true, &self.columns, self.time_kind));
        lines.extend(self.doubts.iter().cloned());
        lines
    }
}

/// A batch of one column's cells; `None` is null.
enum Values {
    Text(Vec<Option<Vec<u8>>>),
    Whole(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
}

struct Cells {
    reader: ColumnReader,
    nullable: i16,
    /// Multiplies whole numbers: days of a date column become seconds.
    scale: i64,
    /// Whole numbers are unsigned, stored as if they were not.
    unsigned: bool,
    values: Values,
}

impl Cells {
    fn new(reader: ColumnReader, leaf: &ColumnDescriptor) -> Self {
        let date =
            leaf.converted_type() == ConvertedType::DATE || matches!(leaf.logical_type_ref(), Some(LogicalType::Date));
        let scale = if date { 86_400 } else { 1 };
        let unsigned = matches!(leaf.converted_type(), ConvertedType::UINT_32 | ConvertedType::UINT_64);
        Cells { reader, nullable: leaf.max_def_level(), scale, unsigned, values: Values::Whole(Vec::new()) }
    }

    /// Reads up to `rows` cells; gives how many.
    fn read(&mut self, rows: usize) -> std::result::Result<usize, ParquetError> {
        let (nullable, scale, unsigned) = (self.nullable, self.scale, self.unsigned);
        let widen = |x: &i32| if unsigned { *x as u32 as i64 } else { *x as i64 * scale };
        self.values = match &mut self.reader {
            ColumnReader::Int32ColumnReader(r) => Values::Whole(batch(r, rows, nullable, widen)?),
            ColumnReader::Int64ColumnReader(r) => Values::Whole(batch(r, rows, nullable, |x| *x)?),
            ColumnReader::Int96ColumnReader(r) => Values::Whole(batch(r, rows, nullable, |x| x.to_nanos())?),
            ColumnReader::FloatColumnReader(r) => Values::Real(batch(r, rows, nullable, |x| *x as f64)?),
            ColumnReader::DoubleColumnReader(r) => Values::Real(batch(r, rows, nullable, |x| *x)?),
            ColumnReader::ByteArrayColumnReader(r) => Values::Text(batch(r, rows, nullable, |x| x.data().to_vec())?),
            ColumnReader::BoolColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                return Err(ParquetError::General("a column type that the layout check refuses".into()));
            }
        };
        Ok(match &self.values {
            Values::Text(v) => v.len(),
            Values::Whole(v) => v.len(),
            Values::Real(v) => v.len(),
        })
    }

    /// Writes cell `i` as text behind `out`; `false` for null.
    fn text(&self, i: usize, out: &mut Vec<u8>) -> bool {
        use std::io::Write;
        let done = match &self.values {
            Values::Text(v) => v[i].as_ref().map(|t| out.write_all(t)),
            Values::Whole(v) if self.unsigned => v[i].map(|x| write!(out, "{}", x as u64)),
            Values::Whole(v) => v[i].map(|x| write!(out, "{x}")),
            // Tables with gaps often hold whole ids as reals: 17.0 is the key 17.
            Values::Real(v) => v[i].filter(|x| !x.is_nan()).map(|x| write!(out, "{x}")),
        };
        done.is_some()
    }
}

fn batch<T: DataType, V>(
    reader: &mut parquet::column::reader::ColumnReaderImpl<T>,
    rows: usize,
    nullable: i16,
    convert: impl Fn(&T::T) -> V,
) -> std::result::Result<Vec<Option<V>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut records = 0;
    // One call may stop at a page; a short batch is not yet the end.
    while records < rows {
        let (read, _, _) = reader.read_records(rows - records, Some(&mut levels), None, &mut values)?;
        if read == 0 {
            break;
        }
        records += read;
    }
    if nullable == 0 {
        return Ok(values.iter().map(|x| Some(convert(x))).collect());
    }
    // Values are packed: nulls take a level but no value.
    let mut present = values.iter();
    Ok(levels.iter().map(|&l| if l == nullable { present.next().map(&convert) } else { None }).collect())
}

/// Reads a Parquet log to its end and sends its blocks in order. Ends early, without an error, when nobody listens.
pub(crate) fn read(layout: &ParquetLayout, rule: RatingRule, out: &SyncSender<Result<Block>>) -> Result<()> {
    let reader = open(&layout.source)?;
    let bad = |e: ParquetError| damaged(&layout.source, &e);
    let mut line = 1;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(bad)?;
        let leaves = reader.metadata().file_metadata().schema_descr().columns();
        let cells = |c: usize| Ok(Cells::new(group.get_column_reader(c).map_err(bad)?, &leaves[c]));
        let mut roles: [Option<Cells>; 5] = [None, None, None, None, None];
        for role in Role::ALL {
            roles[role as usize] = layout.columns.of(role).map(cells).transpose()?;
        }
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        while left > 0 {
            let now = left.min(BATCH);
            for cells in roles.iter_mut().flatten() {
                if cells.read(now).map_err(bad)? != now {
                    return Err(damaged(&layout.source, &ParquetError::General("a column is short of rows".into())));
                }
            }
            let [Some(user), Some(item), time, rating, basket] = &roles else {
                unreachable!("the layout has user and item")
            };
            let mut block = Block::default();
            for i in 0..now {
                let optional = [time.as_ref(), rating.as_ref(), basket.as_ref()];
                row(layout, rule, [user, item], optional, i, line + i as u64, &mut block);
            }
            if out.send(Ok(block)).is_err() {
                return Ok(());
            }
            left -= now;
            line += now as u64;
        }
    }
    Ok(())
}

fn row(
    layout: &ParquetLayout,
    rule: RatingRule,
    keys: [&Cells; 2],
    [time, rating, basket]: [Option<&Cells>; 3],
    i: usize,
    line: u64,
    block: &mut Block,
) {
    let column = |role: Role| format!("'{}'", layout.names[layout.columns.of(role).expect("the role has a column")]);
    let rating = match rating.map(|r| &r.values) {
        None => 0.0,
        Some(values) => {
            let number = match values {
                Values::Text(v) => v[i].as_deref().and_then(|t| std::str::from_utf8(t).ok()?.trim().parse().ok()),
                Values::Whole(v) => v[i].map(|x| x as f32),
                Values::Real(v) => v[i].map(|x| x as f32),
            };
            match rule.check(number, || number.map_or("null".into(), |x| x.to_string())) {
                Ok(rating) => rating,
                Err(reason) => return block.reject(line, column(Role::Rating), reason),
            }
        }
    };
    let time = match (time.map(|t| &t.values), layout.time_kind) {
        (Some(values), Some(kind)) => {
            let (number, shown) = match values {
                Values::Text(v) => {
                    let cell = v[i].as_deref().unwrap_or_default().trim_ascii();
                    (kind.parse(cell), cell.to_vec())
                }
                Values::Whole(v) => (v[i], Vec::new()),
                Values::Real(v) => {
                    let fits = v[i].filter(|x| x.is_finite() && x.abs() < (1i64 << 62) as f64);
                    (fits.map(|x| x.floor() as i64), v[i].map_or(Vec::new(), |x| x.to_string().into_bytes()))
                }
            };
            match number {
                Some(time) => time,
                None => return block.reject(line, column(Role::Time), bad_time(&shown)),
            }
        }
        _ => 0,
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
        if !keys[n].text(i, &mut block.text) || block.text.len() == start {
            return block.reject(line, column(role), format!("the {} is empty", role.name()));
        }
        if std::str::from_utf8(&block.text[start..]).is_err() {
            return block.reject(line, column(role), format!("the {} is not UTF-8 text", role.name()));
        }
        places[n] = (start as u32, (block.text.len() - start) as u32);
    }
    if rule.leaves_out(rating) {
        block.below_rating += 1;
        return;
    }
    let (user_hash, item_hash) = (hash_key(block.key(places[0])), hash_key(block.key(places[1])));
    block.rows.push(Row { user: places[0], item: places[1], user_hash, item_hash, time, rating, basket });
}
