/*! Walker's alias table (Walker 1977, built as in Vose 1991): draws from any distribution over V items in constant
time.

The unit interval is cut into V cells of equal mass. A cell belongs to its own item below a threshold and to one other
item above it, so a draw is a uniform cell and one comparison. Thresholds are 32-bit integers. A draw is therefore
integer arithmetic, and every backend draws the same item from the same bits.

Draws follow the distribution of the table. It differs from the weights by the rounding of thresholds, at most 2^-32 of
a cell each. [`AliasTable::probabilities`] returns this distribution exactly. Corrections for sampling use it instead of
the weights.
*/

/// The range of a threshold: below it lies the cell's own item, from it on the other one.
const CELL: u64 = 1 << 32;

/// A distribution over items 0..V in a form for drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AliasTable {
    cells: Vec<u32>,
}

impl AliasTable {
    /// Builds the distribution proportional to `weights`: at least one, all positive and finite.
    /// Every item can be drawn, however small its weight.
    pub fn new(weights: &[f64]) -> Self {
        let v = weights.len();
        let total: f64 = weights.iter().sum();
        assert!(v > 0 && (v as u64) < u32::MAX as u64, "an alias table of {v} items");
        assert!(total.is_finite() && weights.iter().all(|w| *w > 0.0), "weights are positive and finite");
        // Mass of each item in cells. Items below one cell are filled up by items above.
        let mut mass: Vec<f64> = weights.iter().map(|w| w * (v as f64 / total)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..v as u32).partition(|i| mass[*i as usize] < 1.0);
        // Every item has its own whole cell until its cell is shared.
        let mut cells: Vec<u32> = (0..v as u32).flat_map(|i| [u32::MAX, i]).collect();
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            let (p, r) = (poor as usize, rich as usize);
            cells[2 * p] = (mass[p] * CELL as f64).round().clamp(1.0, u32::MAX as f64) as u32;
            cells[2 * p + 1] = rich;
            mass[r] -= 1.0 - mass[p];
            if mass[r] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        // The items left in either list have the mass of one cell, up to rounding.
        AliasTable { cells }
    }

    /// Returns (V,2): the threshold of each cell, and the item above it (the cell's own item if the cell is not
    /// shared).
    pub fn cells(&self) -> &[u32] {
        &self.cells
    }

    /// Returns (V,2): the mass of each item in units of 2^-32 of a cell, low word first. The total is V * 2^32.
    pub fn masses(&self) -> Vec<u32> {
        self.mass().into_iter().flat_map(|m| [m as u32, (m >> 32) as u32]).collect()
    }

    /// Returns (V): the probability of each item, exact to the last bits of f64.
    pub fn probabilities(&self) -> Vec<f64> {
        let mass = self.mass();
        mass.iter().map(|m| *m as f64 / (CELL as f64 * mass.len() as f64)).collect()
    }

    fn mass(&self) -> Vec<u64> {
        let mut mass = vec![0u64; self.cells.len() / 2];
        for (i, cell) in self.cells.chunks_exact(2).enumerate() {
            mass[i] += cell[0] as u64;
            mass[cell[1] as usize] += CELL - cell[0] as u64;
        }
        mass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    #[test]
    fn the_table_holds_the_distribution() {
        let mut draw = Stream::new(5, Purpose::Test, 1);
        for (v, kind) in [(1, 0), (2, 0), (2, 1), (7, 0), (100, 1), (5000, 0), (5000, 1), (5000, 2)] {
            let weights: Vec<f64> = (0..v)
                .map(|i| match kind {
                    0 => 1.0 + draw.below(1000) as f64,
                    // One item outweighs all others together.
                    1 => {
                        if i == v / 2 {
                            1e9
                        } else {
                            1.0
                        }
                    }
                    _ => 3.0,
                })
                .collect();
            let total: f64 = weights.iter().sum();
            let p = AliasTable::new(&weights).probabilities();
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12, "v {v}");
            for (p, w) in p.iter().zip(&weights) {
                // A cell's threshold rounds by half of 2^-32; a large item fills up to V cells.
                assert!((p - w / total).abs() <= 2f64.powi(-33) * (1.0 + 1e-3), "v {v} kind {kind}: {p} for {w}");
            }
        }
    }

    #[test]
    fn no_item_is_too_rare_to_be_drawn() {
        let mut weights = vec![1e-12; 1000];
        weights[3] = 1e12;
        assert!(AliasTable::new(&weights).probabilities().iter().all(|p| *p > 0.0));
    }
}
