/*! Scores of many users against all items, tile by tile: score = <vector, table row> + bias.

Never a whole score matrix: a batch of users meets [`ITEM_TILE`] items at a time, and a visitor takes from the tile
what it needs (how many score at least as high, or the best k).

**One arithmetic.** A pair's score is the sum over d ascending of vector[d] * table[d], each product rounded, then plus
the bias; a lane of the tile kernel and the lone pair of [`score_items`] do the same operations in the same order, so
they agree to the bit. Without that, an item could tie with itself in one place and beat itself in another, and ties,
which count against the model, would hang on the tile an item falls in. No fused multiply-add, for the same reason: not
every machine has it, and a rank must not depend on the machine.
*/

use multiversion::multiversion;
use rayon::prelude::*;

/// Items scored at a time; also the item extent of the scratch.
pub const ITEM_TILE: usize = 4096;
/// Items in one packed panel: one AVX-512 register, two AVX2 registers, four SSE or NEON registers.
const LANES: usize = 16;
/// Users that share one reading of a panel.
const USERS: usize = 4;

/// What the output layer of a model is made of.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Item vectors (V, D).
    pub rows: &'a [f32],
    /// Item biases (V).
    pub bias: &'a [f32],
    pub width: usize,
}

impl Table<'_> {
    /// Catalogue size V.
    pub fn items(&self) -> usize {
        self.bias.len()
    }
}

/// Working memory of [`visit_tiles`]: at most [`ITEM_TILE`] * D floats, kept between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    /// (panels, D, LANES): each panel holds LANES items, transposed.
    packed: Vec<f32>,
}

/// A pair whose score is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Index into the batch.
    pub row: usize,
    pub item: usize,
}

/// Calls `visit(state, first_item, scores)` for every user of the batch and every tile of items, tiles ascending;
/// users go in parallel, each with its own state.
///
/// `vectors` (B, D), `states` (B). A visitor may overwrite the scores it is given.
///
/// # Errors
/// A score that is NaN or infinite: it has no rank.
pub fn visit_tiles<S: Send>(
    table: Table<'_>,
    vectors: &[f32],
    states: &mut [S],
    scratch: &mut Scratch,
    visit: impl Fn(&mut S, usize, &mut [f32]) + Sync,
) -> Result<(), NotFinite> {
    let d = table.width;
    assert_eq!(vectors.len(), states.len() * d, "vectors (B, D)");
    assert_eq!(table.rows.len(), table.items() * d, "table (V, D)");
    for first in (0..table.items()).step_by(ITEM_TILE) {
        let items = ITEM_TILE.min(table.items() - first);
        scratch.packed.resize(items.div_ceil(LANES) * d * LANES, 0.0);
        let rows = &table.rows[first * d..(first + items) * d];
        scratch.packed.par_chunks_mut((d * LANES).max(1)).zip(rows.par_chunks((d * LANES).max(1))).for_each(
            |(panel, rows)| {
                for (lane, row) in rows.chunks_exact(d).enumerate() {
                    for (k, x) in row.iter().enumerate() {
                        panel[k * LANES + lane] = *x;
                    }
                }
            },
        );
        let (packed, bias) = (&scratch.packed, &table.bias[first..first + items]);
        states.par_chunks_mut(USERS).zip(vectors.par_chunks(USERS * d)).enumerate().try_for_each_init(
            || vec![0.0f32; USERS * ITEM_TILE.min(table.items()).next_multiple_of(LANES)],
            |scores, (block, (states, vectors))| {
                // A last block of fewer users scores its first user again in the places that are free.
                let user = |u: usize| if u < states.len() { &vectors[u * d..][..d] } else { &vectors[..d] };
                let stride = scores.len() / USERS;
                score_tile([user(0), user(1), user(2), user(3)], packed, bias, scores, stride);
                for (u, state) in states.iter_mut().enumerate() {
                    let scores = &mut scores[u * stride..][..items];
                    if let Some(at) = first_not_finite(scores) {
                        return Err(NotFinite { row: block * USERS + u, item: first + at });
                    }
                    visit(state, first, scores);
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// scores (USERS, stride) = users (USERS, D) x packed (panels, D, LANES) + bias (items); the columns past the items are
/// left over from the padding of the last panel.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn score_tile(users: [&[f32]; USERS], packed: &[f32], bias: &[f32], scores: &mut [f32], stride: usize) {
    let d = users[0].len();
    let users = [&users[0][..d], &users[1][..d], &users[2][..d], &users[3][..d]];
    for (p, biases) in bias.chunks(LANES).enumerate() {
        let panel = packed[p * d * LANES..][..d * LANES].as_chunks::<LANES>().0;
        // Padded, so that every index into the sums is a constant: that keeps them in registers.
        let mut bias = [0.0f32; LANES];
        bias[..biases.len()].copy_from_slice(biases);
        let mut sum = [[0.0f32; LANES]; USERS];
        for (k, column) in panel.iter().enumerate().take(d) {
            for u in 0..USERS {
                let x = users[u][k];
                for lane in 0..LANES {
                    sum[u][lane] += x * column[lane];
                }
            }
        }
        for u in 0..USERS {
            let out = &mut scores[u * stride + p * LANES..][..LANES];
            for lane in 0..LANES {
                out[lane] = sum[u][lane] + bias[lane];
            }
        }
    }
}

/// The scores of one user for a list of items, to the same bits as [`visit_tiles`] gives them.
pub fn score_items(table: Table<'_>, vector: &[f32], items: &[u32], scores: &mut Vec<f32>) {
    /// Independent sums in flight: the order within a sum is fixed, so speed comes from several at once.
    const AT_ONCE: usize = 8;
    let d = table.width;
    scores.clear();
    for items in items.chunks(AT_ONCE) {
        let row = |i: usize| &table.rows[items[i.min(items.len() - 1)] as usize * d..][..d];
        let rows: [&[f32]; AT_ONCE] = std::array::from_fn(row);
        let mut sum = [0.0f32; AT_ONCE];
        for (k, x) in vector.iter().enumerate() {
            for lane in 0..AT_ONCE {
                sum[lane] += x * rows[lane][k];
            }
        }
        scores.extend(items.iter().zip(sum).map(|(i, s)| s + table.bias[*i as usize]));
    }
}

/// How many scores are at least `threshold`.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2", "x86_64+avx"))]
pub fn count_at_least(scores: &[f32], threshold: f32) -> usize {
    // 32-bit counters stay in vector registers; a tile is far below their range.
    scores.chunks(1 << 20).map(|part| part.iter().map(|s| u32::from(*s >= threshold)).sum::<u32>() as usize).sum()
}

/// Position of the first score that is NaN or infinite.
fn first_not_finite(scores: &[f32]) -> Option<usize> {
    // x * 0 is 0 for every finite x and NaN otherwise: one pass without branches in the usual case.
    let blocks = scores.as_chunks::<LANES>();
    let mut any = [0.0f32; LANES];
    for block in blocks.0 {
        for lane in 0..LANES {
            any[lane] += block[lane] * 0.0;
        }
    }
    let sound = any.iter().all(|x| *x == 0.0) && blocks.1.iter().all(|x| x.is_finite());
    if sound { None } else { scores.iter().position(|x| !x.is_finite()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn random(n: usize, stream: u32) -> Vec<f32> {
        let mut s = Stream::new(5, Purpose::Test, stream);
        (0..n).map(|_| s.normal()).collect()
    }

    /// Sizes around every edge: one item, less than a panel, one past a tile; batches not a multiple of four; D of 1,
    /// 3 and 7 mod 8.
    #[test]
    fn tiles_equal_lone_pairs_to_the_bit_and_f64_closely() {
        for (b, v, d) in [(1, 1, 1), (3, 15, 7), (4, 16, 64), (5, 17, 11), (6, ITEM_TILE + 1, 3), (9, 5000, 9)] {
            let (rows, bias, vectors) = (random(v * d, 1), random(v, 2), random(b * d, 3));
            let table = Table { rows: &rows, bias: &bias, width: d };
            let mut whole: Vec<Vec<f32>> = vec![Vec::new(); b];
            visit_tiles(table, &vectors, &mut whole, &mut Scratch::default(), |mine, first, scores| {
                assert_eq!(mine.len(), first, "tiles come in order");
                mine.extend_from_slice(scores);
            })
            .unwrap();
            for (u, whole) in whole.iter().enumerate() {
                let vector = &vectors[u * d..][..d];
                let all: Vec<u32> = (0..v as u32).collect();
                let mut lone = Vec::new();
                score_items(table, vector, &all, &mut lone);
                assert!(whole.iter().zip(&lone).all(|(a, b)| a.to_bits() == b.to_bits()), "B {b} V {v} D {d}");
                assert_eq!(whole.len(), v);
                for i in 0..v {
                    let exact = (0..d).map(|k| vector[k] as f64 * rows[i * d + k] as f64).sum::<f64>() + bias[i] as f64;
                    assert!((exact - whole[i] as f64).abs() < 1e-5 * (1.0 + d as f64), "{exact} {}", whole[i]);
                }
            }
        }
    }

    #[test]
    fn counts_include_ties() {
        let scores = [1.0, 2.0, 2.0, 3.0, f32::NEG_INFINITY];
        assert_eq!(count_at_least(&scores, 2.0), 3);
        assert_eq!(count_at_least(&scores, 3.5), 0);
    }

    #[test]
    fn a_score_that_is_no_number_is_named() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut rows, bias) = (random(40 * 2, 1), vec![0.0; 40]);
            rows[37 * 2] = poison;
            let table = Table { rows: &rows, bias: &bias, width: 2 };
            let done = visit_tiles(table, &random(2, 3), &mut [()], &mut Scratch::default(), |_, _, _| ());
            assert_eq!(done, Err(NotFinite { row: 0, item: 37 }));
        }
    }
}
