//! A trained model to ask: loaded from its run folder, with the vocabulary its rows belong to.

use std::path::Path;

use super::{
    checkpoint,
    engine::Engine,
    run::{RunConfig, RunFolder},
};
use crate::{
    backend::{self, Device, WithBackend},
    base::{Error, Result},
    data::Vocab,
    eval::Encoder,
    mem::Planner,
    ops::Backend,
};

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The weights with the best validation.
    Best,
    /// The newest weights.
    Last,
}

/// A trained model and what it knows.
pub struct Trained {
    pub config: RunConfig,
    pub items: Vocab,
    pub encoder: Box<dyn Encoder>,
    /// Parameters of the model.
    pub parameters: usize,
}

impl Trained {
    /// Loads a run.
    ///
    /// # Errors
    /// No run there; a checkpoint that does not fit the run's settings or vocabulary.
    pub fn open(run: &Path, which: Which, device: Device) -> Result<Trained> {
        struct Load<'a>(&'a RunFolder, &'a RunConfig, &'a Vocab, Which);
        impl WithBackend for Load<'_> {
            type Out = Result<(Box<dyn Encoder>, usize)>;
            fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
                let Load(folder, config, items, which) = self;
                // Counts only matter to sampled losses, which are not asked for here.
                let mut engine = Engine::<B>::blank(&config.settings, &vec![1; items.len()], open)?;
                let path = if which == Which::Best { folder.best() } else { folder.last() };
                if !path.exists() {
                    let run = folder.path.display();
                    let (name, hint) = match which {
                        Which::Best if folder.last().exists() => (
                            "best",
                            format!(
                                "none was validated yet: take --last, or continue it with: mipgpu train --resume {run}"
                            ),
                        ),
                        Which::Best => ("best", "the run ended before it began: start it anew".to_string()),
                        Which::Last => ("last", "a run makes one before its first step: start it anew".to_string()),
                    };
                    return Err(Error::user(format!("{run}: the run has no {name} checkpoint")).hint(hint));
                }
                // Rows of a table may stand at earlier steps than the checkpoint: they are brought to date.
                let behind = which == Which::Last && engine.by_rows();
                let Engine { plan, backend, .. } = &mut engine;
                let state = checkpoint::load(&path, backend, plan, behind, &items.fingerprint())?;
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
        let load = Load(&folder, &config, &items, which);
        let (encoder, parameters) = backend::with(device, config.settings.precision, load)?;
        Ok(Trained { config, items, encoder, parameters })
    }
}
