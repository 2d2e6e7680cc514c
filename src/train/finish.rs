//! The end of a run: evaluates its best weights on the test part.

use super::{RunFolder, Trained, Which};
use crate::{
    backend::Device,
    base::{Result, atomic::write_atomically},
    data::{Dataset, split::Split},
    eval::{EvalOptions, Evaluation, RatingOptions, evaluate, evaluate_ratings},
};

/// Evaluates the best weights of a run on the test part, with baselines, and writes the report into the run folder.
///
/// # Errors
/// The data have changed since they were opened; the model, the device or the file system fails.
pub fn evaluate_best(folder: &RunFolder, data: &Dataset, split: &Split, device: Device) -> Result<Evaluation> {
    data.unchanged()?;
    let mut trained = Trained::open(&folder.path, Which::Best, device)?;
    let evaluation = match &trained.config.ratings {
        Some(scale) => {
            let batch = trained.config.settings.batch;
            let options = RatingOptions { range: scale.range(), batch, item_map: None, users: None };
            let report = evaluate_ratings(&mut *trained.encoder, data, &split.test(), &options, &mut |_| Ok(()))?;
            Evaluation::Ratings(Box::new(report))
        }
        None => {
            let mut ks: Vec<usize> = [5, 10, 20].into_iter().filter(|k| *k <= data.items()).collect();
            if ks.is_empty() {
                ks.push(data.items());
            }
            let keep_seen = trained.config.settings.keep_seen;
            let options = EvalOptions { ks, keep_seen, baseline: true, ..EvalOptions::default() };
            Evaluation::Ranking(Box::new(evaluate(&mut *trained.encoder, data, &split.test(), &options)?))
        }
    };
    write_atomically(&folder.report(), |f| writeln!(f, "{:#}", evaluation.json()))?;
    Ok(evaluation)
}
