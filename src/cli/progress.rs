//! Progress of a run: a bar on a terminal, lines elsewhere, JSON events on request.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::printer::Printer;
use crate::{
    data::digits,
    layers::Patch,
    train::{
        Carried, MemoryPlan, Settings, TrainEvent,
        checkpoint::{EpochRow, TrainState},
        run::Validated,
    },
};

/// Shows the progress of a run.
pub struct Progress {
    printer: Printer,
    bar: Option<ProgressBar>,
    epochs: u32,
    started: Instant,
    last_line: Option<Instant>,
    /// Loss, smoothed over about fifty steps.
    loss: f64,
    metric: String,
}

impl Progress {
    pub fn new(printer: Printer, settings: &Settings) -> Self {
        Progress {
            printer,
            bar: None,
            epochs: settings.epochs,
            started: Instant::now(),
            last_line: None,
            loss: 0.0,
            metric: String::new(),
        }
    }

    pub fn show(&mut self, event: TrainEvent) {
        match event {
            TrainEvent::Carried(rows) => self.carried(&rows),
            TrainEvent::Ready { parameters, memory, steps, state } => self.ready(parameters, &memory, steps, &state),
            TrainEvent::Start(found) => self.start(found),
            TrainEvent::Step { epoch, loss, interactions, .. } => {
                let loss = loss as f64;
                self.loss = if self.loss == 0.0 { loss } else { 0.98 * self.loss + 0.02 * loss };
                if let Some(bar) = &self.bar {
                    let rate = interactions as f64 / self.started.elapsed().as_secs_f64();
                    bar.set_message(format!(
                        "epoch {epoch}/{} loss {:.3}{} {} interactions/s",
                        self.epochs,
                        self.loss,
                        self.metric,
                        digits(rate as u64)
                    ));
                    bar.inc(1);
                }
            }
            TrainEvent::Epoch { row, seconds, interactions_per_s, best } => {
                self.epoch(&row, seconds, interactions_per_s, best);
            }
        }
    }

    /// Prints what was copied from the base, for each tensor.
    fn carried(&self, rows: &[Carried]) {
        let numbers = |row: &Carried| row.shape.iter().product::<usize>();
        let share = |patch: bool, frozen: Option<bool>| -> usize {
            let of = |r: &&Carried| {
                r.of > 0 && r.name.contains(Patch::NAME) == patch && frozen.is_none_or(|f| r.frozen == f)
            };
            rows.iter().filter(of).map(numbers).sum()
        };
        let (patches, others, trained) = (share(true, None), share(false, None), share(false, Some(false)));
        if self.printer.json {
            self.printer.event(&json!({
                "event": "transfer", "tensors": rows, "parameters": others, "new_parameters": patches,
                "trained_parameters": patches + trained,
            }));
            return;
        }
        let name = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
        for row in rows {
            let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            let what = match (row.rows, row.of) {
                (_, 0) => "not copied: the new run has no such tensor".to_string(),
                (0, _) if row.begins.is_some() => "new".to_string(),
                (0, _) => "fresh".to_string(),
                (rows, of) if rows == of => "loaded".to_string(),
                (rows, of) => format!("{} rows loaded, {} fresh", digits(rows as u64), digits((of - rows) as u64)),
            };
            let frozen = if row.frozen { ", frozen" } else { "" };
            let begins = row.begins.as_ref().map_or(String::new(), |how| format!(", starts: {how}"));
            self.printer.say(format_args!("  {:name$}  {shape:>12}  {what}{begins}{frozen}", row.name));
        }
        let (all, train) = (digits(others as u64), digits((patches + trained) as u64));
        let mut line = format!("from    {all} parameters");
        if patches > 0 {
            let share = 100.0 * patches as f64 / others as f64;
            line += &format!(", {} new ones in patches ({share:.1} %)", digits(patches as u64));
        }
        self.printer.say(format_args!("{line}; {train} are trained"));
    }

    /// Prints the validation before the first step.
    fn start(&self, found: Validated) {
        if self.printer.json {
            self.printer.event(&match found {
                Validated::Ranking { ndcg, hit } => {
                    json!({"event": "start", "epoch": 0, "valid_ndcg@10": ndcg, "valid_hr@10": hit})
                }
                Validated::Ratings { rmse, mae } => {
                    json!({"event": "start", "epoch": 0, "valid_rmse": rmse, "valid_mae": mae})
                }
            });
            return;
        }
        let line = match found {
            Validated::Ranking { ndcg, hit } => format!("valid NDCG@10 {ndcg:.4} HR@10 {hit:.4}"),
            Validated::Ratings { rmse, mae } => format!("valid RMSE {rmse:.4} MAE {mae:.4}"),
        };
        let line = format!("epoch    0  before training  {line}");
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.printer.say(line),
        }
    }

    fn ready(&mut self, parameters: usize, memory: &MemoryPlan, steps: u64, state: &TrainState) {
        let mb = |bytes: u64| digits(bytes.div_ceil(1 << 20));
        let data = memory.data.map_or("memory-mapped".to_string(), |bytes| format!("{} MB", mb(bytes)));
        self.printer.say(format_args!(
            "memory  {} parameters, {} MB; data {data}\n        weights {}, gradients {}, moments {}, activations {}, \
             batch {}, workspace {}",
            digits(parameters as u64),
            mb(memory.total()),
            mb(memory.weights),
            mb(memory.gradients),
            mb(memory.moments),
            mb(memory.activations),
            mb(memory.batch),
            mb(memory.workspace),
        ));
        let total = steps * self.epochs as u64;
        if state.done {
            self.printer.say("resume  nothing to do: the run is complete and is only evaluated");
        } else if state.step > 0 {
            self.printer.say(format_args!("resume  from epoch {}, step {}", state.epoch, state.step));
        }
        self.printer.say("");
        if self.printer.json {
            self.printer.event(&json!({
                "event": "ready", "parameters": parameters, "bytes": memory.total(), "memory": memory,
                "step": state.step,
            }));
        }
        if self.printer.progress_bar() {
            let bar = ProgressBar::new(total).with_position(state.step);
            let style = ProgressStyle::with_template("{bar:24} {percent:>3}% {msg}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar.reset_eta();
            self.bar = Some(bar);
        }
        self.started = Instant::now();
    }

    fn epoch(&mut self, row: &EpochRow, seconds: f64, rate: f64, best: bool) {
        if let Some(ndcg) = row.ndcg {
            self.metric = format!(" NDCG@10 {ndcg:.4}");
        }
        if let Some(rmse) = row.rmse {
            self.metric = format!(" RMSE {rmse:.4}");
        }
        if self.printer.json {
            let mut event = json!({"event": "epoch"});
            if let (Some(all), serde_json::Value::Object(row)) = (event.as_object_mut(), json!(row)) {
                all.extend(row);
            }
            event["seconds"] = json!(seconds);
            event["interactions_per_s"] = json!(rate);
            event["best"] = json!(best);
            self.printer.event(&event);
            return;
        }
        // Every validation is printed. Of other epochs, one line every 20 seconds shows that the run is active.
        let quiet = self.last_line.is_some_and(|t| t.elapsed() < Duration::from_secs(20));
        if row.measure().is_none() && (quiet || self.bar.is_some()) {
            return;
        }
        self.last_line = Some(Instant::now());
        let mut line = format!("epoch {:>4}  loss {:.4}", row.epoch, row.loss);
        if let (Some(ndcg), Some(hit)) = (row.ndcg, row.hit) {
            line += &format!("  valid NDCG@10 {ndcg:.4} HR@10 {hit:.4}{}", if best { " *" } else { "" });
        }
        if let (Some(rmse), Some(mae)) = (row.rmse, row.mae) {
            line += &format!("  valid RMSE {rmse:.4} MAE {mae:.4}{}", if best { " *" } else { "" });
        }
        line += &format!("  {} interactions/s  {:.0} s", digits(rate as u64), self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.printer.say(line),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
