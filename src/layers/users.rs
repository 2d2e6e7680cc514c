//! User vectors independent of the history, and the copies of a sequence's vector at each of its rows.

use super::{BatchShape, Input};
use crate::{
    base::{Error, Result},
    mem::{Dst, Init, Param, Planner, Var},
    ops::{Backend, GatherTable, NO_ID, SegmentSum, SpreadBwd, SpreadFwd, sort_ids::Sorted},
};

/// The vector of the sequence's user; zeros for [`Users::NOBODY`]. Parameter: `user.weight (U,D)`.
#[derive(Clone, Debug)]
pub struct Users {
    pub table: Param,
    /// (B,D) one vector per sequence.
    pub y: Var,
    by_user: Sorted,
    input: Input,
    users: usize,
    d: usize,
}

impl Users {
    /// An unknown user, with a zero vector that is never trained.
    /// `Input::user` contains it for sequences from outside the data.
    pub const NOBODY: u32 = NO_ID;

    /// Plans vectors of `users` users, each `d` wide.
    ///
    /// # Errors
    /// There are no users, or the width is 0.
    pub fn plan(p: &mut Planner, input: &Input, users: usize, d: usize, std: f32) -> Result<Self> {
        if users == 0 || d == 0 || users >= NO_ID as usize {
            return Err(Error::user(format!("vectors of {users} users, {d} wide"))
                .hint("a table of users needs at least one row, fewer than 2^32 - 1 rows and a width of at least 1"));
        }
        p.label("users");
        let b = input.capacity.b;
        Ok(Users {
            table: p.param("user.weight", &[users, d], Init::TruncatedNormal(std)),
            y: p.var(b * d),
            by_user: Sorted::plan(p, b),
            input: *input,
            users,
            d,
        })
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&GatherTable { y: self.y.y, table: self.table.w, id: self.input.user, n: s.b, d: self.d, v: self.users });
    }

    /// Computes the gradient of the table from that of the output. Padding sequences have no user.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        if !self.table.frozen {
            let (d, by) = (self.d, &self.by_user);
            b.run(&by.sort(&[(self.input.user, s.b)], self.users));
            b.run(&SegmentSum::of(self.table.grad(), self.y.dy, by, [s.b, d, self.users]));
        }
    }
}

/// y = x of the row's sequence: one vector per sequence, at all of its rows.
#[derive(Clone, Debug)]
pub struct Spread {
    x: Var,
    /// (N,D)
    pub y: Var,
    input: Input,
    pub d: usize,
}

impl Spread {
    /// Plans the copies of `x` (B,D).
    pub fn plan(p: &mut Planner, x: Var, input: &Input, d: usize) -> Self {
        Spread { x, y: p.var(input.capacity.n * d), input: *input, d }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&SpreadFwd { y: self.y.y, x: self.x.y, cu: self.input.cu, b: s.b, n: s.n, d: self.d });
    }

    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (dx, dy, cu) = (Dst::Write(self.x.dy), self.y.dy, self.input.cu);
        b.run(&SpreadBwd { dx, dy, cu, b: s.b, n: s.n, d: self.d });
    }
}
