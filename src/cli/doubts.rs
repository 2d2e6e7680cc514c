//! Warnings before and after a run: held-out items that cannot be hit, settings without effect, a validation that
//! selects nothing, a catalogue that is slow on the CPU.

use super::printer::Printer;
use crate::{
    backend::{self, Device},
    base::Result,
    data::{
        Dataset, digits,
        split::{HeldOut, Split},
    },
    eval::reach::Reach,
    experiment::words::duration,
    measure::ceilings::cpu_products,
    train::{RunConfig, Settings, checkpoint::TrainState},
};

/// Smallest share of held-out items in the history of their user that causes a warning.
const MANY_SEEN: f64 = 0.1;

/// Largest catalogue for which the full softmax on a CPU causes no warning.
const SMALL_CATALOGUE: usize = 100_000;

/// Prints the notes and warnings that are known before the first step.
///
/// # Errors
/// The device, which is timed for an estimate, fails.
pub fn before(printer: &Printer, config: &RunConfig, (data, split): (&Dataset, &Split), device: Device) -> Result<()> {
    let s = &config.settings;
    if config.ratings.is_none() {
        reach(printer, s, data, split)?;
    }
    if s.lr == 0.0 {
        printer.warn("with --lr 0 no weight changes, and nothing is learned");
    }
    let validations = s.epochs.div_ceil(s.eval_every.max(1));
    if s.patience > 0 && split.summary().valid_users == 0 {
        printer.warn(format_args!(
            "--patience {} has no effect: the split has no validation part, and the newest weights are kept",
            s.patience
        ));
    } else if s.patience >= validations && s.patience > 0 {
        printer.warn(format_args!(
            "--patience {} cannot end this run early: {} epochs with --eval-every {} have {validations} validations",
            s.patience, s.epochs, s.eval_every
        ));
    }
    if let Some(advice) = slow_softmax(config, data, split, device)? {
        printer.warn(advice);
    }
    Ok(())
}

/// Prints the share of held-out items that no list can contain, and of those that no model can have learned.
fn reach(printer: &Printer, s: &Settings, data: &Dataset, split: &Split) -> Result<()> {
    let kept = keeps(s, split)?;
    let (valid, test) = (split.valid(), split.test());
    let parts: Vec<(&str, Reach)> = [&valid as &dyn HeldOut, &test]
        .into_iter()
        .map(|part| (part.name(), Reach::of(data, part)))
        .filter(|(_, reach)| reach.items > 0)
        .collect();
    let shares = |of: fn(&Reach) -> f64| {
        let each: Vec<String> = parts.iter().map(|(name, reach)| format!("{name} {}", percent(of(reach)))).collect();
        each.join(", ")
    };
    if parts.iter().any(|(_, reach)| reach.seen > 0) {
        let what = if kept { "ranked like any other" } else { "never ranked, so they count as misses" };
        let shares = shares(Reach::share_seen);
        printer.say(format_args!("        held-out items in the user's history: {shares}; {what}"));
    }
    if parts.iter().any(|(_, reach)| reach.untrained > 0) {
        let shares = shares(Reach::share_untrained);
        printer.say(format_args!("        held-out items that do not occur in training: {shares}"));
    }
    if !kept && parts.iter().any(|(_, reach)| reach.share_seen() >= MANY_SEEN) {
        printer
            .warn("held-out items in the user's history always count as misses; train with --keep-seen to rank them");
    }
    Ok(())
}

/// Returns whether the items of a history are candidates.
fn keeps(s: &Settings, split: &Split) -> Result<bool> {
    Ok(s.keep_seen || split.spec().repeats() || s.find()?.1.baskets)
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        x if x > 0.0 && x < 0.1 => "<0.1 %".into(),
        x if x < 10.0 => format!("{x:.1} %"),
        x => format!("{x:.0} %"),
    }
}

/// Returns a warning with the estimated time of the full softmax over a large catalogue on a CPU.
fn slow_softmax(config: &RunConfig, data: &Dataset, split: &Split, device: Device) -> Result<Option<String>> {
    let s = &config.settings;
    let full = !s.loss.sampled() && config.ratings.is_none();
    if !full || data.items() <= SMALL_CATALOGUE || backend::choose(device).0 != Device::Cpu {
        return Ok(None);
    }
    let rows: f64 = (0..data.users()).map(|user| scored(s, split.train().len_of(user))).sum();
    // A score takes 2 operations per column, and the backward pass three times as many.
    let operations = 8.0 * rows * data.items() as f64 * s.width as f64;
    let rate = cpu_products()?;
    let seconds = operations / rate;
    Ok(Some(format!(
        "full softmax over {} items is slow on the CPU: the loss alone takes about {} per epoch, {} in total \
         ({:.1} GFLOP per epoch at {:.0} GFLOP/s); the cost of a sampled loss does not grow with the catalogue: use \
         --loss sampled-softmax --sampler popularity --negatives 512",
        digits(data.items() as u64),
        duration(seconds),
        duration(seconds * f64::from(s.epochs)),
        operations / 1e9,
        rate / 1e9
    )))
}

/// Returns the average number of rows per epoch that are scored for a user with `events` training events.
fn scored(s: &Settings, events: usize) -> f64 {
    let n = events.min(s.length) as f64;
    match s.task.as_str() {
        _ if n < 2.0 => 0.0,
        "next-item" => (n - 1.0) * s.targets as f64,
        _ => {
            let (mask, last) = (f64::from(s.mask), f64::from(s.mask_last));
            (1.0 - last) * (mask * n).round().max(1.0) + last
        }
    }
}

/// Warns if the validation was 0 at every epoch.
pub fn after(printer: &Printer, config: &RunConfig, state: &TrainState, data: &Dataset, split: &Split) -> Result<()> {
    let measures: Vec<f64> = state.history.iter().filter_map(|row| row.ndcg).collect();
    if measures.is_empty() || measures.iter().any(|ndcg| *ndcg != 0.0) {
        return Ok(());
    }
    let share = Reach::of(data, &split.valid()).share_seen();
    let advice = match share >= MANY_SEEN && !keeps(&config.settings, split)? {
        true => format!("; {} of its items are in the user's history: train with --keep-seen", percent(share)),
        false => String::new(),
    };
    printer.warn(format_args!(
        "all {} validations were 0 and could not select weights; the newest weights are used{advice}",
        measures.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_as_the_tasks_score_them() {
        let masked = Settings { task: "masked-item".into(), length: 20, ..Settings::default() };
        // Four items with probability 0.85, the last item alone with 0.15.
        assert!((scored(&masked, 98) - (0.85 * 4.0 + 0.15)).abs() < 1e-6);
        assert_eq!((scored(&masked, 1), scored(&masked, 2).round()), (0.0, 1.0));
        let next = Settings { task: "next-item".into(), targets: 3, ..masked };
        assert_eq!(scored(&next, 98), 57.0);
    }

    #[test]
    fn shares_are_told_as_they_are() {
        assert_eq!([0.0, 0.0004, 0.012, 0.71, 1.0].map(percent), ["0.0 %", "<0.1 %", "1.2 %", "71 %", "100 %"]);
    }
}
