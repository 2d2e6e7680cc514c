//! Operations: gradients and backends against the f64 reference, and further guarantees of single ops.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../evaluation/mod.rs"]
mod evaluation;
#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../proofs/mod.rs"]
mod proofs;

mod cost;
mod gradients;
mod negatives;
mod parity;
mod point_ops;
mod refused;
mod row_adamw;
mod scoring;
mod small_cases;
