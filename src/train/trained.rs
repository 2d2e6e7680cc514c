//! A trained model, loaded from its run folder with its vocabularies.

use std::path::Path;

use super::{
    checkpoint,
    engine::Engine,
    folder::{RunConfig, RunFolder},
    origin::Which,
    side_tables::SideTables,
    transfer::{self, Keys},
};
use crate::{
    backend::{self, Device},
    base::Result,
    data::Vocab,
    eval::Encoder,
    layers::DataSummary,
};

/// A trained model with its vocabularies and tables.
pub struct Trained {
    pub config: RunConfig,
    pub items: Vocab,
    /// Users and side fields, if they have vectors.
    pub side_tables: SideTables,
    pub encoder: Box<dyn Encoder>,
    /// Number of parameters of the model.
    pub parameters: usize,
}

impl Trained {
    /// Loads a run.
    ///
    /// # Errors
    /// There is no run, or the checkpoint does not fit the run's settings or vocabulary.
    pub fn open(run: &Path, which: Which, device: Device) -> Result<Trained> {
        let folder = RunFolder::new(run);
        let config = folder.config()?;
        let items = Vocab::open(&folder.items())?;
        let side_tables = SideTables::open(&config.settings, &folder, items.len())?;
        // Only sampled losses use the counts, and no loss is computed here.
        let summary = DataSummary { ratings: config.ratings.clone(), ..side_tables.summary(vec![1; items.len()])? };
        let precision = config.settings.precision.on(device);
        let mut engine = Engine::blank(&config.settings, summary, |plan| backend::open(device, precision, plan))?;
        let path = folder.checkpoint(which)?;
        // Rows of a table may be from earlier steps than the checkpoint; bring them up to date.
        let behind = which == Which::Last && engine.by_rows();
        let Engine { plan, backend, .. } = &mut engine;
        let state = checkpoint::load(&path, backend, plan, behind, &side_tables.fingerprint(&items))?;
        if let Some(origin) = config.from.as_ref().filter(|_| engine.params().iter().any(|p| p.frozen)) {
            let keys = Keys { items: &items, side_tables: &side_tables, content: None };
            transfer::complete(&mut engine, origin, keys)?;
        }
        if behind {
            engine.settle(state.step);
        }
        let parameters = engine.params().iter().map(|p| p.w.len()).sum();
        let encoder = Box::new(engine);
        Ok(Trained { config, items, side_tables, encoder, parameters })
    }
}
