//! Data: import from every format, shards, splits, domains.

#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../evaluation/mod.rs"]
mod evaluation;

mod domains;
mod import;
mod shards;
mod split;
