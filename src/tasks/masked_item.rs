/*! MIP, masked item prediction: hide some items of a sequence and predict them from both sides (Sun et al. 2019, after
BERT's masked language model). Of the hidden positions 80 % show [MASK], 10 % a random item, 10 % the item itself. A share
of the sequences hides only the last item, as the model will meet it when it recommends.

All draws come from Philox streams keyed by (seed, epoch, user): a batch is a function of those, whoever makes it.
*/

use crate::{
    base::rng::{Purpose, Stream},
    layers::HostInput,
    ops::mask_items::{DRAWS, Masking},
};

/// How sequences are corrupted.
#[derive(Clone, Copy, Debug)]
pub struct MaskSettings {
    /// Share of positions to hide: round(share * length), at least 1.
    pub mask: f32,
    /// Share of sequences of which only the last position is hidden, always behind [MASK].
    pub mask_last: f32,
    /// Longest sequence (T): of longer ones a random window is taken.
    pub length: usize,
    /// Items of the catalogue; [MASK] is the id after them.
    pub items: usize,
    pub seed: u64,
}

/// Makes training batches.
#[derive(Debug)]
pub struct MaskedItem {
    settings: MaskSettings,
    /// (M) what stood at the scored rows.
    pub target: Vec<u32>,
    positions: Vec<u32>,
}

impl MaskedItem {
    /// Longest sequence whose draws fit their stream.
    pub const MAX_LENGTH: usize = 1 << 18;

    pub fn new(settings: MaskSettings) -> Self {
        MaskedItem { settings, target: Vec::new(), positions: Vec::new() }
    }

    /// Scored rows of a sequence of `len` items, at most.
    pub fn scored(share: f32, len: usize) -> usize {
        ((share * len as f32).round() as usize).clamp(1, len.max(1))
    }

    /// Empties the batch.
    pub fn clear(&mut self, input: &mut HostInput) {
        input.clear();
        self.target.clear();
    }

    /// Adds the sequence of `user` (oldest first, at least one item), corrupted, to the batch.
    pub fn push(&mut self, input: &mut HostInput, epoch: u32, user: u64, items: &[u32]) {
        let c = &self.settings;
        let spare = items.len().saturating_sub(c.length);
        let window = || Stream::new(c.seed, Purpose::Window, epoch).at(user * DRAWS).below(spare as u64 + 1);
        let start = if spare == 0 { 0 } else { window() as usize };
        let window = &items[start..items.len() - (spare - start)];
        let first = input.push(window, c.length);
        let masking = Masking { seed: c.seed, epoch, mask_last: c.mask_last, items: c.items };
        let usual = Self::scored(c.mask, window.len());
        let HostInput { item, row, .. } = input;
        masking.hide(user, &mut item[first..], usual, &mut self.positions, |position, item| {
            row.push((first + position) as u32);
            self.target.push(item);
        });
    }

    /// Adds a history to be continued: its last T-1 items and [MASK], which is the scored row. The one routine for
    /// validation, evaluation and recommendation.
    pub fn push_query(input: &mut HostInput, history: &[u32], length: usize, items: usize) {
        let keep = history.len().min(length - 1);
        let first = input.item.len();
        input.item.extend_from_slice(&history[history.len() - keep..]);
        input.item.push(items as u32);
        input.pos.extend((length - keep - 1..length).map(|p| p as u32));
        input.cu.push(input.item.len() as u32);
        input.row.push((first + keep) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(mask: f32, mask_last: f32, length: usize) -> MaskedItem {
        MaskedItem::new(MaskSettings { mask, mask_last, length, items: 50, seed: 3 })
    }

    #[test]
    fn hides_the_asked_share_in_the_asked_proportions() {
        let (mut t, mut input) = (task(0.2, 0.0, 100), HostInput::default());
        let items: Vec<u32> = (0..100).map(|i| i % 50).collect();
        let (mut masked, mut kept, mut total) = (0, 0, 0);
        for epoch in 0..500 {
            t.clear(&mut input);
            t.push(&mut input, epoch, 7, &items);
            assert_eq!((input.row.len(), t.target.len()), (20, 20));
            for (row, target) in input.row.iter().zip(&t.target) {
                assert_eq!(*target, items[*row as usize]);
                total += 1;
                masked += (input.item[*row as usize] == 50) as usize;
                kept += (input.item[*row as usize] == *target) as usize;
            }
        }
        // Five standard deviations of the binomial shares 0.8 and 0.1 + 0.1/50.
        let (masked, kept) = (masked as f64 / total as f64, kept as f64 / total as f64);
        assert!((masked - 0.8).abs() < 5.0 * (0.16f64 / total as f64).sqrt(), "{masked}");
        assert!((kept - 0.102).abs() < 5.0 * (0.0916f64 / total as f64).sqrt(), "{kept}");
    }

    #[test]
    fn every_position_is_hidden_about_equally_often() {
        let (mut t, mut input) = (task(0.25, 0.0, 12), HostInput::default());
        let (items, epochs) = ((0..12).collect::<Vec<u32>>(), 4000);
        let mut hits = [0f64; 12];
        for epoch in 0..epochs {
            t.clear(&mut input);
            t.push(&mut input, epoch, 0, &items);
            input.row.iter().for_each(|r| hits[*r as usize] += 1.0);
        }
        let expected = epochs as f64 * 3.0 / 12.0;
        let chi2: f64 = hits.iter().map(|h| (h - expected).powi(2) / expected).sum();
        // 11 degrees of freedom (less, positions exclude each other): 31.3 is the 0.999 quantile.
        assert!(chi2 < 31.3, "chi-square {chi2}: {hits:?}");
    }

    #[test]
    fn a_batch_is_a_function_of_seed_epoch_and_user() {
        let items: Vec<u32> = (0..40).collect();
        let (mut a, mut b) = (HostInput::default(), HostInput::default());
        let mut t = task(0.3, 0.2, 16);
        t.clear(&mut a);
        t.push(&mut a, 5, 11, &items);
        let alone = (a.item.clone(), a.row.clone(), t.target.clone());
        t.clear(&mut b);
        t.push(&mut b, 5, 12, &items);
        let n = t.target.len();
        t.push(&mut b, 5, 11, &items);
        assert_eq!(alone.0, b.item[16..]);
        assert_eq!(alone.1, b.row[n..].iter().map(|r| r - 16).collect::<Vec<_>>());
        assert_eq!(alone.2, t.target[n..]);
    }

    /// A resumed run must meet the batches that it would have met: the draws of a sequence never change.
    #[test]
    fn the_batches_of_a_seed_stay_what_they_were() {
        let mut t = MaskedItem::new(MaskSettings {
            mask: 0.2,
            mask_last: 0.15,
            length: 60,
            items: 977,
            seed: 0x1234_5678_9abc,
        });
        let mut input = HostInput::default();
        t.clear(&mut input);
        for user in 0..200u64 {
            let items: Vec<u32> = (0..1 + user * 37 % 90).map(|i| ((user * 131 + i * 17) % 977) as u32).collect();
            t.push(&mut input, 3 + (user % 2) as u32, user * 7919, &items);
        }
        let all = [&input.item, &input.row, &t.target];
        let hash = all
            .iter()
            .flat_map(|v| v.iter())
            .fold(0xcbf2_9ce4_8422_2325u64, |h, x| (h ^ *x as u64).wrapping_mul(0x100_0000_01b3));
        assert_eq!((input.item.len(), t.target.len(), hash), (8073, 1379, 13_396_748_028_432_301_274));
    }

    #[test]
    fn a_query_ends_in_mask_at_the_last_position() {
        let mut input = HostInput::default();
        input.clear();
        MaskedItem::push_query(&mut input, &[1, 2, 3, 4, 5, 6], 4, 50);
        MaskedItem::push_query(&mut input, &[], 4, 50);
        assert_eq!(input.item, [4, 5, 6, 50, 50]);
        assert_eq!(input.pos, [0, 1, 2, 3, 3]);
        assert_eq!(input.row, [3, 4]);
        assert_eq!(input.cu, [0, 4, 5]);
    }
}
