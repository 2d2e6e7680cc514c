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
    backend::{self, Device, WithBackend},
    base::Result,
    data::Vocab,
    eval::Encoder,
    layers::DataSummary,
    mem::Planner,
    ops::Backend,
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
        struct Load<'a>(&'a RunFolder, &'a RunConfig, (&'a Vocab, &'a SideTables), Which);
        impl WithBackend for Load<'_> {
            type Out = Result<(Box<dyn Encoder>, usize)>;
            fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
                let Load(folder, config, (items, side_tables), which) = self;
                // Only sampled losses use the counts, and no loss is computed here.
                let summary =
                    DataSummary { ratings: config.ratings.clone(), ..side_tables.summary(vec![1; items.len()])? };
                let mut engine = Engine::<B>::blank(&config.settings, summary, open)?;
                let path = folder.checkpoint(which)?;
                // Rows of a table may be from earlier steps than the checkpoint; bring them up to date.
                let behind = which == Which::Last && engine.by_rows();
                let Engine { plan, backend, .. } = &mut engine;
                let state = checkpoint::load(&path, backend, plan, behind, &side_tables.fingerprint(items))?;
                if let Some(origin) = config.from.as_ref().filter(|_| engine.params().iter().any(|p| p.frozen)) {
                    let keys = Keys { items, side_tables, content: None };
                    transfer::complete(&mut engine, origin, keys)?;
                }
                if behind {
                    engine.settle(state.step);
                }
                let parameters = engine.params().iter().map(|p| p.w.len()).sum();
                Ok((Box::new(engine), parameters))
            }
        }
        let folder = RunFolder::new(run);
        let config = folder.config()?;
        let items = Vocab::open(&folder.items())?;
        let side_tables = SideTables::open(&config.settings, &folder, items.len())?;
        let load = Load(&folder, &config, (&items, &side_tables), which);
        let (encoder, parameters) = backend::with(device, config.settings.precision.on(device), load)?;
        Ok(Trained { config, items, side_tables, encoder, parameters })
    }
}
