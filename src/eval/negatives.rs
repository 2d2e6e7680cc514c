/*! Negatives for sampled ranking: n items that a user has never interacted with, drawn without replacement.

They are drawn uniformly or by popularity. By popularity, the chance of each next item is proportional to its training
count among those not yet drawn (successive sampling, which BERT4Rec's published numbers use). Each user has a
separate Philox stream, so the draws do not depend on the batch or the order of the users.

Almost all draws succeed by rejection sampling. It is slow for a user who knows nearly all items, so after a bounded
number of tries the rest is drawn by exponential clocks. Item i rings at time Exp(1)/weight_i, and the earliest win
(Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006). Both methods draw the rest from the same
distribution, so the switch does not change it.
*/

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::base::rng::{Purpose, Stream};

/// The distribution that negatives are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    Uniform,
    Popularity,
}

impl Sampling {
    /// Returns the words for a sentence: "drawn uniformly", "drawn by popularity".
    pub fn words(self) -> &'static str {
        match self {
            Sampling::Uniform => "uniformly",
            Sampling::Popularity => "by popularity",
        }
    }
}

/// Draws negatives from one distribution.
#[derive(Clone, Debug)]
pub struct Sampler {
    pub sampling: Sampling,
    /// Running sums of the weights (V): item i covers [cumulative[i-1], cumulative[i]).
    cumulative: Vec<u64>,
    seed: u64,
}

/// There are too few items to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    pub available: usize,
}

impl Sampler {
    /// `counts`: training count of each item (V). By popularity, items that never occur in training are never drawn.
    pub fn new(sampling: Sampling, counts: &[u32], seed: u64) -> Sampler {
        let weight = |c: &u32| match sampling {
            Sampling::Uniform => 1,
            Sampling::Popularity => u64::from(*c),
        };
        let cumulative = counts
            .iter()
            .scan(0u64, |sum, c| {
                *sum += weight(c);
                Some(*sum)
            })
            .collect();
        Sampler { sampling, cumulative, seed }
    }

    fn weight(&self, item: usize) -> u64 {
        self.cumulative[item] - if item == 0 { 0 } else { self.cumulative[item - 1] }
    }

    /// Draws `n` distinct items outside `known`, in the order drawn.
    ///
    /// # Errors
    /// Fewer than `n` such items (of non-zero weight) exist.
    pub fn draw(&self, user: u32, n: usize, known: &FxHashSet<u32>) -> Result<Vec<u32>, TooFew> {
        let items = self.cumulative.len();
        let total = self.cumulative.last().copied().unwrap_or(0);
        let mut drawn = Vec::with_capacity(n);
        let mut taken: FxHashSet<u32> = FxHashSet::default();
        // The two distributions read different ranges of the user's stream: neither ever needs 2^33 draws.
        let start = match self.sampling {
            Sampling::Uniform => 0,
            Sampling::Popularity => 1 << 33,
        };
        let mut stream = Stream::new(self.seed, Purpose::EvalNegative, user).at(start);
        for _ in 0..if total == 0 { 0 } else { 16 * n + 64 } {
            if drawn.len() == n {
                return Ok(drawn);
            }
            let at = stream.below(total);
            let item = self.cumulative.partition_point(|end| *end <= at) as u32;
            if !known.contains(&item) && taken.insert(item) {
                drawn.push(item);
            }
        }
        let open = |i: &usize| self.weight(*i) > 0 && !known.contains(&(*i as u32)) && !taken.contains(&(*i as u32));
        let mut rings: Vec<(f64, u32)> = (0..items)
            .filter(open)
            .map(|i| {
                let u = (stream.bits() as f64 + 0.5) / 4_294_967_296.0;
                (-u.ln() / self.weight(i) as f64, i as u32)
            })
            .collect();
        if drawn.len() + rings.len() < n {
            return Err(TooFew { available: drawn.len() + rings.len() });
        }
        rings.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        drawn.extend(rings.iter().take(n - drawn.len()).map(|r| r.1));
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chi_square(observed: &[f64], expected: &[f64]) -> f64 {
        observed.iter().zip(expected).map(|(o, e)| (o - e) * (o - e) / e).sum()
    }

    /// Counts how often each item is among `n` negatives, over many users.
    fn frequencies(sampler: &Sampler, n: usize, known: &[u32], users: u32) -> Vec<f64> {
        let known: FxHashSet<u32> = known.iter().copied().collect();
        let mut seen = vec![0.0; sampler.cumulative.len()];
        for user in 0..users {
            let drawn = sampler.draw(user, n, &known).unwrap();
            assert_eq!(drawn.len(), n);
            assert_eq!(drawn.iter().collect::<FxHashSet<_>>().len(), n, "no item twice");
            drawn.iter().for_each(|i| seen[*i as usize] += 1.0);
        }
        seen
    }

    #[test]
    fn uniform_negatives_are_uniform() {
        let sampler = Sampler::new(Sampling::Uniform, &[0; 50], 3);
        let users = 20_000;
        let seen = frequencies(&sampler, 5, &[0, 7, 49], users);
        assert_eq!((seen[0], seen[7], seen[49]), (0.0, 0.0, 0.0), "known items are never drawn");
        let open: Vec<f64> = (0..50).filter(|i| ![0, 7, 49].contains(i)).map(|i| seen[i]).collect();
        let chi = chi_square(&open, &vec![users as f64 * 5.0 / 47.0; 47]);
        // With 46 degrees of freedom, 99.9 % lie below 81.4 (drawing without replacement only narrows the
        // distribution).
        assert!(chi < 81.4, "chi-square {chi}");
    }

    /// Computes the inclusion probabilities of successive sampling by enumerating all ordered draws of two.
    #[test]
    fn popular_negatives_follow_the_counts() {
        let counts = [10u32, 0, 5, 1, 20, 4];
        let sampler = Sampler::new(Sampling::Popularity, &counts, 3);
        let users = 60_000;
        let seen = frequencies(&sampler, 2, &[4], users);
        assert_eq!((seen[1], seen[4]), (0.0, 0.0), "weight 0 and known items are never drawn");
        let open = [0usize, 2, 3, 5];
        let total: f64 = open.iter().map(|i| counts[*i] as f64).sum();
        let mut chance = [0.0; 6];
        for &a in &open {
            for &b in open.iter().filter(|b| **b != a) {
                let p = counts[a] as f64 / total * counts[b] as f64 / (total - counts[a] as f64);
                chance[a] += p;
                chance[b] += p;
            }
        }
        for i in open {
            let expected = users as f64 * chance[i];
            let sd = (expected * (1.0 - chance[i])).sqrt();
            assert!((seen[i] - expected).abs() < 4.0 * sd, "item {i}: {} instead of {expected}", seen[i]);
        }
    }

    /// Almost all mass is known: rejection stops and the clocks continue, with the same distribution.
    #[test]
    fn the_clocks_draw_the_rest_fairly() {
        let mut counts = vec![1_000_000u32; 40];
        counts.extend([1, 2, 3, 4]);
        let sampler = Sampler::new(Sampling::Popularity, &counts, 9);
        let known: Vec<u32> = (0..40).collect();
        let users = 5_000;
        let seen = frequencies(&sampler, 1, &known, users);
        let expected: Vec<f64> = [1.0, 2.0, 3.0, 4.0].iter().map(|w| users as f64 * w / 10.0).collect();
        let chi = chi_square(&seen[40..], &expected);
        assert!(chi < 16.27, "chi-square {chi} with 3 degrees of freedom (99.9 %)");
    }

    #[test]
    fn too_few_items_are_counted() {
        let known: FxHashSet<u32> = [0, 1].into_iter().collect();
        let all = Sampler::new(Sampling::Uniform, &[1, 1, 0, 1, 1], 1);
        assert_eq!(all.draw(0, 3, &known).map(|d| d.len()), Ok(3));
        assert_eq!(all.draw(0, 4, &known), Err(TooFew { available: 3 }));
        let popular = Sampler::new(Sampling::Popularity, &[1, 1, 0, 1, 1], 1);
        assert_eq!(popular.draw(0, 3, &known), Err(TooFew { available: 2 }));
        assert_eq!(Sampler::new(Sampling::Popularity, &[0, 0], 1).draw(0, 1, &known), Err(TooFew { available: 0 }));
    }

    #[test]
    fn a_user_gets_the_same_negatives_whoever_came_before() {
        let sampler = Sampler::new(Sampling::Uniform, &[0; 1000], 4);
        let none = FxHashSet::default();
        let first = sampler.draw(5, 20, &none).unwrap();
        let _ = sampler.draw(6, 20, &none);
        assert_eq!(sampler.draw(5, 20, &none).unwrap(), first);
        assert_ne!(sampler.draw(6, 20, &none).unwrap(), first);
    }
}
