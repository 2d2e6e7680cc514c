/*! Side inputs other than the items' ids: side fields of items, the user of the sequence, and their combination with
the item vectors.

An item's vector in a field is the mean of the vectors of its values ([`Fields`]). A user has a vector that is repeated
at every row of the user's sequence ([`Users`]). [`Side`] combines an input x (N,D) and these two into one input of the
same width:
concat: y = [x | fields | user] W^T + b        W (D,D+F*Df+Du)
sum:    y = x + [fields | user] W^T + b        W (D,F*Df+Du): the first with the identity in front of x
In a run from scratch W is random. In a run that starts from another run, parts that the other run lacks start without
effect (`train::transfer`): with the identity in front of x, and zeros after it.

The values of an item and the user of a sequence are data, not planned. They are written ([`Fields::write`]) or part of
a batch (`Input::user`).
*/

use serde::{Deserialize, Serialize};

use super::{BatchShape, INPUT, Input, Linear, Spread, Users};
use crate::{
    base::{Error, Result},
    mem::{Dst, F32, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{
        Backend, BagBwd, BagFwd, BagLists, BagSize, ConcatBwd, ConcatFwd, DropoutAddFwd, SegmentSum, dropout::Dropout,
        sort_ids::Sorted,
    },
};

/// The mean of the vectors of an item's values, field by field. It is zero for [MASK] and for an item without values.
/// Parameter: `field.weight (R,D)`, the values of all fields one after another.
#[derive(Clone, Debug)]
pub struct Fields {
    pub table: Param,
    /// (N,F*D) the fields of the items of all rows.
    pub y: Var,
    size: BagSize,
    /// Width of a field (D).
    d: usize,
    // The lists of `BagLists`.
    start: Span<U32>,
    value: Span<U32>,
    share: Span<F32>,
    owner: Span<U32>,
    key: Span<U32>,
    /// (V,F*D) gradients summed by item.
    ditem: Span<F32>,
    by_item: Sorted,
    input: Input,
}

impl Fields {
    /// Plans the fields of items with these sizes, each `d` wide.
    ///
    /// # Errors
    /// There are no fields, no values or the width is 0.
    pub fn plan(p: &mut Planner, input: &Input, size: BagSize, d: usize, std: f32) -> Result<Self> {
        if size.fields == 0 || size.values == 0 {
            return Err(Error::user("the items of this data have no side fields")
                .hint("import them with `mipgpu import --items FILE --item-fields NAME`, or train without them"));
        }
        if d == 0 {
            return Err(Error::user("side fields have width 0").hint("the width must be at least 1"));
        }
        p.label("fields");
        let n = input.capacity.n;
        Ok(Fields {
            table: p.param("field.weight", &[size.rows, d], Init::TruncatedNormal(std)),
            y: p.var(n * size.fields * d),
            size,
            d,
            start: p.index(size.pairs() + 1),
            value: p.index(size.values),
            share: p.stat(size.pairs()),
            owner: p.index(size.values),
            key: p.index(size.values),
            ditem: p.stat(size.pairs() * d),
            by_item: Sorted::plan(p, n),
            input: *input,
        })
    }

    /// Returns the columns of the output: F*D.
    pub fn width(&self) -> usize {
        self.size.fields * self.d
    }

    /// Writes the values of each item, once, before the first forward pass.
    ///
    /// # Errors
    /// The sizes differ from the planned ones.
    pub fn write(&self, b: &mut dyn Backend, lists: &BagLists) -> Result<()> {
        let (have, want) = (lists.size(), self.size);
        if have != want {
            let words = |s: BagSize| format!("{} items, {} fields, {} values", s.items, s.fields, s.rows);
            return Err(Error::user(format!("side fields of {}, planned were {}", words(have), words(want)))
                .hint("train and predict with the same data set"));
        }
        let ids = [
            (self.start, &lists.start),
            (self.value, &lists.value),
            (self.owner, &lists.owner),
            (self.key, &lists.key),
        ];
        ids.into_iter().for_each(|(span, ids)| b.write_ids(span, ids));
        b.write(self.share.raw(), &lists.share);
        Ok(())
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&BagFwd {
            y: self.y.y,
            table: self.table.w,
            item: self.input.item,
            start: self.start,
            value: self.value,
            share: self.share,
            n: s.n,
            size: self.size,
            d: self.d,
        });
    }

    /// Computes the gradient of the table from that of the output.
    /// Rows are summed by item first, since an item can occur more than once in a batch. The order of the items in a
    /// value's gradient is then the same at every step.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (by, items) = (&self.by_item, self.size.items);
        b.run(&by.sort(&[(self.input.item, s.n)], items));
        b.run(&SegmentSum::of(Dst::Write(self.ditem), self.y.dy, by, [s.n, self.width(), items]));
        b.run(&BagBwd {
            dtable: self.table.grad(),
            ditem: self.ditem,
            owner: self.owner,
            key: self.key,
            share: self.share,
            size: self.size,
            d: self.d,
        });
    }
}

/// The combination of the input and the side inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// A dense layer over their concatenation.
    #[default]
    Concat,
    /// The unchanged input, plus a dense layer over the side inputs.
    Sum,
}

impl Join {
    /// Whether the input is a part of the dense layer's input, rather than added to its output.
    pub fn is_concat(self) -> bool {
        match self {
            Join::Concat => true,
            Join::Sum => false,
        }
    }
}

/// The side inputs of the items.
#[derive(Clone, Copy, Debug)]
pub struct SideConfig {
    /// Sizes of the side fields and the width of each; `None`: no fields.
    pub fields: Option<(BagSize, usize)>,
    /// Number of users and the width of their vectors; `None`: no users.
    pub users: Option<(usize, usize)>,
    pub join: Join,
    /// Standard deviation of the initial rows of both tables.
    pub std: f32,
}

/// Combines input, fields and user. Parameters: those of [`Fields`] and [`Users`], `side.weight (D,·)`, `side.bias
/// (D)`.
#[derive(Clone, Debug)]
pub struct Side {
    fields: Option<Fields>,
    /// The users' vectors, and their copies at all rows.
    users: Option<(Users, Spread)>,
    x: Var,
    join: Join,
    /// The concatenated inputs of the dense layer and their widths. A single input is used without a copy.
    parts: Vec<(Var, usize)>,
    linear: Linear,
    /// The output (N,D).
    pub y: Var,
    input: Input,
    d: usize,
}

impl Side {
    /// Plans the layer over an input `x` (N,D).
    /// Without fields and users it is the dense layer over `x` alone. This keeps the learned weights of a run that had
    /// them.
    ///
    /// # Errors
    /// Those of [`Fields::plan`] and [`Users::plan`], or neither is requested and there is nothing to add.
    pub fn plan(p: &mut Planner, x: Var, d: usize, input: &Input, c: &SideConfig) -> Result<Self> {
        let n = input.capacity.n;
        let fields = c.fields.map(|(size, width)| Fields::plan(p, input, size, width, c.std)).transpose()?;
        let mut user = |(users, width)| {
            let users = Users::plan(p, input, users, width, c.std)?;
            let spread = Spread::plan(p, users.y, input, width);
            Ok::<_, Error>((users, spread))
        };
        let users = c.users.map(&mut user).transpose()?;
        if fields.is_none() && users.is_none() && !c.join.is_concat() {
            return Err(Error::user("neither side fields nor users are given").hint("specify one of them"));
        }
        let mut parts: Vec<(Var, usize)> = Vec::new();
        parts.extend(c.join.is_concat().then_some((x, d)));
        parts.extend(fields.as_ref().map(|f| (f.y, f.width())));
        parts.extend(users.as_ref().map(|(_, spread)| (spread.y, spread.d)));
        p.label("side");
        let width = parts.iter().map(|(_, width)| width).sum();
        let all = if parts.len() == 1 { parts[0].0 } else { p.var(n * width) };
        // The output has the scale of the input, for any number of concatenated parts.
        let mut linear = Linear::plan(p, "side", all, n, width, d, (width as f32).sqrt().recip());
        let mut columns = Vec::new();
        columns.extend(c.join.is_concat().then(|| (INPUT.to_string(), d)));
        if let Some((size, width)) = c.fields {
            columns.extend((0..size.fields).map(|f| (Self::field(f), width)));
        }
        columns.extend(c.users.map(|(_, width)| ("user".to_string(), width)));
        p.columns("side.weight", columns);
        let y = match c.join {
            Join::Concat => linear.y,
            Join::Sum => {
                // The sum has its own memory. Its gradient is that of both terms.
                linear.y.dy = x.dy;
                Var { y: p.act(n * d), dy: x.dy }
            }
        };
        Ok(Side { fields, users, x, join: c.join, parts, linear, y, input: *input, d })
    }

    /// Returns the name of the columns of side field number `f`.
    pub fn field(f: usize) -> String {
        format!("field {f}")
    }

    /// Calls [`Fields::write`], or does nothing without fields.
    ///
    /// # Errors
    /// Those of [`Fields::write`].
    pub fn write(&self, b: &mut dyn Backend, lists: &BagLists) -> Result<()> {
        self.fields.as_ref().map_or(Ok(()), |fields| fields.write(b, lists))
    }

    /// Returns the parts of the dense layer's input and their widths, with empty ones for missing parts.
    fn three(&self) -> ([Var; 3], [usize; 3]) {
        let none = Var { y: Span::empty(), dy: Span::empty() };
        let part = |i: usize| self.parts.get(i).copied().unwrap_or((none, 0));
        ([0, 1, 2].map(|i| part(i).0), [0, 1, 2].map(|i| part(i).1))
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.fields.iter().for_each(|fields| fields.forward(b, s));
        if let Some((users, spread)) = &self.users {
            users.forward(b, s);
            spread.forward(b, s);
        }
        if self.parts.len() > 1 {
            let ([x, f, u], widths) = self.three();
            b.run(&ConcatFwd { y: self.linear.x.y, a: x.y, b: f.y, c: u.y, n: s.n, widths });
        }
        self.linear.forward(b, s);
        if !self.join.is_concat() {
            let (residual, x, step) = (self.x.y, self.linear.y.y, self.input.step);
            b.run(&DropoutAddFwd { y: self.y.y, residual, x, step, n: s.n * self.d, drop: Dropout::NONE });
        }
    }

    /// Computes the gradients of the input (written; `y.dy` itself for a sum) and of all parameters from `y.dy`.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.linear.backward(b, s, Mode::Write);
        if self.parts.len() > 1 {
            let ([x, f, u], widths) = self.three();
            let [da, db, dc] = [x, f, u].map(|part| Dst::Write(part.dy));
            b.run(&ConcatBwd { da, db, dc, dy: self.linear.x.dy, n: s.n, widths });
        }
        self.fields.iter().for_each(|fields| fields.backward(b, s));
        if let Some((users, spread)) = &self.users {
            spread.backward(b, s);
            users.backward(b, s);
        }
    }
}
