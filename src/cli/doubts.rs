//! What the user of a run is told before it begins and after it has ended: held-out items that cannot be hit, settings
//! that do nothing, a validation that cannot choose, a catalogue that takes too long.

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

/// From this share of held-out items in their user's history on, advice is given.
const MANY_SEEN: f64 = 0.1;

/// Up to this catalogue the full softmax is no matter on a CPU.
const SMALL_CATALOGUE: usize = 100_000;

/// Says and warns of what is known before the first step.
///
/// # Errors
/// The device's, which is timed where an estimate is given.
pub fn before(printer: &Printer, config: &RunConfig, (data, split): (&Dataset, &Split), device: Device) -> Result<()> {
    let s = &config.settings;
    if config.ratings.is_none() {
        reach(printer, s, data, split)?;
    }
    if s.lr == 0.0 {
        printer.warn("--lr 0 changes no weight: nothing is learned");
    }
    let validations = s.epochs.div_ceil(s.eval_every.max(1));
    if s.patience > 0 && split.summary().valid_users == 0 {
        printer.warn(format_args!(
            "--patience {} has no effect: the split holds out nothing for validation, and the newest weights are kept",
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

/// Which held-out items no list can show, and which no model can have learned.
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
        let what = if kept { "ranked like any other" } else { "never ranked, so that they count as misses" };
        let shares = shares(Reach::share_seen);
        printer.say(format_args!("        held-out items in their user's history: {shares}; {what}"));
    }
    if parts.iter().any(|(_, reach)| reach.untrained > 0) {
        let shares = shares(Reach::share_untrained);
        printer.say(format_args!("        held-out items that occur nowhere in training: {shares}"));
    }
    if !kept && parts.iter().any(|(_, reach)| reach.share_seen() >= MANY_SEEN) {
        printer.warn(format_args!(
            "held-out items in their user's own history ({}) are misses whatever the model learns: where people come \
             back to the same items, train with --keep-seen, which ranks them in validation, eval, recommend and compare",
            shares(Reach::share_seen)
        ));
    }
    Ok(())
}

/// Whether the items of a history are candidates.
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

/// How long the full softmax over a large catalogue takes on a CPU, and what to do about it.
fn slow_softmax(config: &RunConfig, data: &Dataset, split: &Split, device: Device) -> Result<Option<String>> {
    let s = &config.settings;
    let full = !s.loss.sampled() && config.ratings.is_none();
    if !full || data.items() <= SMALL_CATALOGUE || backend::choose(device).0 != Device::Cpu {
        return Ok(None);
    }
    let rows: f64 = (0..data.users()).map(|user| scored(s, split.train().len_of(user))).sum();
    // A score takes 2 operations a column, and the way back three times as many.
    let operations = 8.0 * rows * data.items() as f64 * s.width as f64;
    let rate = cpu_products()?;
    let seconds = operations / rate;
    Ok(Some(format!(
        "full softmax over {} items on the CPU: the loss alone takes about {} an epoch, {} in all \
         ({:.1} GFLOP an epoch, products at {:.0} GFLOP/s here); a sampled loss does not grow with the catalogue: \
         --loss sampled-softmax --sampler popularity --negatives 512",
        digits(data.items() as u64),
        duration(seconds),
        duration(seconds * f64::from(s.epochs)),
        operations / 1e9,
        rate / 1e9
    )))
}

/// Rows that an epoch scores of a user with `events` to train on, on average.
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

/// Warns of a validation that told no epoch from another.
pub fn after(printer: &Printer, config: &RunConfig, state: &TrainState, data: &Dataset, split: &Split) -> Result<()> {
    let measures: Vec<f64> = state.history.iter().filter_map(|row| row.ndcg).collect();
    if measures.is_empty() || measures.iter().any(|ndcg| *ndcg != 0.0) {
        return Ok(());
    }
    let share = Reach::of(data, &split.valid()).share_seen();
    let advice = match share >= MANY_SEEN && !keeps(&config.settings, split)? {
        true => format!("; {} of its items are in their user's history: train with --keep-seen", percent(share)),
        false => String::new(),
    };
    printer.warn(format_args!(
        "the validation was 0 at every one of {} times: it could choose nothing, and the newest weights are used\
         {advice}",
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
        // 0.85 of four, and 0.15 of the last alone.
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
