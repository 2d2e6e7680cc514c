//! Vectors as Parquet.

use std::{fs::File, ops::Range, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, FloatType},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};

use super::Sheet;
use crate::base::{Error, Result, atomic::Aside};

/// The metadata key of the checkpoint in a Parquet file.
const CHECKPOINT: &str = "mipgpu.checkpoint";

/// As [`super::checkpoint_of`].
pub fn checkpoint_of(file: File) -> Option<String> {
    let reader = SerializedFileReader::new(file).ok()?;
    let about = reader.metadata().file_metadata();
    about.created_by().filter(|by| by.starts_with("mipgpu "))?;
    let told = about.key_value_metadata().into_iter().flatten().find(|pair| pair.key == CHECKPOINT);
    Some(told.and_then(|pair| pair.value.clone()).unwrap_or_default())
}

/// A file that is being written.
pub struct Writer(Box<SerializedFileWriter<File>>);

impl Writer {
    pub fn new(sheet: Sheet<'_>, aside: &Aside, file: File) -> Result<Writer> {
        let bias = if sheet.bias.is_some() { "REQUIRED FLOAT bias;" } else { "" };
        let schema = format!(
            "message {} {{ REQUIRED BYTE_ARRAY key (UTF8);
             REQUIRED group vector (LIST) {{ REPEATED group list {{ REQUIRED FLOAT element; }} }} {bias} }}",
            sheet.name
        );
        // A dictionary does not help vectors; compression of the byte pages helps a little.
        let checkpoint = KeyValue::new(CHECKPOINT.to_string(), sheet.checkpoint.to_string());
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(vec![checkpoint]))
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_created_by(concat!("mipgpu ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let schema = parse_message_type(&schema).map_err(|e| failed(aside, &e))?;
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
        Ok(Writer(Box::new(writer.map_err(|e| failed(aside, &e))?)))
    }

    /// Writes a block of rows as a row group.
    pub fn push(&mut self, sheet: Sheet<'_>, rows: Range<usize>, block: &[f32], aside: &Aside) -> Result<()> {
        row_group(sheet, rows, block, &mut self.0).map_err(|e| failed(aside, &e))
    }

    pub fn finish(self, aside: &Aside) -> Result<File> {
        self.0.into_inner().map_err(|e| failed(aside, &e))
    }
}

fn failed(aside: &Aside, e: &ParquetError) -> Error {
    Error::internal(format!("{}: {e}", aside.path.display())).hint("is there space left on the disk?")
}

fn row_group(
    sheet: Sheet<'_>,
    rows: Range<usize>,
    block: &[f32],
    out: &mut SerializedFileWriter<File>,
) -> parquet::errors::Result<()> {
    let mut group = out.next_row_group()?;
    let missing = || ParquetError::General("a column of the schema is missing".into());

    let mut column = group.next_column()?.ok_or_else(missing)?;
    let keys: Vec<ByteArray> = rows.clone().map(|row| ByteArray::from(sheet.keys.key(row))).collect();
    column.typed::<ByteArrayType>().write_batch(&keys, None, None)?;
    column.close()?;

    // Definition level 1: the element is present. Repetition level 0 begins a list, 1 continues it.
    let mut column = group.next_column()?.ok_or_else(missing)?;
    let present = vec![1i16; block.len()];
    let repeats: Vec<i16> = (0..block.len()).map(|i| i16::from(i % sheet.width != 0)).collect();
    column.typed::<FloatType>().write_batch(block, Some(&present), Some(&repeats))?;
    column.close()?;

    if let Some(bias) = sheet.bias {
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<FloatType>().write_batch(&bias[rows], None, None)?;
        column.close()?;
    }
    group.close()?;
    Ok(())
}
