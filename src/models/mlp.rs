/*! MLP: predicts from the user's identity alone, not from the history. It is the base network of CoNet (Hu et al., CIKM
2018). With transferred user vectors (`finetune --transfer embedding`) it is the shallow transfer that Zeng et al. 2021
compare with.

h0 = dropout(P[user])                                  (B,Du)   `--user-width`
hl = dropout(relu(Wl h(l-1) + bl)), `--blocks` times   (B,D)
h  = W hL + b, at the scored rows of the user          (M,D)
score of item v = <h, E[v]> + bias[v]

Every query about a user has the same answer: the model ignores positions, order and the history itself. Users outside
the training data all get the same answer. Departure: Hu et al. pass user and item together through the dense layers,
once for every pair. Here they meet after the layers (two towers, with the item's row as the item tower). A catalogue is
then scored by one product, and every loss is applicable. Their loss is `--loss bce`.
*/

use super::{Context, Model, Network, Representations};
use crate::{
    base::{Error, Result},
    layers::{BatchShape, Linear, ScoredRows, Sites, Spread, Users, View, when},
    mem::{Dst, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{ActivationBwd, ActivationFwd, Backend, DropoutBwd, DropoutFwd, activation::Activation, dropout::Dropout},
};

/// The input of a dense layer: dropout, after relu except in the first layer.
#[derive(Clone, Debug)]
struct Before {
    x: Var,
    /// (B,width) relu(x), or x itself for the first layer.
    active: Var,
    dropped: Var,
    drop: Dropout,
    width: usize,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Mlp {
    users: Users,
    /// `--blocks` layers and the output layer.
    layers: Vec<(Before, Linear)>,
    spread: Spread,
    scored: ScoredRows,
    item: Param,
    item_bias: Param,
    step: Span<U32>,
}

impl Model for Mlp {
    const NAME: &'static str = "mlp";
    const ABOUT: &'static str = "dense layers over users' vectors (Hu et al. 2018)";
    const NOTE: &'static str = "users alone";
    const VIEWS: &'static [View] = &[View::Past, View::Both];
    const USES: &'static [&'static str] = &["blocks"];
    const USERS: bool = true;

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, seqs) = (c.settings, c.settings.width, c.input.capacity.b);
        if s.user_width == 0 {
            return Err(Error::user("mlp predicts from user vectors, but their width is 0").hint("set --user-width 64"));
        }
        if s.fields {
            return Err(Error::user("mlp reads no items: it does not support side fields").hint("omit --fields"));
        }
        let mut sites = Sites::new(c.seed);
        let users = Users::plan(p, c.input, c.summary.users, s.user_width, s.init_std)?;
        let mut layers: Vec<(Before, Linear)> = Vec::with_capacity(s.blocks + 1);
        for l in 0..=s.blocks {
            let name = if l < s.blocks { format!("hidden.{l}") } else { "output".into() };
            p.label(&name);
            let (x, width) = layers.last().map_or((users.y, s.user_width), |(_, dense)| (dense.y, d));
            let active = if l == 0 { x } else { p.var(seqs * width) };
            let before = Before { x, active, dropped: p.var(seqs * width), drop: sites.take(s.dropout), width };
            // This scale keeps the variance after relu equal to that before it.
            let std = (2.0 / width as f32).sqrt();
            let dense = Linear::plan(p, &name, before.dropped, seqs, width, d, std).over_sequences();
            layers.push((before, dense));
        }
        let spread = Spread::plan(p, layers[s.blocks].1.y, c.input, d);
        let scored = ScoredRows::plan(p, spread.y, c.input, d);
        let init = Init::TruncatedNormal(s.init_std);
        let item = p.table("item.weight", &[c.items + c.special, d], init, s.touched);
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(Mlp { users, layers, spread, scored, item, item_bias, step: c.input.step })
    }
}

impl Network for Mlp {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.users.forward(b, s);
        for (l, (before, dense)) in self.layers.iter().enumerate() {
            let (n, drop) = (s.b * before.width, when(s.training, before.drop));
            if l > 0 {
                b.run(&ActivationFwd { y: before.active.y, x: before.x.y, n, kind: Activation::Relu });
            }
            b.run(&DropoutFwd { y: before.dropped.y, x: before.active.y, step: self.step, n, drop });
            dense.forward(b, s);
        }
        self.spread.forward(b, s);
        self.scored.forward(b, s);
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.scored.backward(b, s);
        self.spread.backward(b, s);
        for (l, (before, dense)) in self.layers.iter().enumerate().rev() {
            dense.backward(b, s, Mode::Write);
            let (n, drop) = (s.b * before.width, when(s.training, before.drop));
            let dx = Dst::Write(before.active.dy);
            b.run(&DropoutBwd { dx, dy: before.dropped.dy, step: self.step, n, drop });
            if l > 0 {
                let dx = Dst::Write(before.x.dy);
                b.run(&ActivationBwd { dx, dy: before.active.dy, y: before.active.y, n, kind: Activation::Relu });
            }
        }
        self.users.backward(b, s);
    }

    fn representations(&self) -> Representations {
        Representations::own(&self.item, &self.item_bias, self.scored.y)
    }
}
