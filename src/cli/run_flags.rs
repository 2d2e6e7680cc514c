//! Flags that `train` and `finetune` have in addition to the settings.

use std::path::PathBuf;

use crate::{
    backend::Device,
    base::{Error, Result},
    train::{FreshRows, Pretrained, Transfer, Which},
};

/// Where to train.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PlaceFlags {
    /// Where to run: auto, cpu, cuda, cuda:N, emu, ptx, ptx90a (CUDA kernels on the processor, for tests), reference [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl PlaceFlags {
    /// Resolves these flags, which override those of the settings file.
    pub fn over(&self, file: &PlaceFlags) -> (Device, Option<usize>) {
        (self.device.or(file.device).unwrap_or(Device::Auto), self.threads.or(file.threads))
    }
}

/// The flags that select the base.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StartFlags {
    /// Trained run to start from
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// What is copied from the base [default: model]
    #[arg(long, value_enum, value_name = "WHAT")]
    transfer: Option<Transfer>,
    /// Use the newest weights of the base instead of those with the best validation
    #[arg(long)]
    last: bool,
    /// Initial rows of items, users and field values that the base does not know [default: random]
    #[arg(long, value_enum, value_name = "HOW", alias = "fresh-items")]
    fresh_rows: Option<FreshRows>,
}

impl StartFlags {
    /// Returns the name of the first given flag, without leading dashes.
    pub fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.from.is_some(), "from"),
            (self.transfer.is_some(), "transfer"),
            (self.last, "last"),
            (self.fresh_rows.is_some(), "fresh-rows"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// Overrides the flags of a settings file with these flags.
    ///
    /// # Errors
    /// No base run is given, or the transfer does not use a given flag.
    pub fn over(&self, file: &StartFlags) -> Result<Pretrained> {
        let run =
            self.from.clone().or_else(|| file.from.clone()).ok_or_else(|| {
                Error::user("no run to start from").hint("add --from: mipgpu finetune --from RUN DATA")
            })?;
        let transfer = self.transfer.or(file.transfer).unwrap_or(Transfer::Model);
        let refuse = |given: bool, flag: &str, why: &str| match given && transfer == Transfer::None {
            true => Err(Error::user(format!("--{flag} has no effect: with --transfer none {why}")).hint("omit it")),
            false => Ok(()),
        };
        refuse(self.fresh_rows.is_some(), "fresh-rows", "all rows are fresh and random")?;
        refuse(self.last, "last", "no weights are copied")?;
        let which = if self.last || file.last { Which::Last } else { Which::Best };
        Ok(Pretrained { run, which, transfer, fresh_rows: self.fresh_rows.or(file.fresh_rows) })
    }
}
