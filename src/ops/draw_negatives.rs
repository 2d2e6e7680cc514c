/*! draw_negatives: the negatives of the sampled losses, drawn from Philox by one of the methods of
[`Sampling`].

| op | output |
|---|---|
| draw_negatives | negative (S), shared by the batch |
| draw_candidates | id (M,1+S): the target of each scored row, then the row's own S negatives, drawn with replacement |
| mark_own | own (M,ceil(S/32)): one bit per shared negative, set if it is an item of the row's sequence |

A candidate is never the row's target or, with `own`, an item of its sequence (rows cu[b] to cu[b+1] of raw).
Scored rows from scored[b] to scored[b+1] belong to sequence b. Rows from scored[B] on are padding: all their
ids are NO_ID and all their bits are 0.

*With replacement*, the expected count of an item among S negatives is S times its probability. *Unique*: the
catalogue is rotated by a random number of places and cut into S strata of nearly equal size, and each stratum
gives one item. No item occurs twice, and each occurs with probability S/V, exactly. (The rotation puts each
item at each place with probability 1/V. The n places of a stratum are drawn with probability 1/n each, and
there are S strata.)

Draws: Philox stream (seed, Negative, step). Draw number i uses only block i: words 0 and 1 select a cell or a
place, and word 2 is compared with the cell's threshold. Words 2 and 3 of block 0 are the rotation of unique
draws. A candidate has 64 blocks: 63 tries and, if all of them hit an excluded item, one draw from the rest by a
pass over the table. It is NO_ID if nothing is left. Ids depend on integers only, so they are the same on every
backend.

A try ignores the exclusions, and the last draw is proportional to the masses of the table. A candidate is
therefore item j with probability p_j / (1 - m) exactly, where m is the mass of the row's excluded items, and j
occurs S p_j / (1 - m) times among S negatives on average. free (M) f32 is ln(1 - m), the log of the probability
that one draw hits no excluded item; it is 0 if nothing is left and in padding.
*/

use std::ops::Range;

use super::{Cost, NO_ID, Op, area, case::Case, fits};
use crate::{
    base::{
        alias::AliasTable,
        rng::{Purpose, Stream, philox},
    },
    mem::{F32, Lent, Planner, Scalar, U32},
};

/// The distribution of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Uniform, with replacement.
    Uniform,
    /// From an alias table, with replacement.
    Alias,
    /// Uniform, without repetition (shared negatives only).
    Unique,
}

impl Sampling {
    /// Whether draws read an alias table.
    pub fn by_alias(self) -> bool {
        match self {
            Sampling::Alias => true,
            Sampling::Uniform | Sampling::Unique => false,
        }
    }

    /// Whether no item is drawn twice.
    pub fn unique(self) -> bool {
        match self {
            Sampling::Unique => true,
            Sampling::Uniform | Sampling::Alias => false,
        }
    }
}

/// Blocks of a candidate. All but the last are tries that may hit an excluded item.
pub const TRIES: u64 = 64;

op! {
    /// Draws the negatives that a batch shares.
    DrawNegatives = "draw_negatives" {
        write { /** (S) */ negative: U32 }
        read { /** (V,2) an [`AliasTable`]'s cells, or empty: not by alias */ alias: U32, /** (1) */ step: U32 }
        with { s: usize, v: usize, sampling: Sampling, seed: u64 }
    }
}

op! {
    /// Draws the candidates of each scored row: its target and negatives.
    DrawCandidates = "draw_candidates" {
        write {
            /** (M,1+S) */ id: U32,
            /** (M) ln of the probability to miss the excluded items, or empty: not wanted */ free: F32
        }
        read {
            /** (M) */ target: U32, /** (N) item ids */ raw: U32, /** (B+1) start of each sequence in `raw` */ cu: U32,
            /** (B+1) start of its rows in `target` */ scored: U32,
            /** (V,2) the cells of an [`AliasTable`], or empty: uniform */ alias: U32,
            /** (V,2) its masses, if it is used and `free` is wanted */ mass: U32, /** (1) */ step: U32
        }
        with {
            m: usize, s: usize, n: usize, b: usize, v: usize, sampling: Sampling,
            /** whether to exclude the items of a row's sequence too, not only its target */ own: bool,
            seed: u64, /** longest sequence */ t: usize
        }
    }
}

op! {
    /// Marks the shared negatives that are items of a scored row's own sequence.
    MarkOwn = "mark_own" {
        write { /** (M,ceil(S/32)) negative j is bit j % 32 of word j / 32 */ own: U32 }
        read {
            /** (S) */ negative: U32, /** (N) item ids */ raw: U32,
            /** (B+1) start of each sequence in `raw` */ cu: U32, /** (B+1) start of its rows in `own` */ scored: U32
        }
        with { m: usize, s: usize, n: usize, b: usize, /** longest sequence */ t: usize }
    }
}

/// The draws of a step.
pub(crate) struct Draws<'a> {
    seed: u64,
    step: u32,
    v: u32,
    /// Cells of the alias table; empty for uniform draws.
    cells: &'a [u32],
}

/// Returns a uniform integer in [0, n) from two words, as [`Stream::below`] does.
fn below(high: u32, low: u32, n: u64) -> u64 {
    let wide = (high as u64) << 32 | low as u64;
    ((wide as u128 * n as u128) >> 64) as u64
}

impl<'a> Draws<'a> {
    pub fn new(seed: u64, step: u32, v: usize, sampling: Sampling, alias: &'a [u32]) -> Self {
        let cells = if sampling.by_alias() { &alias[..2 * v] } else { &[] };
        Draws { seed, step, v: v as u32, cells }
    }

    fn words(&self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.step, Purpose::Negative as u32];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Returns draw number `block`, with replacement.
    pub fn item(&self, block: u64) -> u32 {
        let [high, low, height, _] = self.words(block);
        let cell = below(high, low, self.v as u64) as u32;
        match self.cells.get(2 * cell as usize..2 * cell as usize + 2) {
            Some(shared) if height >= shared[0] => shared[1],
            _ => cell,
        }
    }

    /// Returns draw number `k` of `s` distinct items.
    pub fn unique(&self, k: usize, s: usize) -> u32 {
        let v = self.v as u64;
        let place = |k: usize| (k as u128 * v as u128 / s as u128) as u64;
        let [high, low, ..] = self.words(k as u64);
        let [_, _, turn_high, turn_low] = self.words(0);
        let at = place(k) + below(high, low, place(k + 1) - place(k));
        ((at + below(turn_high, turn_low, v)) % v) as u32
    }

    /// Returns candidate number `number` of the batch, for which `hit` is false.
    pub fn candidate(&self, number: u64, hit: impl Fn(u32) -> bool) -> u32 {
        let first = number * TRIES;
        let tries = (first..first + TRIES - 1).map(|block| self.item(block));
        let found = tries.into_iter().find(|id| !hit(*id));
        found.unwrap_or_else(|| self.of_the_rest(first + TRIES - 1, hit))
    }

    /// Returns the items of a cell and their masses in it.
    fn cell(&self, cell: u32) -> [(u32, u64); 2] {
        match self.cells.get(2 * cell as usize..2 * cell as usize + 2) {
            Some(shared) => [(cell, shared[0] as u64), (shared[1], CELL - shared[0] as u64)],
            None => [(cell, CELL), (cell, 0)],
        }
    }

    /// Returns draw number `block` from all items for which `hit` is false.
    fn of_the_rest(&self, block: u64, hit: impl Fn(u32) -> bool) -> u32 {
        let free = || (0..self.v).flat_map(|cell| self.cell(cell)).filter(|(id, _)| !hit(*id));
        let all: u64 = free().map(|(_, mass)| mass).sum();
        let [high, low, ..] = self.words(block);
        let mut at = below(high, low, all);
        for (id, mass) in free() {
            if at < mass {
                return id;
            }
            at -= mass;
        }
        NO_ID
    }
}

/// The mass of a cell of an alias table, and of every item in uniform draws.
const CELL: u64 = 1 << 32;

/// The masses of the items in one draw.
#[derive(Clone, Copy)]
pub(crate) struct Masses<'a> {
    /// (V,2), or empty for uniform draws.
    table: &'a [u32],
    v: usize,
}

impl<'a> Masses<'a> {
    pub fn new(v: usize, sampling: Sampling, table: &'a [u32]) -> Self {
        Masses { table: if sampling.by_alias() { table } else { &[] }, v }
    }

    /// Returns the mass of an item; 0 for an id that is no item.
    pub fn of(&self, id: u32) -> u64 {
        match self.table.get(2 * id as usize..2 * id as usize + 2) {
            _ if id as usize >= self.v => 0,
            Some(words) => words[0] as u64 | (words[1] as u64) << 32,
            None => CELL,
        }
    }

    /// Returns the probability that a draw hits no item of this total mass; 1 if it is the mass of all items.
    pub fn share_left(&self, excluded: u64) -> f64 {
        let all = self.v as u64 * CELL;
        if excluded < all { (all - excluded) as f64 / all as f64 } else { 1.0 }
    }
}

impl DrawNegatives {
    pub(crate) fn draw(&self, draws: &Draws, k: usize) -> u32 {
        match self.sampling {
            Sampling::Unique => draws.unique(k, self.s),
            Sampling::Uniform | Sampling::Alias => draws.item(k as u64),
        }
    }
}

/// The rows of each sequence.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub raw: &'a [u32],
    pub cu: &'a [u32],
    pub scored: &'a [u32],
}

impl<'a> Rows<'a> {
    pub fn new(raw: &'a [u32], cu: &'a [u32], scored: &'a [u32]) -> Self {
        Rows { raw, cu, scored }
    }

    /// Returns the items of sequence `b`.
    pub fn sequence(&self, b: usize) -> &'a [u32] {
        &self.raw[self.cu[b] as usize..self.cu[b + 1] as usize]
    }

    /// Returns the scored rows of sequence `b`.
    pub fn rows(&self, b: usize) -> Range<usize> {
        self.scored[b] as usize..self.scored[b + 1] as usize
    }
}

impl DrawCandidates {
    /// Fills the candidates `id` (1+S) of scored row `row`. `own(id)` returns whether an item other than the
    /// target is excluded.
    pub(crate) fn fill(&self, draws: &Draws, row: usize, target: u32, id: &mut [u32], own: impl Fn(u32) -> bool) {
        id[0] = target;
        for (j, id) in id[1..].iter_mut().enumerate() {
            *id = draws.candidate((row * self.s + j) as u64, |id| id == target || own(id));
        }
    }
}

fn check_sampling(sampling: Sampling, v: usize, alias: usize) -> Result<(), String> {
    if v == 0 || v >= NO_ID as usize {
        return Err(format!("{v} items: there are 1 to 2^32 - 2"));
    }
    match sampling {
        Sampling::Alias => fits(&[("alias", alias, 2 * v)]),
        Sampling::Uniform | Sampling::Unique => Ok(()),
    }
}

/// Returns the count of alias table numbers that `draws` draws read, two per cell.
fn cells_read(sampling: Sampling, draws: usize, v: usize) -> usize {
    if sampling.by_alias() { 2 * draws.min(v) } else { 0 }
}

impl Op for DrawNegatives {
    fn check(&self) -> Result<(), String> {
        check_sampling(self.sampling, self.v, self.alias.len())?;
        if self.sampling.unique() && self.s > self.v {
            return Err(format!("{} different negatives of {} items", self.s, self.v));
        }
        fits(&[("negative", self.negative.len(), self.s), ("step", self.step.len(), 1)])
    }

    fn cost(&self) -> Cost {
        Cost::default()
            .moves(self.negative, self.s)
            .moves(self.alias, cells_read(self.sampling, self.s, self.v))
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let draws = Draws::new(self.seed, m.ids(self.step)[0], self.v, self.sampling, m.ids(self.alias));
        let negative = m.ids_mut(self.negative.first(self.s));
        negative.iter_mut().enumerate().for_each(|(k, id)| *id = self.draw(&draws, k));
    }
}

impl Op for DrawCandidates {
    fn check(&self) -> Result<(), String> {
        check_sampling(self.sampling, self.v, self.alias.len())?;
        if self.sampling.unique() {
            return Err("candidates of a row are drawn with replacement".into());
        }
        let masses = if self.sampling.by_alias() && !self.free.is_empty() { area([2, self.v]) } else { 0 };
        fits(&[
            ("free", self.free.len(), if self.free.is_empty() { 0 } else { self.m }),
            ("mass", self.mass.len(), masses),
            ("id", self.id.len(), area([self.m, self.s.saturating_add(1)])),
            ("target", self.target.len(), self.m),
            ("raw", self.raw.len(), self.n),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
            ("scored", self.scored.len(), self.b.saturating_add(1)),
            ("step", self.step.len(), 1),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, s, b, own) = (self.m, self.s, self.b, self.own as usize);
        let free = !self.free.is_empty() as usize;
        // One try per negative, and the masses of targets and, if excluded, of the sequence's items.
        Cost::work(0.0, (free * m) as f64)
            .moves(self.free, m)
            .moves(self.mass, 2 * (free * (m + own * self.n)).min(self.v))
            .moves(self.id, m * (1 + s))
            .moves(self.target, m)
            .moves(self.raw, own * self.n)
            .moves(self.cu, own * (b + 1))
            .moves(self.scored, b + 1)
            .moves(self.alias, cells_read(self.sampling, m * s, self.v))
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let draws = Draws::new(self.seed, m.ids(self.step)[0], self.v, self.sampling, m.ids(self.alias));
        let (target, rows) = (m.ids(self.target), Rows::new(m.ids(self.raw), m.ids(self.cu), m.ids(self.scored)));
        let masses = Masses::new(self.v, self.sampling, m.ids(self.mass));
        let (id, free) = (m.ids_mut(self.id.first(self.m * (1 + self.s))), m.get_mut(self.free));
        id.fill(NO_ID);
        free.fill(S::zero());
        for b in 0..self.b {
            let sequence = if self.own { rows.sequence(b) } else { &[] };
            let different = (0..sequence.len()).filter(|i| !sequence[..*i].contains(&sequence[*i]));
            let mass: u64 = different.map(|i| masses.of(sequence[i])).sum();
            for row in rows.rows(b) {
                if let Some(free) = free.get_mut(row) {
                    let alone = !sequence.contains(&target[row]);
                    let excluded = mass + if alone { masses.of(target[row]) } else { 0 };
                    *free = S::of(masses.share_left(excluded)).ln();
                }
                let id = &mut id[row * (1 + self.s)..][..1 + self.s];
                self.fill(&draws, row, target[row], id, |id| sequence.contains(&id));
            }
        }
    }
}

impl Op for MarkOwn {
    fn check(&self) -> Result<(), String> {
        fits(&[
            ("own", self.own.len(), area([self.m, self.s.div_ceil(32)])),
            ("negative", self.negative.len(), self.s),
            ("raw", self.raw.len(), self.n),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
            ("scored", self.scored.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        Cost::default()
            .moves(self.own, self.m * self.s.div_ceil(32))
            .moves(self.negative, self.s)
            .moves(self.raw, self.n)
            .moves(self.cu, self.b + 1)
            .moves(self.scored, self.b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (negative, words) = (&m.ids(self.negative)[..self.s], self.s.div_ceil(32));
        let rows = Rows::new(m.ids(self.raw), m.ids(self.cu), m.ids(self.scored));
        let own = m.ids_mut(self.own.first(self.m * words));
        own.fill(0);
        for b in 0..self.b {
            for row in rows.rows(b) {
                for (j, id) in negative.iter().enumerate() {
                    own[row * words + j / 32] |= (rows.sequence(b).contains(id) as u32) << (j % 32);
                }
            }
        }
    }
}

/// Weights from 1 to some thousands, few of them large, like the counts of items.
fn skewed(v: usize) -> Vec<f64> {
    (0..v).map(|i| 1.0 + (5000 / (1 + i * 7919 % v)) as f64).collect()
}

/// Returns the alias table of [`skewed`] weights, if one is used.
fn cells(sampling: Sampling, v: usize) -> Vec<u32> {
    if sampling.by_alias() { AliasTable::new(&skewed(v)).cells().to_vec() } else { Vec::new() }
}

/// Returns the masses of such a table.
fn masses(sampling: Sampling, v: usize) -> Vec<u32> {
    if sampling.by_alias() { AliasTable::new(&skewed(v)).masses() } else { Vec::new() }
}

pub fn cases() -> Vec<Case> {
    use Sampling::*;
    // (S, V, sampling, seed, step)
    [
        (0, 5, Uniform, 1, 0),
        (1, 1, Alias, 2, 1),
        (1, 1, Unique, 2, 1),
        (7, 3, Uniform, 3, 2),
        (7, 7, Unique, u64::MAX, u32::MAX),
        (33, 40, Unique, 1 << 40, 9),
        (300, 3_706, Alias, 42, 17),
        (1023, 26_744, Uniform, 5, 400),
        (1025, 2_050, Alias, 6, 8),
        (513, 4_294_967_294, Unique, 7, 3),
        (600, 4_294_967_294, Uniform, 8, 4),
    ]
    .into_iter()
    .map(|(s, v, sampling, seed, step)| {
        let mut p = Planner::new();
        let table = cells(sampling, v);
        let op =
            DrawNegatives { negative: p.index(s), alias: p.index(table.len()), step: p.index(1), s, v, sampling, seed };
        let name = format!("s{s} v{v} {sampling:?}");
        Case::forward(name, p, op).ids(op.alias, table).ids(op.step, vec![step])
    })
    .collect()
}

/// Packed sequences: their starts, the starts of their scored rows, and their items.
struct Packed {
    cu: Vec<u32>,
    scored: Vec<u32>,
    raw: Vec<u32>,
}

/// Packs sequences of the given (length, scored rows), with items below `v`.
fn pack(lengths: &[(usize, usize)], v: usize, seed: u64) -> Packed {
    let (mut cu, mut scored) = (vec![0u32], vec![0u32]);
    for (length, rows) in lengths {
        cu.push(cu[cu.len() - 1] + *length as u32);
        scored.push(scored[scored.len() - 1] + *rows as u32);
    }
    let mut draw = Stream::new(seed, Purpose::Test, v as u32);
    let raw = (0..cu[lengths.len()]).map(|_| draw.below(v as u64) as u32).collect();
    Packed { cu, scored, raw }
}

fn longest(lengths: &[(usize, usize)]) -> usize {
    lengths.iter().map(|l| l.0).max().unwrap_or(1)
}

pub fn candidate_cases() -> Vec<Case> {
    use Sampling::*;
    // (length and scored rows of each sequence, rows of padding, S, V, sampling, own items excluded, seed)
    type Shape = (&'static [(usize, usize)], usize, usize, usize, Sampling, bool, u64);
    const SHAPES: [Shape; 9] = [
        (&[], 3, 2, 5, Uniform, true, 1),
        (&[(1, 1)], 0, 1, 1, Uniform, false, 2),
        (&[(4, 2), (0, 0), (1, 1)], 5, 7, 2, Uniform, false, 3),
        // Few items: the tries run out, and some sequences contain every item.
        (&[(1, 1), (2, 1), (3, 3), (9, 4), (31, 9)], 1, 9, 3, Alias, true, u64::MAX),
        (&[(7, 3), (40, 8), (33, 1)], 2, 33, 37, Uniform, true, 5),
        (&[(200, 40), (1, 1), (57, 11), (133, 26)], 50, 64, 3_706, Alias, true, 42),
        (&[(64, 64), (65, 13)], 0, 0, 100, Uniform, true, 7),
        (&[(20, 4), (50, 10), (3, 1)], 1, 100, 26_744, Alias, false, 8),
        (&[(1500, 3)], 0, 5, 4_294_967_294, Uniform, true, 9),
    ];
    let case = |(lengths, padding, s, v, sampling, own, seed): Shape| {
        let mut p = Planner::new();
        let Packed { cu, scored, raw } = pack(lengths, v, seed);
        let b = lengths.len();
        let (n, m) = (raw.len(), scored[b] as usize + padding);
        // The targets are the first items of the sequence, in order.
        let mut target = vec![NO_ID; m];
        for i in 0..b {
            for row in scored[i]..scored[i + 1] {
                target[row as usize] = raw[(cu[i] + row - scored[i]) as usize];
            }
        }
        let table = cells(sampling, v);
        // Without `own`, every other case requests only ids.
        let wanted = own || s % 2 == 0;
        let masses = if wanted { masses(sampling, v) } else { Vec::new() };
        let op = DrawCandidates {
            free: p.stat(if wanted { m } else { 0 }),
            mass: p.index(masses.len()),
            id: p.index(m * (1 + s)),
            target: p.index(m),
            raw: p.index(n),
            cu: p.index(b + 1),
            scored: p.index(b + 1),
            alias: p.index(table.len()),
            step: p.index(1),
            m,
            s,
            n,
            b,
            v,
            sampling,
            own,
            seed,
            t: longest(lengths),
        };
        Case::forward(format!("b{b} m{m} s{s} v{v} {sampling:?} own {own}"), p, op)
            .ids(op.target, target)
            .ids(op.raw, raw)
            .ids(op.cu, cu)
            .ids(op.scored, scored)
            .ids(op.alias, table)
            .ids(op.mass, masses)
            .ids(op.step, vec![31])
    };
    SHAPES.into_iter().map(case).collect()
}

pub fn own_cases() -> Vec<Case> {
    // (length and scored rows of each sequence, rows of padding, S, V)
    type Shape = (&'static [(usize, usize)], usize, usize, usize);
    const SHAPES: [Shape; 6] = [
        (&[], 3, 40, 5),
        (&[(1, 1)], 0, 1, 1),
        (&[(4, 2), (0, 0), (1, 1)], 5, 31, 9),
        (&[(7, 3), (40, 8), (33, 1)], 2, 33, 60),
        (&[(64, 64), (65, 13)], 1, 0, 100),
        (&[(200, 40), (1, 1), (57, 11), (133, 26)], 50, 1100, 900),
    ];
    let case = |(lengths, padding, s, v): Shape| {
        let mut p = Planner::new();
        let Packed { cu, scored, raw } = pack(lengths, v, 77);
        let b = lengths.len();
        let (n, m) = (raw.len(), scored[b] as usize + padding);
        let mut draw = Stream::new(78, Purpose::Test, v as u32);
        // In-batch negatives include padding.
        let negative = (0..s).map(|j| if j % 17 == 16 { NO_ID } else { draw.below(v as u64) as u32 }).collect();
        let op = MarkOwn {
            own: p.index(m * s.div_ceil(32)),
            negative: p.index(s),
            raw: p.index(n),
            cu: p.index(b + 1),
            scored: p.index(b + 1),
            m,
            s,
            n,
            b,
            t: longest(lengths),
        };
        Case::forward(format!("b{b} m{m} s{s} v{v}"), p, op)
            .ids(op.negative, negative)
            .ids(op.raw, raw)
            .ids(op.cu, cu)
            .ids(op.scored, scored)
    };
    SHAPES.into_iter().map(case).collect()
}
