//! `mipgpu export` (being built).

use crate::{base::Result, cli::printer::Printer};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args, _printer: Printer) -> Result<()> {
    Err(crate::base::Error::internal("export is being built"))
}
