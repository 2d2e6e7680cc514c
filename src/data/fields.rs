//! Side fields of items (genres, director, …): categorical, with any number of values per item and field.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{
    base::{Error, Result},
    data::{
        hex::hex,
        shard::{Container, Tensor, image},
        vocab::{Columns, Vocab, VocabTensors},
    },
};

/// All side fields of a data set; empty if none were imported.
#[derive(Default)]
pub struct ItemFields {
    container: Option<Container>,
    fields: Vec<FieldParts>,
}

struct FieldParts {
    name: String,
    /// `field.N.offsets` (items+1) into `values`.
    offsets: Tensor<u64>,
    /// `field.N.values`: ids into the field's own vocabulary.
    values: Tensor<u32>,
    vocab: VocabTensors,
}

/// One side field.
#[derive(Clone, Copy)]
pub struct ItemField<'a> {
    container: &'a Container,
    parts: &'a FieldParts,
}

impl<'a> ItemField<'a> {
    /// Returns the column's name in the imported file.
    pub fn name(&self) -> &'a str {
        &self.parts.name
    }

    /// Returns the number of distinct values of the field; value ids are 0..values().
    pub fn values(&self) -> usize {
        self.parts.vocab.len()
    }

    /// Returns the text of a value id.
    pub fn value(&self, id: usize) -> &'a str {
        self.parts.vocab.key(self.container, id)
    }

    /// Returns the id of a value.
    pub fn find(&self, value: &str) -> Option<u32> {
        self.parts.vocab.find_key(self.container, value)
    }

    /// Returns the value ids of an item, in the order of the file; empty if the item has none.
    pub fn ids_of(&self, item: usize) -> &'a [u32] {
        let offsets = self.container.get(&self.parts.offsets);
        &self.container.get(&self.parts.values)[offsets[item] as usize..offsets[item + 1] as usize]
    }

    /// Returns the values of an item as text.
    pub fn values_of(&self, item: usize) -> impl Iterator<Item = &'a str> {
        let field = *self;
        self.ids_of(item).iter().map(move |&id| field.value(id as usize))
    }
}

/// A field during import: the values of each item, as ids in order of first appearance.
pub(crate) struct FieldBuilder {
    pub name: String,
    pub offsets: Vec<u64>,
    pub values: Vec<u32>,
    pub keys: Vec<String>,
}

impl ItemFields {
    const FORMAT: &str = "mipgpu.item_fields";

    /// Serializes the fields as a file.
    pub(crate) fn image(fields: &[FieldBuilder]) -> Vec<u8> {
        let vocabs: Vec<Columns> = fields.iter().map(|f| Columns::new(&f.keys)).collect();
        let mut tensors: Vec<(String, &'static str, &[u8])> = Vec::new();
        for (n, (field, vocab)) in fields.iter().zip(&vocabs).enumerate() {
            tensors.push((format!("field.{n}.offsets"), "U64", bytemuck::cast_slice(&field.offsets)));
            tensors.push((format!("field.{n}.vocab.offsets"), "U64", vocab.offsets()));
            tensors.push((format!("field.{n}.values"), "U32", bytemuck::cast_slice(&field.values)));
            tensors.push((format!("field.{n}.vocab.order"), "U32", vocab.order()));
            tensors.push((format!("field.{n}.vocab.bytes"), "U8", &vocab.bytes));
        }
        // Wide elements come first, so that every tensor is aligned.
        tensors.sort_by_key(|(_, dtype, _)| ["U64", "U32", "U8"].iter().position(|d| d == dtype));
        let tensors: Vec<_> = tensors.iter().map(|(name, dtype, bytes)| (name.as_str(), *dtype, *bytes)).collect();
        let names = serde_json::to_string(&fields.iter().map(|f| &f.name).collect::<Vec<_>>());
        image(Self::FORMAT, &[("fields", names.expect("a list of strings is JSON"))], &tensors)
    }

    /// Serializes a subset of the fields as a separate file, in the order of `names`.
    ///
    /// # Errors
    /// A field does not exist.
    pub(crate) fn image_of(&self, names: &[&str]) -> Result<Vec<u8>> {
        let copy = |name: &&str| {
            let field = self.get(name).ok_or_else(|| Error::user(format!("there is no item field '{name}'")))?;
            let get = |offsets| field.container.get(offsets);
            Ok(FieldBuilder {
                name: field.name().into(),
                offsets: get(&field.parts.offsets).to_vec(),
                values: field.container.get(&field.parts.values).to_vec(),
                keys: (0..field.values()).map(|id| field.value(id).to_owned()).collect(),
            })
        };
        Ok(Self::image(&names.iter().map(copy).collect::<Result<Vec<_>>>()?))
    }

    /// Returns the values of all fields, field by field, as `FIELD<TAB>VALUE`: the keys of a table over all of them.
    pub fn keys(&self) -> Vocab {
        let of = |field: ItemField<'_>| -> Vec<String> {
            (0..field.values()).map(|id| format!("{}\t{}", field.name(), field.value(id))).collect()
        };
        Vocab::from_keys(self.iter().flat_map(of))
    }

    /// Returns the SHA-256 of the serialized form, in hex.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.container.as_ref().map_or(&[][..], Container::bytes)))
    }

    /// Maps the side fields of a data set with `items` items.
    pub(crate) fn open(path: &Path, items: usize) -> Result<Self> {
        let container = Container::open(path, Self::FORMAT)?;
        let fields = Self::find(&container, items).map_err(|what| {
            Error::user(format!("{}: {what}", path.display())).hint("import the data again with `mipgpu import`")
        })?;
        Ok(ItemFields { container: Some(container), fields })
    }

    fn find(container: &Container, items: usize) -> std::result::Result<Vec<FieldParts>, String> {
        let names: Option<Vec<String>> = container.meta.get("fields").and_then(|text| serde_json::from_str(text).ok());
        let mut fields = Vec::new();
        for (n, name) in names.ok_or("its metadata lacks the names of the fields")?.into_iter().enumerate() {
            let vocab = VocabTensors::find(container, &format!("field.{n}.vocab."))?;
            let offsets = container.need::<u64>(&format!("field.{n}.offsets"))?;
            let values = container.need::<u32>(&format!("field.{n}.values"))?;
            let (bounds, ids) = (container.get(&offsets), container.get(&values));
            if bounds.len() != items + 1
                || bounds[0] != 0
                || bounds[items] != ids.len() as u64
                || !bounds.is_sorted()
                || ids.iter().any(|&id| id as usize >= vocab.len())
            {
                return Err(format!("field '{name}' does not fit the {items} items of the data"));
            }
            fields.push(FieldParts { name, offsets, values, vocab });
        }
        Ok(fields)
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns the fields in the order of the imported file.
    pub fn iter(&self) -> impl Iterator<Item = ItemField<'_>> {
        self.container.iter().flat_map(|c| self.fields.iter().map(move |parts| ItemField { container: c, parts }))
    }

    /// Returns the field with this name.
    pub fn get(&self, name: &str) -> Option<ItemField<'_>> {
        self.iter().find(|f| f.name() == name)
    }
}

impl std::fmt::Debug for ItemFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ItemFields({})", self.iter().map(|field| field.name()).collect::<Vec<_>>().join(", "))
    }
}
