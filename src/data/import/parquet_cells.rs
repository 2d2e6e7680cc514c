//! The cells of a Parquet column, read in batches, whatever its type.

use parquet::{
    basic::{ConvertedType, LogicalType},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::DataType,
    errors::ParquetError,
    schema::types::ColumnDescriptor,
};

use super::nested;

/// A batch of one column's cells; `None` is null.
pub(crate) enum Values {
    Text(Vec<Option<Vec<u8>>>),
    Whole(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
}

/// A column, and the cells of it that were read last.
pub(crate) struct Cells {
    /// `None`: a constant column from the path.
    reader: Option<ColumnReader>,
    constant: Vec<u8>,
    nullable: i16,
    /// The definition level of the elements, for a list.
    pub element: Option<i16>,
    /// Factor for whole numbers: days of a date column become seconds.
    scale: i64,
    /// Whole numbers are unsigned but stored in a signed type.
    unsigned: bool,
    /// Decimal places of a DECIMAL.
    decimals: Option<u32>,
    pub values: Values,
    /// Elements of each record of the batch, for a list.
    pub lengths: Vec<u32>,
}

impl Cells {
    pub fn new(reader: ColumnReader, leaf: &ColumnDescriptor, element: Option<i16>) -> Self {
        let date =
            leaf.converted_type() == ConvertedType::DATE || matches!(leaf.logical_type_ref(), Some(LogicalType::Date));
        let scale = if date { 86_400 } else { 1 };
        let unsigned = matches!(leaf.converted_type(), ConvertedType::UINT_32 | ConvertedType::UINT_64);
        let decimal = leaf.converted_type() == ConvertedType::DECIMAL;
        Cells {
            reader: Some(reader),
            constant: Vec::new(),
            nullable: leaf.max_def_level(),
            element,
            scale,
            unsigned,
            decimals: decimal.then(|| leaf.type_scale().max(0) as u32),
            values: Values::Whole(Vec::new()),
            lengths: Vec::new(),
        }
    }

    pub fn constant(value: &str) -> Self {
        Cells {
            reader: None,
            constant: value.as_bytes().to_vec(),
            nullable: 0,
            element: None,
            scale: 1,
            unsigned: false,
            decimals: None,
            values: Values::Text(Vec::new()),
            lengths: Vec::new(),
        }
    }

    /// Reads up to `rows` records; returns how many.
    pub fn read(&mut self, rows: usize) -> std::result::Result<usize, ParquetError> {
        let (scale, unsigned) = (self.scale, self.unsigned);
        let Some(reader) = &mut self.reader else {
            self.values = Values::Text(vec![Some(self.constant.clone()); rows]);
            return Ok(rows);
        };
        let mut batch = Batch { rows, nullable: self.nullable, element: self.element, lengths: &mut self.lengths };
        let widen = |x: &i32| if unsigned { *x as u32 as i64 } else { *x as i64 * scale };
        let digits = self.decimals;
        self.values = match (reader, digits) {
            (ColumnReader::Int32ColumnReader(r), None) => Values::Whole(batch.read(r, widen)?),
            (ColumnReader::Int64ColumnReader(r), None) => Values::Whole(batch.read(r, |x| *x)?),
            (ColumnReader::Int32ColumnReader(r), Some(d)) => Values::Text(batch.read(r, |x| decimal(*x as i128, d))?),
            (ColumnReader::Int64ColumnReader(r), Some(d)) => Values::Text(batch.read(r, |x| decimal(*x as i128, d))?),
            (ColumnReader::FixedLenByteArrayColumnReader(r), Some(d)) => {
                Values::Text(batch.read(r, |x| decimal(big_endian(x.data()), d))?)
            }
            (ColumnReader::ByteArrayColumnReader(r), Some(d)) => {
                Values::Text(batch.read(r, |x| decimal(big_endian(x.data()), d))?)
            }
            (ColumnReader::Int96ColumnReader(r), _) => Values::Whole(batch.read(r, |x| x.to_nanos())?),
            (ColumnReader::FloatColumnReader(r), _) => Values::Real(batch.read(r, |x| plainly(*x))?),
            (ColumnReader::DoubleColumnReader(r), _) => Values::Real(batch.read(r, |x| *x)?),
            (ColumnReader::ByteArrayColumnReader(r), _) => Values::Text(batch.read(r, |x| x.data().to_vec())?),
            (ColumnReader::BoolColumnReader(r), _) => Values::Whole(batch.read(r, |x| i64::from(*x))?),
            (ColumnReader::FixedLenByteArrayColumnReader(_), _) => {
                return Err(ParquetError::General("a column type that the layout check refuses".into()));
            }
        };
        let cells = match &self.values {
            Values::Text(v) => v.len(),
            Values::Whole(v) => v.len(),
            Values::Real(v) => v.len(),
        };
        Ok(if self.element.is_some() { self.lengths.len() } else { cells })
    }

    /// Drops the elements of records with `kept` 0.
    pub fn drop_records(&mut self, kept: &[u32]) {
        let mut keep: Vec<bool> = Vec::new();
        for (&length, &kept) in self.lengths.iter().zip(kept) {
            keep.resize(keep.len() + length as usize, kept > 0);
        }
        fn retain<V>(cells: &mut Vec<V>, keep: &[bool]) {
            let mut keep = keep.iter();
            cells.retain(|_| keep.next().is_some_and(|k| *k));
        }
        match &mut self.values {
            Values::Text(v) => retain(v, &keep),
            Values::Whole(v) => retain(v, &keep),
            Values::Real(v) => retain(v, &keep),
        }
    }

    /// Repeats cell `i` `lengths[i]` times: for a scalar column next to a list.
    pub fn spread(&mut self, lengths: &[u32]) {
        fn spread<V: Clone>(cells: &[V], lengths: &[u32]) -> Vec<V> {
            cells.iter().zip(lengths).flat_map(|(v, &n)| std::iter::repeat_n(v.clone(), n as usize)).collect()
        }
        self.values = match &self.values {
            Values::Text(v) => Values::Text(spread(v, lengths)),
            Values::Whole(v) => Values::Whole(spread(v, lengths)),
            Values::Real(v) => Values::Real(spread(v, lengths)),
        };
    }

    /// Appends cell `i` as text to `out`; `false` for null.
    pub fn text(&self, i: usize, out: &mut Vec<u8>) -> bool {
        use std::io::Write;
        let done = match &self.values {
            Values::Text(v) => v[i].as_ref().map(|t| out.write_all(t)),
            Values::Whole(v) if self.unsigned => v[i].map(|x| write!(out, "{}", x as u64)),
            Values::Whole(v) => v[i].map(|x| write!(out, "{x}")),
            // Tables with nulls often store integer ids as floats: 17.0 is the key 17.
            Values::Real(v) => v[i].filter(|x| !x.is_nan()).map(|x| write!(out, "{x}")),
        };
        done.is_some()
    }
}

/// The parameters of one read of a column.
struct Batch<'a> {
    rows: usize,
    nullable: i16,
    element: Option<i16>,
    lengths: &'a mut Vec<u32>,
}

impl Batch<'_> {
    fn read<T: DataType, V>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        convert: impl Fn(&T::T) -> V,
    ) -> std::result::Result<Vec<Option<V>>, ParquetError> {
        let (rows, nullable) = (self.rows, self.nullable);
        if let Some(element) = self.element {
            let elements = nested::read(reader, rows, element, nullable, convert)?;
            *self.lengths = elements.lengths;
            return Ok(elements.values);
        }
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let mut records = 0;
        // One call may stop at a page boundary; a short batch is not yet the end.
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
        // Values are packed: a null has a level but no value.
        let mut present = values.iter();
        Ok(levels.iter().map(|&l| if l == nullable { present.next().map(&convert) } else { None }).collect())
    }
}

/// Converts an f32 through its decimal form, as a CSV of the same table has it: 0.1, not 0.10000000149.
fn plainly(x: f32) -> f64 {
    if x.fract() == 0.0 { x as f64 } else { x.to_string().parse().unwrap_or(x as f64) }
}

/// A big-endian two's complement number; those longer than a DECIMAL of 38 digits lose their upper part.
fn big_endian(bytes: &[u8]) -> i128 {
    let start = if bytes.first().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(start, |x, &b| x << 8 | b as i128)
}

/// A DECIMAL as text. Whole values are written without a decimal point, like reals.
fn decimal(value: i128, digits: u32) -> Vec<u8> {
    let one = 10i128.checked_pow(digits).unwrap_or(i128::MAX);
    let (whole, rest) = (value.unsigned_abs() / one as u128, value.unsigned_abs() % one as u128);
    let sign = if value < 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{sign}{whole}").into_bytes();
    }
    let rest = format!("{rest:0width$}", width = digits as usize);
    format!("{sign}{whole}.{}", rest.trim_end_matches('0')).into_bytes()
}
