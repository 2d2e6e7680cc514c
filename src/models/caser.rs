/*! Caser: convolutions over the newest items as an image (Tang and Wang, WSDM 2018).

x = E[item]                                                   (N,D)
c = horizontal and vertical filters over the L rows that end at each row      (N,L*F), (N,G*D)
z = relu(W [dropout(c)] + b)                                   (N,D)
h = scored rows of [z | P[user]]                               (M,D+Du)   `--user-width`, 0: z alone
score of item v = <h, E'[v]> + bias'[v]                        its own output table, as in the paper

For the next K items (`--targets 3` in the paper) it matches the paper. Where items are masked, a window ends at the
predicted row, which shows [MASK]. Windows reach over the start of a sequence into rows of zeros, as the published code
pads. Departures: windows of one user share their convolutions instead of being cut out one by one; dropout applies only
after the filters.
*/

use super::{Context, Model, Network, Representations};
use crate::{
    base::Result,
    layers::{
        BatchShape, CaserConv, CaserConvConfig, DataSummary, Embed, INPUT, Linear, ScoredRows, Sites, Spread, Users,
        View,
    },
    mem::{Dst, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{
        ActivationBwd, ActivationFwd, Backend, ConcatBwd, ConcatFwd, DropoutAddFwd, DropoutBwd, DropoutFwd, SegmentSum,
        activation::Activation, dropout::Dropout, sort_ids::Sorted,
    },
};

/// One of the two outputs of the filters, with dropout, and the dense layer over it.
#[derive(Clone, Debug)]
struct OutputBranch {
    from: Var,
    dropped: Var,
    drop: Dropout,
    width: usize,
    dense: Linear,
}

/// The user's vector, and its concatenation with z.
#[derive(Clone, Debug)]
struct User {
    users: Users,
    spread: Spread,
    /// (N,D+Du) the concatenation.
    both: Var,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Caser {
    embed: Embed,
    conv: CaserConv,
    /// Horizontal, vertical. The gradient of both dense layers is that of their sum.
    parts: [OutputBranch; 2],
    sum: Var,
    z: Var,
    user: Option<User>,
    scored: ScoredRows,
    item: Param,
    item_bias: Param,
    by: Sorted,
    ids: Span<U32>,
    step: Span<U32>,
    /// Width of z (D).
    d: usize,
}

impl Model for Caser {
    const NAME: &'static str = "caser";
    const ABOUT: &'static str = "convolutions over a window of items (Tang and Wang 2018)";
    const VIEWS: &'static [View] = &[View::Past, View::Both];
    const USES: &'static [&'static str] = &["window", "horizontal", "vertical", "join"];

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, n) = (c.settings, c.settings.width, c.input.capacity.n);
        let mut sites = Sites::new(c.seed);
        let mut input = c.embed(false);
        // The input has a separate table. Its gradient is summed here.
        (input.touched, input.dropout) = (None, 0.0);
        let users = input.side.as_mut().and_then(|side| side.users.take());
        input.side = input.side.filter(|side| side.fields.is_some() || s.keep_side);
        let embed = Embed::plan(p, c.input, &input, &mut sites)?;
        let (window, horizontal, vertical, std) = (s.window, s.horizontal, s.vertical, s.init_std);
        let config = CaserConvConfig { width: d, window, horizontal, vertical, std };
        let conv = CaserConv::plan(p, "conv", embed.y, c.input, &config)?;
        p.label("dense");
        let sum = p.var(n * d);
        let mut part = |p: &mut Planner, name: &str, from: Var, width: usize| {
            p.label(name);
            let dropped = p.var(n * width);
            let y = Var { y: p.act(n * d), dy: sum.dy };
            let dense = Linear::plan_into(p, name, dropped, y, [width, d], Init::TruncatedNormal(std));
            OutputBranch { from, dropped, drop: sites.take(s.dropout), width, dense }
        };
        let parts = [
            part(p, "dense.horizontal", conv.horizontal, window * horizontal),
            part(p, "dense.vertical", conv.vertical, vertical * d),
        ];
        p.label("output");
        let z = p.var(n * d);
        let user = users.map(|(users, width)| User::plan(p, c, users, width)).transpose()?;
        p.label("output");
        let (last, wide) = user.as_ref().map_or((z, d), |user| (user.both, d + user.spread.d));
        let scored = ScoredRows::plan(p, last, c.input, wide);
        let rows = c.items + c.special;
        let item = p.table("item.output.weight", &[rows, wide], Init::TruncatedNormal(std), s.touched);
        let beside = user.as_ref().map(|user| ("user".to_string(), user.spread.d));
        p.columns("item.output.weight", [(INPUT.to_string(), d)].into_iter().chain(beside).collect());
        let item_bias = p.table("item.output.bias", &[c.items], Init::Constant(0.0), s.touched);
        let (by, step) = (Sorted::plan(p, n), c.input.step);
        let ids = c.input.item;
        Ok(Caser { embed, conv, parts, sum, z, user, scored, item, item_bias, by, ids, step, d })
    }
}

impl User {
    fn plan(p: &mut Planner, c: &Context, users: usize, width: usize) -> Result<Self> {
        let users = Users::plan(p, c.input, users, width, c.settings.init_std)?;
        let spread = Spread::plan(p, users.y, c.input, width);
        Ok(User { users, spread, both: p.var(c.input.capacity.n * (c.settings.width + width)) })
    }
}

impl Network for Caser {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.embed.forward(b, s);
        self.conv.forward(b, s);
        for part in &self.parts {
            let drop = if s.training { part.drop } else { Dropout::NONE };
            b.run(&DropoutFwd { y: part.dropped.y, x: part.from.y, step: self.step, n: s.n * part.width, drop });
            part.dense.forward(b, s);
        }
        let [residual, x] = [&self.parts[0], &self.parts[1]].map(|part| part.dense.y.y);
        let n = s.n * self.d;
        b.run(&DropoutAddFwd { y: self.sum.y, residual, x, step: self.step, n, drop: Dropout::NONE });
        b.run(&ActivationFwd { y: self.z.y, x: self.sum.y, n, kind: Activation::Relu });
        if let Some(User { users, spread, both }) = &self.user {
            users.forward(b, s);
            spread.forward(b, s);
            let (c, widths) = (Span::empty(), [self.d, spread.d, 0]);
            b.run(&ConcatFwd { y: both.y, a: self.z.y, b: spread.y.y, c, n: s.n, widths });
        }
        self.scored.forward(b, s);
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.scored.backward(b, s);
        if let Some(User { users, spread, both }) = &self.user {
            let (da, db) = (Dst::Write(self.z.dy), Dst::Write(spread.y.dy));
            b.run(&ConcatBwd { da, db, dc: Dst::Skip, dy: both.dy, n: s.n, widths: [self.d, spread.d, 0] });
            spread.backward(b, s);
            users.backward(b, s);
        }
        let (dx, n) = (Dst::Write(self.sum.dy), s.n * self.d);
        b.run(&ActivationBwd { dx, dy: self.z.dy, y: self.z.y, n, kind: Activation::Relu });
        for part in &self.parts {
            part.dense.backward(b, s, Mode::Write);
            let drop = if s.training { part.drop } else { Dropout::NONE };
            let (dx, n) = (Dst::Write(part.from.dy), s.n * part.width);
            b.run(&DropoutBwd { dx, dy: part.dropped.dy, step: self.step, n, drop });
        }
        self.conv.backward(b, s, Mode::Write);
        self.embed.backward(b, s);
        let table = &self.embed.item;
        if !table.frozen {
            let rows = table.shape[0];
            b.run(&self.by.sort(&[(self.ids, s.n)], rows));
            b.run(&SegmentSum::of(table.grad(), self.embed.sum.dy, &self.by, [s.n, self.d, rows]));
        }
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        Representations::own(&self.item, &self.item_bias, self.scored.y)
    }
}
