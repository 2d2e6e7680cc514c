/*! Lists in Parquet: finds list columns and reads their cells record by record. A repetition level of 0 begins a
record. A definition level at or above that of the repeated node is an element, which is null below the maximum level.
*/

use parquet::{
    basic::Repetition,
    column::reader::ColumnReaderImpl,
    data_type::DataType,
    errors::ParquetError,
    schema::types::{ColumnDescriptor, SchemaDescriptor},
};

/// Names of the nodes that only wrap a list: LIST of the standard, of old writers, and of Hive.
const CARRIERS: &[&str] = &["list", "element", "item", "array", "bag", "array_element", "array_items"];

/// The name of a column. A list has the name of its field; fields of structs in it are appended with a dot.
pub(crate) fn name_of(leaf: &ColumnDescriptor) -> String {
    if leaf.max_rep_level() == 0 {
        return leaf.path().string();
    }
    let parts = leaf.path().parts();
    let below = parts[1..].iter().filter(|p| !CARRIERS.contains(&p.as_str())).map(String::as_str);
    std::iter::once(parts[0].as_str()).chain(below).collect::<Vec<_>>().join(".")
}

/// The smallest definition level of an element; 0 for a column that is not a list.
pub(crate) fn element_level(schema: &SchemaDescriptor, leaf: &ColumnDescriptor) -> i16 {
    let mut node = schema.root_schema_ptr();
    let mut level = 0;
    for part in leaf.path().parts() {
        let Some(next) = node.get_fields().iter().find(|f| f.name() == part).cloned() else { return 0 };
        let info = next.get_basic_info();
        if info.has_repetition() && info.repetition() != Repetition::REQUIRED {
            level += 1;
            if info.repetition() == Repetition::REPEATED {
                return level;
            }
        }
        node = next;
    }
    0
}

/// The elements of several records.
pub(crate) struct Elements<V> {
    pub values: Vec<Option<V>>,
    /// How many elements each record has.
    pub lengths: Vec<u32>,
}

/// Reads up to `records` records of a list.
pub(crate) fn read<T: DataType, V>(
    reader: &mut ColumnReaderImpl<T>,
    records: usize,
    element: i16,
    greatest: i16,
    convert: impl Fn(&T::T) -> V,
) -> Result<Elements<V>, ParquetError> {
    let (mut packed, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    // One call may stop at a page boundary; a short batch is not yet the end.
    while done < records {
        let (read, ..) =
            reader.read_records(records - done, Some(&mut definitions), Some(&mut repetitions), &mut packed)?;
        if read == 0 {
            break;
        }
        done += read;
    }
    let mut present = packed.iter();
    let mut elements = Elements { values: Vec::with_capacity(packed.len()), lengths: Vec::with_capacity(done) };
    for (&definition, &repetition) in definitions.iter().zip(&repetitions) {
        if repetition == 0 {
            elements.lengths.push(0);
        }
        if definition >= element {
            let length = elements
                .lengths
                .last_mut()
                .ok_or_else(|| ParquetError::General("a list begins in the midst of a record".into()))?;
            *length += 1;
            elements.values.push(if definition == greatest { present.next().map(&convert) } else { None });
        }
    }
    Ok(elements)
}
