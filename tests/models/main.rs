//! Layers, models and tasks: against PyTorch, central differences and worked examples; whole steps on every backend.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../common/mod.rs"]
mod common;
#[path = "../evaluation/mod.rs"]
mod evaluation;
#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../proofs/mod.rs"]
mod proofs;

mod by_rows;
mod caser_conv;
mod check;
mod clicks;
mod conv_block;
mod every_model;
mod gru;
mod losses;
mod masked_item;
mod next_basket;
mod pytorch;
mod ratings;
mod recorded_steps;
mod settings;
mod side;
mod sides;
mod training;
