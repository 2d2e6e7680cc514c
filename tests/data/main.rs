//! Data: import from every format, shards, splits, domains.

#[path = "../evaluation/mod.rs"]
mod evaluation;

mod domains;
mod import;
mod shards;
mod split;
