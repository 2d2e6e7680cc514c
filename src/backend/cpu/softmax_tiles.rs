/*! Scores of M rows against many candidates, tile by tile: log-sum-exp and its gradients without storing logits. The
full softmax (candidates: the catalogue) and the sampled softmax (candidates: the shared negatives) share this code.

Forward: candidates are packed once, 4096 at a time. Every task scores a block of rows against them and keeps a running
maximum and sum per row. Backward: a task owns up to 512 candidates and processes all rows, one block at a time. Each
block's tile of g = dloss exp(z - lse) is computed once and used three times while it is in the cache: for the
candidates' gradient (the task's own rows), for their bias gradient, and for the task's share of dh. The shares are
added in task order afterwards. Rows go in chunks so that these shares stay within a few megabytes.
*/

use rayon::prelude::*;

use super::{
    gemm::{self, Accumulate, Bias, Dest, Epilogue, Packed, Store, Terms, View},
    math::{exp, lanes, load, store},
    reduce, scratch,
    simd::{Kernel, Simd, dispatch},
};

/// The scored data: rows h (M,D) against candidate rows (C,D) with an offset each.
#[derive(Clone, Copy)]
pub struct Scores<'a> {
    pub h: &'a [f32],
    pub candidates: &'a [f32],
    pub offset: &'a [f32],
    pub d: usize,
    /// (M): the target item of each row.
    pub target: &'a [u32],
    pub kind: CandidateKind<'a>,
}

/// The relation between candidates and targets.
#[derive(Clone, Copy)]
pub enum CandidateKind<'a> {
    /// Candidate j is item j, so the target is one of the candidates.
    Catalogue,
    /// Candidate j is item `ids[j]`. A candidate that equals a row's target is left out for that row. So is one with
    /// its bit set in `own` (M,ceil(C/32), or empty).
    Negatives { ids: &'a [u32], own: &'a [u32] },
}

/// Rows per tile in the forward pass, and columns of that tile: 32 KB.
const ROWS: usize = 32;
const COLUMNS: usize = 256;
/// Candidates packed at a time in the forward pass.
const PACKED: usize = 4096;

impl Scores<'_> {
    fn rows(&self) -> usize {
        self.target.len()
    }

    fn count(&self) -> usize {
        self.offset.len()
    }

    /// Sets the logits of excluded candidates of row `i` to -inf, for the candidates from `j0` on.
    /// `hit` receives (place, logit) of the target where it is among them.
    #[inline(always)]
    fn mask(&self, i: usize, j0: usize, z: &mut [f32]) -> Option<f32> {
        match self.kind {
            CandidateKind::Catalogue => z.get((self.target[i] as usize).wrapping_sub(j0)).copied(),
            CandidateKind::Negatives { ids, own } => {
                leave_out(z, f32::NEG_INFINITY, self.target[i], &ids[j0..]);
                leave_out_own(z, f32::NEG_INFINITY, own, i * ids.len().div_ceil(32), j0);
                None
            }
        }
    }
}

/// Writes `nothing` where a candidate is the target.
#[inline(always)]
fn leave_out(x: &mut [f32], nothing: f32, target: u32, ids: &[u32]) {
    for (x, &id) in x.iter_mut().zip(ids) {
        *x = if id == target { nothing } else { *x };
    }
}

/// Writes `nothing` where the bit of a candidate is set. The candidates start at `j0`, the row's words at `first`.
#[inline(always)]
fn leave_out_own(x: &mut [f32], nothing: f32, own: &[u32], first: usize, j0: usize) {
    if own.is_empty() || x.is_empty() {
        return;
    }
    for word in j0 / 32..=(j0 + x.len() - 1) / 32 {
        let mut bits = own[first + word];
        while bits != 0 {
            if let Some(x) = x.get_mut((word * 32 + bits.trailing_zeros() as usize).wrapping_sub(j0)) {
                *x = nothing;
            }
            bits &= bits - 1;
        }
    }
}

/// The online softmax of one block of rows over one tile of logits.
struct Online<'a> {
    scores: Scores<'a>,
    z: &'a mut [f32],
    /// First row and candidate, size of the tile.
    i: usize,
    j: usize,
    columns: usize,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    hit: &'a mut [f32],
}

impl Kernel for Online<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, z) in self.z.chunks_exact_mut(self.columns).enumerate() {
            if let Some(hit) = self.scores.mask(self.i + r, self.j, z) {
                self.hit[r] = hit;
            }
            let p = z.as_ptr();
            let full = z.len() - z.len() % S::LANES;
            let mut max = s.splat(self.max[r]);
            // SAFETY: loads lie in the tile's row.
            unsafe {
                lanes!(S, full, |j, k| max = s.max(max, load(s, p.add(j), k)));
                let mut top = s.largest(max);
                for x in &z[full..] {
                    top = top.max(*x);
                }
                let m = s.splat(top);
                let mut sum = s.zero();
                lanes!(S, full, |j, k| sum = s.add(sum, exp(s, s.sub(load(s, p.add(j), k), m))));
                let mut tail = [f32::NEG_INFINITY; 16];
                if full < z.len() {
                    tail[..z.len() - full].copy_from_slice(&z[full..]);
                    sum = s.add(sum, exp(s, s.sub(s.load(tail.as_ptr()), m)));
                }
                // exp of the old maximum minus the new one rescales the previous sum.
                let old = s.sum(exp(s, s.splat(self.max[r] - top))) / S::LANES as f32;
                self.sum[r] = self.sum[r] * old + s.sum(sum);
                self.max[r] = top;
            }
        }
    }
}

/// Updates each row's running maximum and sum of exponentials with all candidates.
/// `max` and `sum` contain the previous counts on entry (at least `f32::MIN` and 0). `hit` receives the target's logit
/// where it is a candidate.
pub fn log_sum_exp<T: Terms>(scores: &Scores, max: &mut [f32], sum: &mut [f32], hit: &mut [f32]) {
    let (m, d, count) = (scores.rows(), scores.d, scores.count());
    let h = View::dense(&scores.h[..m * d], m, d);
    let candidates = View::dense(&scores.candidates[..count * d], count, d);
    scratch::borrow(gemm::packed_len(d, PACKED.min(count)), |room| {
        for start in (0..count).step_by(PACKED) {
            let n = PACKED.min(count - start);
            let packed = gemm::pack_parallel::<T>(room, candidates.rows(start, n).t());
            max.par_chunks_mut(ROWS).zip(sum.par_chunks_mut(ROWS).zip(hit.par_chunks_mut(ROWS))).enumerate().for_each(
                |(block, (max, (sum, hit)))| {
                    let (i, rows) = (block * ROWS, max.len());
                    scratch::borrow(ROWS * COLUMNS + T::room(rows, d), |room| {
                        let (z, room) = room.split_at_mut(ROWS * COLUMNS);
                        // Repeated for each 4096 candidates, which is cheap compared with the product.
                        let h = T::of(room, h.rows(i, rows));
                        for j in (0..n).step_by(COLUMNS) {
                            let columns = COLUMNS.min(n - j);
                            let z = &mut z[..rows * columns];
                            let c = Dest::new(z, rows, columns, columns);
                            let bias = &scores.offset[start + j..][..columns];
                            gemm::multiply(h, packed.columns(j, columns), &mut Bias { c, bias });
                            dispatch(Online { scores: *scores, z, i, j: start + j, columns, max, sum, hit });
                        }
                    });
                },
            );
        }
    });
}

/// The destinations of the gradients of [`Scores`], each with whether to add to the old value.
pub struct Gradients<'a> {
    pub dh: Option<(&'a mut [f32], bool)>,
    pub dcandidates: Option<(&'a mut [f32], bool)>,
    pub doffset: Option<(&'a mut [f32], bool)>,
}

/// Largest number of candidates per task of the backward pass.
const OWN: usize = 512;
/// Number of tasks with shares of dh in memory at the same time.
const SHARES: usize = 16;
/// Rows of one tile of g.
const BLOCK: usize = 64;
/// Elements of all shares of dh: 16 MB.
const SHARE_ELEMENTS: usize = 4 << 20;

/// g = dloss exp(z + offset - lse).
struct Weights<'a> {
    g: Dest,
    offset: &'a [f32],
    lse: &'a [f32],
    dloss: &'a [f32],
}

impl Epilogue for Weights<'_> {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        // SAFETY: (i, j..j+lanes) lies inside the tile, j..j+lanes inside the offsets.
        unsafe {
            // The logit is rounded as in the forward pass, before lse is subtracted.
            let z = s.add(v, load(s, self.offset.as_ptr().add(j), lanes));
            let p = exp(s, s.sub(z, s.splat(self.lse[i])));
            store(s, self.g.element(i, j), s.mul(p, s.splat(self.dloss[i])), lanes)
        }
    }
}

/// Computes the gradients of sum_m dloss_m (lse_m - [target's logit, in a catalogue]).
pub fn backward<T: Terms>(scores: &Scores, lse: &[f32], dloss: &[f32], to: Gradients) {
    let (m, d, count) = (scores.rows(), scores.d, scores.count());
    let (mut dh, mut dc, mut doff) = (to.dh, to.dcandidates, to.doffset);
    // Rows that no task writes get no addition. Therefore Write starts from zeros, and everything after that adds.
    for g in [&mut dh, &mut dc, &mut doff].into_iter().flatten() {
        if !g.1 {
            g.0.par_chunks_mut(super::CHUNK).for_each(|x| x.fill(0.0));
        }
    }
    if m == 0 || count == 0 || d == 0 {
        return;
    }
    let own = count.div_ceil(count.div_ceil(OWN)).next_multiple_of(gemm::panel());
    let tasks = count.div_ceil(own);
    let shares = tasks.min(SHARES);
    let chunk = (SHARE_ELEMENTS / (shares * d)).next_multiple_of(BLOCK).min(m.next_multiple_of(BLOCK));
    let (dc, doff) = (dc.map(|g| Dest::new(g.0, count, d, d)), doff.map(|g| Dest::new(g.0, 1, count, count)));
    let share_size = if dh.is_some() { chunk * d } else { 0 };
    scratch::borrow(shares * share_size, |share| {
        for i in (0..m).step_by(chunk) {
            let rows = chunk.min(m - i);
            for first in (0..tasks).step_by(shares) {
                let now = shares.min(tasks - first);
                let task = |t: usize, share: Option<&mut [f32]>| {
                    let j = (first + t) * own;
                    let n = own.min(count - j);
                    // SAFETY: candidates j..j+n belong to this task alone.
                    let (dc, doff) = unsafe { (dc.map(|c| c.at(j, 0).row(n * d)), doff.map(|c| c.at(0, j).row(n))) };
                    owned::<T>(scores, lse, dloss, (i, rows), (j, n), share, dc, doff);
                };
                match &mut dh {
                    None => (0..now).into_par_iter().with_max_len(1).for_each(|t| task(t, None)),
                    Some((dh, _)) => {
                        share[..now * share_size]
                            .par_chunks_mut(share_size)
                            .with_max_len(1)
                            .enumerate()
                            .for_each(|(t, share)| task(t, Some(&mut share[..rows * d])));
                        // Fixed pieces of dh add the shares in task order.
                        let piece = 64 * d;
                        dh[i * d..][..rows * d].par_chunks_mut(piece).enumerate().for_each(|(at, dh)| {
                            let shares = &share[at * piece..now * share_size];
                            reduce::sum_partials(Some((dh, true)), shares, share_size);
                        });
                    }
                }
            }
        }
    });
}

/// Runs one task: rows `i..i+rows` against its own candidates `j..j+n`.
fn owned<T: Terms>(
    scores: &Scores,
    lse: &[f32],
    dloss: &[f32],
    (i, rows): (usize, usize),
    (j, n): (usize, usize),
    mut dh: Option<&mut [f32]>,
    mut dc: Option<&mut [f32]>,
    mut doff: Option<&mut [f32]>,
) {
    let d = scores.d;
    // An odd number of cache lines, so that rows of g do not share cache sets.
    let width = (n.div_ceil(16) | 1) * 16;
    let sizes = [
        gemm::packed_len(d, n),
        if dh.is_some() { gemm::packed_len(n, d) } else { 0 },
        gemm::packed_len(BLOCK, d),
        BLOCK * width,
        T::room(BLOCK, d),
        T::room(BLOCK, n).max(T::room(n, BLOCK)),
    ];
    let candidates = View::dense(&scores.candidates[j * d..][..n * d], n, d);
    scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
        let [across, along, block, g, rows_of_h, factors] = sizes.map(|n| scratch::split(&mut rest, n));
        let across = gemm::pack::<T>(across, candidates.t());
        let along: Option<Packed<T>> = dh.is_some().then(|| gemm::pack(along, candidates));
        for r in (0..rows).step_by(BLOCK) {
            let (first, n_rows) = (i + r, BLOCK.min(rows - r));
            let h = View::dense(&scores.h[first * d..][..n_rows * d], n_rows, d);
            let mut weights = Weights {
                g: Dest::new(g, n_rows, n, width),
                offset: &scores.offset[j..][..n],
                lse: &lse[first..][..n_rows],
                dloss: &dloss[first..][..n_rows],
            };
            gemm::multiply(T::of(rows_of_h, h), across, &mut weights);
            for k in 0..n_rows {
                let g = &mut g[k * width..][..n];
                let target = scores.target[first + k];
                match scores.kind {
                    CandidateKind::Catalogue => {
                        if let Some(hit) = g.get_mut((target as usize).wrapping_sub(j)) {
                            *hit -= dloss[first + k];
                        }
                    }
                    CandidateKind::Negatives { ids, own } => {
                        leave_out(g, 0.0, target, &ids[j..]);
                        leave_out_own(g, 0.0, own, (first + k) * ids.len().div_ceil(32), j);
                    }
                }
            }
            if let Some(doff) = &mut doff {
                dispatch(AddStrided(doff, &g[..(n_rows - 1) * width + n], width));
            }
            let g = View::new(g, n_rows, n, width, 1);
            if let (Some(dh), Some(along)) = (&mut dh, along) {
                let c = Dest::new(&mut dh[r * d..][..n_rows * d], n_rows, d, d);
                gemm::multiply(T::of(factors, g), along, &mut Store { c, alpha: 1.0 });
            }
            if let Some(dc) = &mut dc {
                let c = Dest::new(dc, n, d, d);
                gemm::multiply(T::of(factors, g.t()), gemm::pack(block, h), &mut Accumulate { c, alpha: 1.0 });
            }
        }
    });
}

/// Adds rows that lie `.2` apart to the first slice.
struct AddStrided<'a>(&'a mut [f32], &'a [f32], usize);

impl Kernel for AddStrided<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.1.chunks(self.2) {
            self.0.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    }
}
