//! Shared by tests of batches: a task without a model.

use mipgpu::{
    layers::{Capacity, Input},
    mem::{Init, Planner},
    models::Representations,
    tasks::{TaskDefinition, TaskSettings},
    train::Settings,
};

/// Returns settings of a task, with defaults for the rest.
pub fn task_settings(mask: f32, mask_last: f32, length: usize, seed: u64) -> TaskSettings {
    Settings { mask, mask_last, length, seed, ..Settings::default() }.task()
}

/// Plans `T` with a table of `items` numbers, for batches of `sequences`.
pub fn task<T: TaskDefinition>(p: &mut Planner, c: &TaskSettings, items: usize, sequences: usize) -> (Input, T) {
    let capacity = Capacity::new(sequences, c.length, sequences * T::most_scored(c));
    let input = Input::plan(p, capacity);
    let input = if T::RATED { input.with_ratings(p) } else { input };
    let r = Representations {
        item: p.param("item.weight", &[items + T::SPECIAL, 1], Init::Constant(0.0)),
        item_bias: p.param("item.bias", &[items], Init::Constant(0.0)),
        rows: None,
        scored: p.var(capacity.m),
        d: 1,
        v: items,
    };
    let value = p.stat(1);
    let task = T::plan(p, c, r, &input, value).unwrap();
    (input, task)
}
