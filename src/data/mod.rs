/*! Interaction logs: importing them, and reading them back as memory-mapped shards.

[`import`] turns a log (CSV, TSV, `.dat`, `.inter`, Parquet) into a data set folder; [`Dataset`] opens such a folder.
[`get`] downloads well-known data sets. [`domains`] splits a data set into two, to pre-train on one and transfer to
the other. `docs/formats.md` describes the folder's files byte by byte.

| file | contents |
|---|---|
| `manifest.json` | counts, units, and the size and SHA-256 of every other file |
| `shard-00000.safetensors` … | per user, oldest first: item ids, times, ratings, baskets |
| `users.safetensors`, `items.safetensors` | the external keys ([`Vocab`]) |
| `item_counts.safetensors` | interactions per item |
| `item_fields.safetensors` | side fields of the items, if any were imported ([`ItemFields`]) |
*/

pub mod cut;
mod dataset;
mod date;
pub mod domains;
mod fields;
#[cfg(feature = "import")]
pub mod get;
mod hex;
mod history;
#[cfg(feature = "import")]
pub mod import;
pub mod impressions;
pub mod keyed;
#[cfg(feature = "import")]
pub mod known;
mod manifest;
#[cfg(feature = "import")]
mod sample;
mod shard;
mod spill;
pub mod split;
mod staging;
mod titles;
mod vocab;
mod write;

pub use dataset::Dataset;
pub use fields::{ItemField, ItemFields};
pub(crate) use hex::hex;
#[cfg(feature = "import")]
pub use import::{Duplicates, Encoding, ImportOptions, ImportSummary, Missing, Quotes, Where, import};
#[cfg(feature = "import")]
pub use sample::import_sample;
pub use titles::Titles;
pub use vocab::Vocab;
pub(crate) use vocab::whole_number;

/// Formats an integer with commas between thousands: `1234567` is `1,234,567`.
pub fn digits(n: u64) -> String {
    let plain = n.to_string();
    let mut text = String::with_capacity(plain.len() + plain.len() / 3);
    for (i, digit) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped_by_three() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567"), (100_000, "100,000")] {
            assert_eq!(super::digits(n), text);
        }
    }
}
