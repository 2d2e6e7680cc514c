//! States in words what limits a run.

use super::{Bound, Profile, text};

/// Returns `62 % of the step is linear_bwd at 71 % of this machine's product rate: bound by products; loading data is
/// 0.4 %.`. Any reason to doubt the numbers follows it.
pub(super) fn verdict(p: &Profile) -> String {
    let percent = |share: f64| text::percent(share).replace('<', "under ");
    let (w, o) = (&p.whole, &p.op_by_op);
    let wall = w.wall.mean;
    let of_step = |seconds: f64| percent(seconds / wall);
    let loading = match w.hidden {
        None => format!("loading data is {}", of_step(w.load.mean)),
        Some(hidden) => {
            format!("loading data is {}, {} of it hidden behind the device", of_step(w.load.mean), percent(hidden))
        }
    };
    // If no op runs for most of the step, the host limits it.
    if w.not_hidden > 0.5 * wall {
        // If the host itself computes, launching a step means computing it.
        let launching = w.hidden.map(|_| ("launching work", w.launch.mean));
        let works = [
            ("loading batches", w.load.mean),
            ("sending them", w.upload.mean),
            ("the gap between steps", w.between.mean),
        ];
        let works = works.into_iter().chain(launching);
        let (what, seconds) = works.max_by(|a, b| a.1.total_cmp(&b.1)).expect("three at least");
        return format!(
            "Bound by the host: no op runs for {} of the step; {what} takes {}.",
            of_step(w.not_hidden),
            of_step(seconds)
        );
    }
    let Some(top) = p.ops.first() else { return format!("No op ran; {loading}.") };
    // The share of the ops' time, scaled to the part of the step in which ops run.
    let share = top.share * (w.busy.mean / wall).min(1.0);
    let how = match (top.roof, top.bound) {
        (Some(roof), Some(bound)) => {
            let (rate, by) = match bound {
                Bound::Memory => ("copy rate", "memory"),
                Bound::Products => ("product rate", "products"),
                Bound::Exps => ("rate of exponentials", "exponentials"),
            };
            match roof {
                r if r < 0.15 => format!(
                    " at {} of this machine's {rate}: far from its roofline, limited by what that does not count \
                     (small sizes, latency, one core's work)",
                    percent(r)
                ),
                r if r > 1.0 => format!(" faster than this machine's {rate}: its data stay in caches"),
                r => format!(" at {} of this machine's {rate}: bound by {by}", percent(r)),
            }
        }
        _ => format!(" at {:.1} GFLOP/s and {:.1} GB/s", top.gflops, top.gbps),
    };
    let gaps = o.idle / (o.ops + o.idle);
    let gaps = match gaps > 0.2 {
        true => format!("; op by op, {} of the time is between calls", percent(gaps)),
        false => String::new(),
    };
    format!("{} of the step is {}{how}{gaps}; {loading}.{}", percent(share), top.op, doubt(p))
}

/// Returns a warning if the two passes differ by half. On the CPU, steps timed op by op take as long as whole steps,
/// unless they are too short for the clock.
fn doubt(p: &Profile) -> String {
    let (w, o) = (&p.whole, &p.op_by_op);
    let (parts, whole) = (o.ops + o.idle, w.busy.mean);
    if w.hidden.is_some() || whole < 1e-3 || (parts < 1.5 * whole && whole < 1.5 * parts) {
        return String::new();
    }
    let (parts, whole) = (text::ms(parts), text::ms(whole));
    format!(
        " Something else may have kept the machine busy: op by op the calls of a step took {parts} ms, in whole steps \
         {whole}. Measure again when it is idle."
    )
}
