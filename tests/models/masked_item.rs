//! MIP's batches: which items are masked, in which shares, identical on host and device, and constant for a seed.

use mipgpu::{
    backend::Cpu,
    layers::{HostInput, Input},
    mem::{Planner, Span, U32},
    ops::Memory,
    tasks::{MaskedItem, Sequence, Task, TaskSettings},
};

/// A task over 50 items with its memory.
struct Rig {
    task: MaskedItem,
    cpu: Cpu,
    input: Input,
    target: Span<U32>,
    /// The output of the op: items, scored rows, targets.
    made: (Vec<u32>, Vec<u32>, Vec<u32>),
}

fn rig(settings: TaskSettings, sequences: usize) -> Rig {
    over(50, settings, sequences)
}

fn over(items: usize, settings: TaskSettings, sequences: usize) -> Rig {
    let mut p = Planner::new();
    let (input, task) = crate::common::task::<MaskedItem>(&mut p, &settings, items, sequences);
    let target = task.loss().target;
    Rig { task, cpu: Cpu::new(&p), input, target, made: Default::default() }
}

fn settings(mask: f32, mask_last: f32, length: usize) -> TaskSettings {
    crate::common::task_settings(mask, mask_last, length, 3)
}

impl Rig {
    /// Makes the batch of these users by ops, and asserts that the host makes the same.
    fn make(&mut self, epoch: u32, sequences: &[(u64, &[u32])]) {
        let mut batch = self.task.batches().empty();
        self.task.batches().clear(&mut batch, epoch);
        sequences.iter().for_each(|(user, items)| self.task.push(&mut batch, *user, Sequence::Items(items)));
        let s = self.task.batches().upload(&mut self.cpu, &mut batch, 1);
        self.task.make(&mut self.cpu, &s);
        let ids = |cpu: &mut Cpu, span: Span<U32>, n| {
            let mut ids = vec![0; n];
            cpu.read_ids(span, &mut ids);
            ids
        };
        let cpu = &mut self.cpu;
        self.made = (ids(cpu, self.input.item, s.n), ids(cpu, self.input.row, s.m), ids(cpu, self.target, s.m));
        let (mut host, mut target) = (HostInput::default(), Vec::new());
        self.task.make_on_host(&batch, &mut host, &mut target);
        assert_eq!((&host.item, &host.row, &target), (&self.made.0, &self.made.1, &self.made.2));
        assert_eq!(host.pos, ids(&mut self.cpu, self.input.pos, s.n));
    }
}

#[test]
fn hides_the_asked_share_in_the_asked_proportions() {
    let mut rig = rig(settings(0.2, 0.0, 100), 1);
    let items: Vec<u32> = (0..100).map(|i| i % 50).collect();
    let (mut masked, mut kept, mut total) = (0, 0, 0);
    for epoch in 0..500 {
        rig.make(epoch, &[(7, &items)]);
        let (item, row, target) = &rig.made;
        assert_eq!((row.len(), target.len()), (20, 20));
        for (row, target) in row.iter().zip(target) {
            assert_eq!(*target, items[*row as usize]);
            total += 1;
            masked += (item[*row as usize] == 50) as usize;
            kept += (item[*row as usize] == *target) as usize;
        }
    }
    // Five standard deviations of the binomial shares 0.8 and 0.1 + 0.1/50.
    let (masked, kept) = (masked as f64 / total as f64, kept as f64 / total as f64);
    assert!((masked - 0.8).abs() < 5.0 * (0.16f64 / total as f64).sqrt(), "{masked}");
    assert!((kept - 0.102).abs() < 5.0 * (0.0916f64 / total as f64).sqrt(), "{kept}");
}

#[test]
fn every_position_is_hidden_about_equally_often() {
    let mut rig = rig(settings(0.25, 0.0, 12), 1);
    let (items, epochs) = ((0..12).collect::<Vec<u32>>(), 4000);
    let mut hits = [0f64; 12];
    for epoch in 0..epochs {
        rig.make(epoch, &[(0, &items)]);
        rig.made.1.iter().for_each(|r| hits[*r as usize] += 1.0);
    }
    let expected = epochs as f64 * 3.0 / 12.0;
    let chi2: f64 = hits.iter().map(|h| (h - expected).powi(2) / expected).sum();
    // 11 degrees of freedom (less, positions exclude each other): 31.3 is the 0.999 quantile.
    assert!(chi2 < 31.3, "chi-square {chi2}: {hits:?}");
}

#[test]
fn a_batch_is_a_function_of_seed_epoch_and_user() {
    let items: Vec<u32> = (0..40).collect();
    let mut rig = rig(settings(0.3, 0.2, 16), 2);
    rig.make(5, &[(11, &items)]);
    let alone = rig.made.clone();
    rig.make(5, &[(12, &items), (11, &items)]);
    let n = rig.made.1.len() - alone.1.len();
    assert_eq!(alone.0, rig.made.0[16..]);
    assert_eq!(alone.1, rig.made.1[n..].iter().map(|r| r - 16).collect::<Vec<_>>());
    assert_eq!(alone.2, rig.made.2[n..]);
}

/// A resumed run must get the batches that it would have had: the draws of a sequence never change.
#[test]
fn the_batches_of_a_seed_stay_what_they_were() {
    let mut rig = over(977, crate::common::task_settings(0.2, 0.15, 60, 0x1234_5678_9abc), 1);
    // 200 batches of one user, concatenated as in one batch.
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for user in 0..200u64 {
        let items: Vec<u32> = (0..1 + user * 37 % 90).map(|i| ((user * 131 + i * 17) % 977) as u32).collect();
        rig.make(3 + (user % 2) as u32, &[(user * 7919, &items)]);
        let (item, row, target) = &rig.made;
        let before = all[0].len() as u32;
        all[0].extend(item);
        all[1].extend(row.iter().map(|r| r + before));
        all[2].extend(target);
    }
    let hash =
        all.iter().flatten().fold(0xcbf2_9ce4_8422_2325u64, |h, x| (h ^ *x as u64).wrapping_mul(0x100_0000_01b3));
    assert_eq!((all[0].len(), all[2].len(), hash), (8073, 1379, 13_396_748_028_432_301_274));
}

#[test]
fn a_query_ends_in_mask_at_the_last_position() {
    let mut input = HostInput::default();
    input.clear();
    let task = rig(settings(0.2, 0.0, 4), 2).task;
    task.push_query(&mut input, &[1, 2, 3, 4, 5, 6]);
    task.push_query(&mut input, &[]);
    assert_eq!(input.item, [4, 5, 6, 50, 50]);
    assert_eq!(input.pos, [0, 1, 2, 3, 3]);
    assert_eq!(input.row, [3, 4]);
    assert_eq!(input.cu, [0, 4, 5]);
}
