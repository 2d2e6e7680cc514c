/*! dropout: zero each element with probability p, and scale the others so that the mean is unchanged (Srivastava et al.
2014).
fwd: y = keep(i) ? x*scale : 0,  with a residual: y = r + that          x,y,r (N)
bwd: dx = keep(i) ? dy*scale : 0;  the gradient of r is dy itself, so it has no op

keep(i) is 16-bit draw number i of the site at this step >= round(p*65536). The counter is (i/8, step, site) and the key
is the seed. The four words give eight draws, low half first. Nothing is stored: the backward pass draws again. p is
rounded to 1/65536.
*/

pub use super::dropout_site::Dropout;
use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{Act, Lent, Planner, Scalar, U32};

op! {
    /// Computes y = dropout(x).
    DropoutFwd = "dropout_fwd" {
        write { /** (N) */ y: Act }
        read { /** (N) */ x: Act, /** (1) */ step: U32 }
        with { n: usize, drop: Dropout }
    }
}

op! {
    /// Computes y = residual + dropout(x).
    DropoutAddFwd = "dropout_add_fwd" {
        write { /** (N) */ y: Act }
        read { /** (N) */ residual: Act, /** (N) */ x: Act, /** (1) */ step: U32 }
        with { n: usize, drop: Dropout }
    }
}

op! {
    /// Computes dx of [`DropoutFwd`] and of [`DropoutAddFwd`].
    DropoutBwd = "dropout_bwd" {
        grad { /** (N) */ dx: Act }
        read { /** (N) */ dy: Act, /** (1) */ step: U32 }
        with { n: usize, drop: Dropout }
    }
}

impl Op for DropoutFwd {
    fn check(&self) -> Result<(), String> {
        self.drop.check()?;
        fits(&[("y", self.y.len(), self.n), ("x", self.x.len(), self.n), ("step", self.step.len(), 1)])
    }

    fn cost(&self) -> Cost {
        Cost::work(self.n as f64, 0.0).moves(self.y, self.n).moves(self.x, self.n).moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (x, step) = (m.get(self.x), m.ids(self.step)[0]);
        m.compute(Dst::Write(self.y), self.n, |i| x[i] * S::of(self.drop.factor(step, i as u64)));
    }
}

impl Op for DropoutAddFwd {
    fn check(&self) -> Result<(), String> {
        self.drop.check()?;
        let n = self.n;
        fits(&[
            ("y", self.y.len(), n),
            ("residual", self.residual.len(), n),
            ("x", self.x.len(), n),
            ("step", self.step.len(), 1),
        ])
    }

    fn cost(&self) -> Cost {
        Cost::work(2.0 * self.n as f64, 0.0)
            .moves(self.y, self.n)
            .moves(self.residual, self.n)
            .moves(self.x, self.n)
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (r, x, step) = (m.get(self.residual), m.get(self.x), m.ids(self.step)[0]);
        m.compute(Dst::Write(self.y), self.n, |i| r[i] + x[i] * S::of(self.drop.factor(step, i as u64)));
    }
}

impl Op for DropoutBwd {
    fn check(&self) -> Result<(), String> {
        self.drop.check()?;
        fits(&[("dx", self.dx.len_or(self.n), self.n), ("dy", self.dy.len(), self.n), ("step", self.step.len(), 1)])
    }

    fn cost(&self) -> Cost {
        let wanted = self.dx.wanted() as usize;
        let n = wanted * self.n;
        Cost::work(n as f64, 0.0).gradient(self.dx, n).moves(self.dy, n).moves(self.step, wanted)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (dy, step) = (m.get(self.dy), m.ids(self.step)[0]);
        m.compute(self.dx, self.n, |i| dy[i] * S::of(self.drop.factor(step, i as u64)));
    }
}

/// (elements, p) of the cases.
const SIZES: [(usize, f32); 7] = [(1, 0.5), (3, 0.1), (7, 0.0), (8, 0.3), (1001, 0.1), (4096, 0.9), (20_003, 0.2)];

pub fn cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|(n, p_drop)| {
            let mut p = Planner::new();
            let (x, y, step) = (p.var(n), p.var(n), p.index(1));
            let drop = Dropout { p: p_drop, seed: 0x1234_5678_9abc, site: 3 };
            let fwd = DropoutFwd { y: y.y, x: x.y, step, n, drop };
            let bwd = DropoutBwd { dx: Dst::Write(x.dy), dy: y.dy, step, n, drop };
            Case::new(format!("n{n} p{p_drop}"), p, fwd, bwd)
                .input(x.y, 1.0, x.dy)
                .output(y.y, y.dy)
                .ids(step, vec![41])
        })
        .collect()
}

pub fn add_cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|(n, p_drop)| {
            let mut p = Planner::new();
            let (x, y, r, step) = (p.var(n), p.var(n), p.act(n), p.index(1));
            let drop = Dropout { p: p_drop, seed: 99, site: 70_000 };
            let fwd = DropoutAddFwd { y: y.y, residual: r, x: x.y, step, n, drop };
            let bwd = DropoutBwd { dx: Dst::Write(x.dy), dy: y.dy, step, n, drop };
            Case::new(format!("n{n} p{p_drop}"), p, fwd, bwd)
                .input(x.y, 1.0, x.dy)
                .output(y.y, y.dy)
                .normal(r, 1.0)
                .ids(step, vec![u32::MAX])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_zeros_is_p() {
        let drop = Dropout { p: 0.3, seed: 5, site: 1 };
        let n = 100_000;
        let zeros = (0..n).filter(|i| drop.factor(9, *i) == 0.0).count() as f64 / n as f64;
        // Five standard deviations of a binomial share.
        assert!((zeros - 0.3).abs() < 5.0 * (0.3f64 * 0.7 / n as f64).sqrt(), "{zeros}");
        assert!((0..n).any(|i| drop.factor(9, i) != drop.factor(10, i)), "steps differ");
    }
}
