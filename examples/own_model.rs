//! A model of your own, in one file: the whole program `mipgpu` with one more model.
//!
//! ```text
//! cargo run --release --example own_model -- check --gradients --only markov    prove the gradients
//! cargo run --release --example own_model -- check --only markov                prove a device
//! cargo run --release --example own_model -- train --model markov               train on the built-in sample
//! ```
//!
//! The model is a Markov chain of first order in factors (Rendle et al., WWW 2010, without users), with a dense layer:
//!
//! ```text
//! x = dropout(E[last item])      (M,D)
//! h = relu(W x + b)              (M,D)
//! score of item v = <h, E[v]> + bias[v]
//! ```
//!
//! A model only plans memory and runs ops. It is found by its name in settings, run folders and checks.

use mipgpu::{
    Result,
    layers::{BatchShape, DataSummary, Embed, Linear, ScoredRows, Sites, View},
    mem::{Dst, Init, Mode, Param, Planner, Var},
    models::{Context, Model, Network, Representations, register},
    ops::{ActivationBwd, ActivationFwd, Backend, activation::Activation},
};

fn main() -> std::process::ExitCode {
    register::<Markov>().expect("no other model has this name");
    mipgpu::cli::main()
}

/// The planned model.
#[derive(Clone, Debug)]
struct Markov {
    embed: Embed,
    scored: ScoredRows,
    dense: Linear,
    /// relu of the dense layer (M,D).
    active: Var,
    item_bias: Param,
    d: usize,
}

impl Model for Markov {
    const NAME: &'static str = "markov";
    const ABOUT: &'static str = "Markov chain of first order in factors (Rendle et al. 2010)";
    /// A row may see itself and what precedes it, so the model fits `--task next-item`.
    const VIEWS: &'static [View] = &[View::Past];
    /// Settings that not every model has: how side fields and users join the items.
    const USES: &'static [&'static str] = &["join"];

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, m) = (c.settings, c.settings.width, c.input.capacity.m);
        let embed = Embed::plan(p, c.input, &c.embed(false), &mut Sites::new(c.seed))?;
        let scored = ScoredRows::plan(p, embed.y, c.input, d);
        p.label("dense");
        // This scale keeps the variance after relu equal to that before it.
        let dense = Linear::plan(p, "dense", scored.y, m, d, d, (2.0 / d as f32).sqrt()).over_scored();
        let active = p.var(m * d);
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(Markov { embed, scored, dense, active, item_bias, d })
    }
}

impl Network for Markov {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.embed.forward(b, s);
        self.scored.forward(b, s);
        self.dense.forward(b, s);
        b.run(&ActivationFwd { y: self.active.y, x: self.dense.y.y, n: s.m * self.d, kind: Activation::Relu });
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&ActivationBwd {
            dx: Dst::Write(self.dense.y.dy),
            dy: self.active.dy,
            y: self.active.y,
            n: s.m * self.d,
            kind: Activation::Relu,
        });
        self.dense.backward(b, s, Mode::Write);
        self.scored.backward(b, s);
        self.embed.backward(b, s);
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        Representations::tied(&self.embed, &self.item_bias, self.active)
    }
}

#[cfg(test)]
mod tests {
    use mipgpu::{
        Device, Evaluation, Run, Training,
        eval::metrics::Metrics,
        mem::Precision,
        train::check::{
            Selection, check,
            gradient::{Slope, check_gradients},
        },
    };

    use super::*;

    /// The gradients are those of the loss, the steps on the CPU are those of the f64 reference, and a short training
    /// beats popularity. The run opens again by the name of the model.
    #[test]
    fn the_model_is_proved_trains_and_opens() {
        register::<Markov>().unwrap();
        let e = register::<Markov>().unwrap_err();
        assert!(e.what.contains("already a model 'markov'"), "{e}");
        let mut steps = 0;
        check_gradients("markov", &mut |what, slopes| {
            steps += 1;
            // 4 tensors and all together, at least.
            assert!(slopes.len() >= 5, "{what}");
            assert!(slopes.iter().all(|slope| slope.error() < Slope::ALLOWED), "{what}: {slopes:?}");
        })
        .unwrap();
        assert!(steps >= 2, "with and without side inputs");
        let only = Selection { name: "markov", ..Selection::ALL };
        let mut rows = Vec::new();
        check(Device::Cpu, &[Precision::F32, Precision::Bf16], only, &mut |row| rows.push(row)).unwrap();
        assert!(rows.len() == 2 * steps && rows.iter().all(|row| row.fault.is_none()), "{rows:?}");

        let folder = tempfile::tempdir().unwrap();
        let data = mipgpu::import_sample(&folder.path().join("data")).unwrap();
        let settings = [("model", "markov".into()), ("epochs", 10.into()), ("width", 32.into()), ("length", 20.into())];
        let training = settings.into_iter().try_fold(Training::new(), |t, (name, value)| {
            let value: serde_json::Value = value;
            t.set(name, value)
        });
        let trained = training.unwrap().device(Device::Cpu).run(&data, &folder.path().join("run")).unwrap();
        let Evaluation::Ranking(report) = &trained.evaluation else { panic!("a ranking") };
        let ndcg = |of: &Metrics| of.at(10).expect("lists of 10").ndcg;
        let (model, popular) = (ndcg(&report.full.model), ndcg(report.full.popularity.as_ref().unwrap()));
        assert!(model > popular, "NDCG@10 {model}, popularity {popular}");
        let run = Run::open(&folder.path().join("run")).unwrap();
        assert_eq!(run.items().len(), data.items());
    }
}
