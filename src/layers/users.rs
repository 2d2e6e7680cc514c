//! What is known of a user, whatever the user did: a vector of each, and a sequence's vector at each of its rows.

use super::{BatchShape, Input};
use crate::{
    base::{Error, Result},
    mem::{Dst, Init, Param, Planner, Var},
    ops::{Backend, GatherTable, NO_ID, SegmentSum, SpreadBwd, SpreadFwd, sort_ids::Sorted},
};

/// The vector of the user whose sequence it is; zeros for [`Users::NOBODY`]. Parameter: `user.weight (U,D)`.
#[derive(Clone, Debug)]
pub struct Users {
    pub table: Param,
    /// (B,D) one a sequence.
    pub y: Var,
    by_user: Sorted,
    input: Input,
    users: usize,
    d: usize,
}

impl Users {
    /// A user nobody knows: its vector is zero and never trained. What `Input::user` holds of a sequence asked for from
    /// outside the data.
    pub const NOBODY: u32 = NO_ID;

    /// Of `users` users, `d` wide.
    ///
    /// # Errors
    /// No users or no width.
    pub fn plan(p: &mut Planner, input: &Input, users: usize, d: usize, std: f32) -> Result<Self> {
        if users == 0 || d == 0 || users >= NO_ID as usize {
            return Err(Error::user(format!("vectors of {users} users, {d} wide"))
                .hint("a table of users has a row at least, a width of one at least, and less than 2^32 - 1 rows"));
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

    /// From the gradient of the output to that of the table. Sequences that only fill up a batch are nobody's.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        if !self.table.frozen {
            let (d, by) = (self.d, &self.by_user);
            b.run(&by.sort(&[(self.input.user, s.b)], self.users));
            b.run(&SegmentSum::of(self.table.grad(), self.y.dy, by, [s.b, d, self.users]));
        }
    }
}

/// y = x of the row's sequence: one vector of a sequence, at all of its rows.
#[derive(Clone, Debug)]
pub struct Spread {
    x: Var,
    /// (N,D)
    pub y: Var,
    input: Input,
    pub d: usize,
}

impl Spread {
    /// Of `x` (B,D).
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
