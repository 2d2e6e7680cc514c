//! Stands in for `parquet.rs` in builds without the feature `import`, which have no Parquet library.

use std::{convert::Infallible, fs::File, ops::Range};

use super::Sheet;
use crate::base::{Error, Result, atomic::Aside};

/// Never made.
pub struct Writer(Infallible);

impl Writer {
    pub fn new(_: Sheet<'_>, aside: &Aside, _: File) -> Result<Writer> {
        Err(Error::user(format!("{}: this build does not write Parquet", aside.path.display()))
            .hint("build with the feature `import`, or export safetensors"))
    }

    pub fn push(&mut self, _: Sheet<'_>, _: Range<usize>, _: &[f32], _: &Aside) -> Result<()> {
        match self.0 {}
    }

    pub fn finish(self, _: &Aside) -> Result<File> {
        match self.0 {}
    }
}

/// Without the library no file is known to be ours, so that none is replaced.
pub fn checkpoint_of(_: File) -> Option<String> {
    None
}
