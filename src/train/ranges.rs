//! Range checks of the settings, individually and in combination.

use super::{
    freeze::Freeze,
    settings::{Numbers, Patching, Settings, TableUpdate},
};
use crate::{
    base::{Error, Result},
    layers::Join,
    models,
    tasks::{LossKind, NextBasket},
};

impl Settings {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// A setting is out of range; the error names the first one and its range.
    pub fn check(&self) -> Result<()> {
        self.find()?;
        if self.precision == Numbers::Fastest {
            return Err(Error::user("--precision fastest is measured when a run starts and holds for that run only")
                .hint("compared runs must use the same precision: use --precision bf16 or f32"));
        }
        // Settings are stored as TOML, which has signed integers only.
        let kept = serde_json::json!(self);
        if let Some((name, x)) = kept.as_object().into_iter().flatten().find(|(_, x)| x.is_u64() && !x.is_i64()) {
            return Err(
                Error::user(format!("--{name} {x} is out of range")).hint(format!("it must be at most {}", i64::MAX))
            );
        }
        self.check_ranges()?;
        if self.find()?.1.baskets && self.length < NextBasket::SHORTEST_LENGTH {
            return Err(Error::user(format!("--length {} is too short for two baskets", self.length))
                .hint("use twice the number of items of a large basket, plus two"));
        }
        // Rows have 32-bit numbers, and blocks are listed by name. The product is a lower bound of the f32 activations.
        let rows = self.batch.saturating_mul(self.length);
        let sizes = [rows, self.width, self.ffn_ratio.saturating_add(8), self.blocks.saturating_add(1)];
        let floats = sizes.iter().fold(1u128, |all, size| all.saturating_mul(*size as u128));
        if rows > 1 << 31 {
            return Err(Error::user(format!("--batch times --length is {rows}"))
                .hint(format!("it must be at most {}", 1u64 << 31)));
        }
        if floats > 1 << 40 {
            return Err(Error::user("the activations of these settings need more than 4 TB")
                .hint("lower --batch, --length, --width, --ffn-ratio or --blocks"));
        }
        if self.find()?.0.uses.contains(&"heads") && !self.width.is_multiple_of(self.heads) {
            return Err(Error::user(format!("{} heads do not divide a width of {}", self.heads, self.width))
                .hint("choose --width as a multiple of --heads"));
        }
        if self.patch != Patching::None && !models::find(&self.model)?.patches {
            let patched: Vec<&str> = models::all().iter().filter(|m| m.patches).map(|m| m.name).collect();
            return Err(Error::user(format!("--model {} does not support patches", self.model))
                .hint(format!("use --transfer model; models with patches: {}", patched.join(", "))));
        }
        if self.keep_side && (self.join == Join::Sum || models::find(&self.model)?.users) {
            return Err(Error::user("--keep-side true: this network has no dense layer over the items")
                .hint("omit it: `mipgpu finetune` sets it if the base has such a layer"));
        }
        if self.freeze == Freeze::ALL && self.patch == Patching::None {
            return Err(Error::user("--freeze all leaves nothing to train").hint("add --patch serial"));
        }
        self.loss().check(None)?;
        if self.table_update == TableUpdate::Rows && !self.loss.sampled() {
            return Err(Error::user(
                "--table-update rows: full softmax has a gradient for every row of the item table",
            )
            .hint(format!("use --loss {}, or omit --table-update", LossKind::words(LossKind::sampled, "or"))));
        }
        let (_, task) = self.find()?;
        if self.table_update == TableUpdate::Rows && task.rated {
            return Err(Error::user(format!("--table-update rows: --task {} updates all rows", task.name))
                .hint("omit --table-update"));
        }
        if self.table_update == TableUpdate::Rows && !self.rows_can_catch_up() {
            return Err(Error::user(format!(
                "--beta1 {} with --beta2 {}: --table-update rows requires beta1^2 < beta2",
                self.beta1, self.beta2
            ))
            .hint("add --table-update dense"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::SamplerKind;

    #[test]
    fn losses_that_make_no_sense_are_refused_with_advice() {
        use LossKind::{Bpr, Gbce, SampledSoftmax};
        let base = || Settings { loss: SampledSoftmax, ..Settings::default() };
        let in_batch = SamplerKind::InBatch;
        for (s, what) in [
            (Settings { negatives: 0, ..base() }, "0 negatives"),
            (Settings { loss: Gbce, gbce_t: 1.01, ..base() }, "--gbce-t 1.01"),
            (Settings { loss: Gbce, gbce_t: f32::NAN, ..base() }, "--gbce-t NaN"),
            (Settings { loss: Bpr, sampler: in_batch, ..base() }, "in-batch cannot be combined with bce"),
            (
                Settings { sampler: in_batch, per_position: true, ..base() },
                "in-batch cannot be combined with --per-position",
            ),
            (Settings { sampler: in_batch, unique_negatives: true, ..base() }, "requires --sampler uniform"),
            (
                Settings { sampler: SamplerKind::Popularity, unique_negatives: true, ..base() },
                "requires --sampler uniform",
            ),
            (Settings { loss: Bpr, unique_negatives: true, ..base() }, "each row has its own"),
        ] {
            let error = s.check().expect_err(what);
            assert!(error.what.contains(what) && error.hint.is_some(), "{error}");
        }
        // Settings without effect are not checked.
        Settings { negatives: 0, gbce_t: 7.0, ..Settings::default() }.check().unwrap();
    }

    #[test]
    fn out_of_range_settings_are_refused() {
        let bad = [
            Settings { heads: 3, ..Settings::default() },
            Settings { dropout: 1.0, ..Settings::default() },
            Settings { mask: -0.1, ..Settings::default() },
            Settings { length: 1, ..Settings::default() },
            Settings { lr: f32::NAN, ..Settings::default() },
            Settings { model: "bert5rec".into(), ..Settings::default() },
            Settings { batch: 0, ..Settings::default() },
            Settings { batch: usize::MAX, ..Settings::default() },
            Settings { blocks: usize::MAX, ..Settings::default() },
            Settings { ffn_ratio: usize::MAX, ..Settings::default() },
            Settings { width: 1 << 40, ..Settings::default() },
            Settings { negatives: 1 << 40, ..Settings::default() },
        ];
        for s in bad {
            assert!(s.check().is_err(), "{s:?}");
        }
    }

    /// Such numbers could be written to a run folder but not read back.
    #[test]
    fn numbers_beyond_toml_are_refused() {
        let past = 1u64 << 63;
        for (s, name) in [
            (Settings { seed: past, ..Settings::default() }, "--seed 9223372036854775808"),
            (Settings { seed: u64::MAX, ..Settings::default() }, "--seed 18446744073709551615"),
            (Settings { warmup: past, ..Settings::default() }, "--warmup"),
            (Settings { targets: usize::MAX, ..Settings::default() }, "--targets"),
            (Settings { checkpoint_seconds: past, ..Settings::default() }, "--checkpoint-seconds"),
        ] {
            let error = s.check().unwrap_err();
            assert!(error.what.contains(name) && error.to_string().contains("at most 9223372036854775807"), "{error}");
        }
        let most = Settings { seed: past - 1, targets: usize::MAX / 2, ..Settings::default() };
        most.check().unwrap();
        assert_eq!(toml::from_str::<Settings>(&toml::to_string(&most).unwrap()).unwrap(), most);
    }

    #[test]
    fn heads_divide_the_width_of_models_that_have_heads() {
        for model in models::ALL {
            let user_width = if model.users { 8 } else { 0 };
            let s = Settings { model: model.name.into(), width: 10, heads: 4, user_width, ..Settings::default() };
            assert_eq!(s.check().is_err(), model.uses.contains(&"heads"), "{}", model.name);
            Settings { heads: 5, ..s }.check().unwrap();
        }
    }
}
