//! The plots of a table.

use super::{
    results::{Base, ResultRow, Seed, Table},
    words,
};
use crate::page::plot::{self, Bar, Frame, Group, Series};

/// Groups rows by their first label, in order of first occurrence. Rows with a single label form one group.
fn groups(table: &Table) -> Vec<(String, Vec<usize>)> {
    let split = table.rows.iter().any(|row| row.labels.len() > 1);
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, row) in table.rows.iter().enumerate() {
        let name = row.labels.first().filter(|_| split).cloned().unwrap_or_default();
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(i),
            None => groups.push((name, vec![i])),
        }
    }
    groups
}

/// Returns the name of a row within its group.
fn short(row: &ResultRow) -> String {
    match row.labels.len() {
        0 => row.name.clone(),
        1 => row.labels[0].clone(),
        _ => row.labels[1..].join(", "),
    }
}

/// Plots the first metric of every row. Returns `None` if the table has no metric or no row is done.
pub fn bars(table: &Table) -> Option<String> {
    let metric = table.metrics.first()?;
    table.rows.iter().find(|row| !row.mean.is_empty())?;
    let scaled = |x: f64| words::scaled(x, table.scale);
    let bar = |row: &ResultRow| {
        let interval = row.interval.first().filter(|_| !row.mean.is_empty());
        let (name, published) = (words::row_name(row), row.published.first().copied());
        let says = match row.mean.first() {
            Some(mean) => {
                let half = interval.map_or(String::new(), |i| format!(" {}", words::half(*i, table.scale)));
                format!("{}{half}", words::number(*mean, table.scale))
            }
            None => words::standing(&row.seeds).into(),
        };
        let beside =
            published.map_or(String::new(), |x| format!("; published: {}", words::plain(x, words::printed(table))));
        Bar {
            label: short(row),
            value: row.mean.first().map(|x| scaled(*x)),
            interval: interval.copied().flatten().map(|i| i.map(scaled)),
            published,
            tip: format!("{name}: {says}{beside}"),
            says,
        }
    };
    let groups = groups(table)
        .into_iter()
        .map(|(name, rows)| Group { name, bars: rows.into_iter().map(|i| bar(&table.rows[i])).collect() });
    let measure = format!("{metric}, {}", words::direction(table.lower));
    Some(plot::bars(&format!("{metric} of each row of {}", table.title), &measure, &groups.collect::<Vec<_>>()))
}

/// Plots the first metric by slice, one plot per group.
pub fn slices(table: &Table) -> Vec<String> {
    let Some(metric) = table.metrics.first() else { return Vec::new() };
    let scaled = |x: f64| words::scaled(x, table.scale);
    let mut plots = Vec::new();
    for (name, rows) in groups(table) {
        let mut series = Vec::new();
        for (at, i) in rows.iter().enumerate() {
            let row = &table.rows[*i];
            // Points of one slice are placed side by side, within half of its width.
            let aside = (at as f64 - (rows.len() - 1) as f64 / 2.0) * (0.5 / rows.len() as f64);
            let there: Vec<_> =
                row.slices.iter().take(table.slices.len()).enumerate().filter_map(|(s, e)| Some((s, (*e)?))).collect();
            if there.is_empty() {
                continue;
            }
            series.push(Series {
                name: short(row),
                colour: at,
                points: there.iter().map(|(s, e)| (*s as f64 + aside, scaled(e.mean))).collect(),
                intervals: there.iter().map(|(_, e)| e.interval.unwrap_or([f64::NAN; 2]).map(scaled)).collect(),
                tip: words::row_name(row),
                ..Series::default()
            });
        }
        let frame = Frame {
            title: format!(
                "{metric} by number of training events: {}",
                if name.is_empty() { &table.title } else { &name }
            ),
            x: "training events of a user".into(),
            y: headed(&name, metric),
            names: table.slices.iter().map(|s| s.name.clone()).collect(),
            ring: String::new(),
        };
        plots.push(plot::lines(&frame, &series));
    }
    plots.retain(|svg| !svg.is_empty());
    plots
}

/// Plots the learning curves of a table, one plot per group.
pub fn curves(table: &Table) -> Vec<String> {
    let plot_of = |(name, rows): (String, Vec<usize>)| {
        let named =
            rows.iter().map(|i| &table.rows[*i]).map(|row| (short(row), words::row_name(row), row.seeds.as_slice()));
        let title = format!("Learning curves: {}", if name.is_empty() { &table.title } else { &name });
        learning(&title, &headed(&name, "validation"), named)
    };
    groups(table).into_iter().map(plot_of).filter(|svg| !svg.is_empty()).collect()
}

/// Plots the learning curves of pre-training, one plot per metric.
pub fn base_curves(bases: &[Base]) -> Vec<String> {
    let mut measures: Vec<&String> = Vec::new();
    bases.iter().for_each(|b| {
        if !measures.contains(&&b.measure) {
            measures.push(&b.measure)
        }
    });
    let plot_of = |measure: &String| {
        let of = bases.iter().filter(|b| b.measure == *measure);
        let named = of.map(|b| (b.name.clone(), b.name.clone(), b.seeds.as_slice()));
        learning("Learning curves of pre-training", &format!("{measure} on validation"), named)
    };
    measures.into_iter().map(plot_of).filter(|svg| !svg.is_empty()).collect()
}

fn headed(group: &str, measure: &str) -> String {
    if group.is_empty() { measure.into() } else { format!("{group}: {measure}") }
}

/// Plots the curves of (short name, name, seeds): a thin line per seed and a thick line for their mean, in one colour.
fn learning<'a>(title: &str, y: &str, of: impl Iterator<Item = (String, String, &'a [Seed])>) -> String {
    let mut series = Vec::new();
    // Colours depend on the position, so that a row has the same colour in every plot.
    for (colour, (short, name, seeds)) in of.enumerate() {
        let curves: Vec<&Seed> = seeds.iter().filter(|s| !s.curve.is_empty()).collect();
        if curves.is_empty() {
            continue;
        }
        for seed in &curves {
            series.push(Series {
                colour,
                points: seed.curve.iter().map(|(epoch, value)| (f64::from(*epoch), *value)).collect(),
                thin: true,
                mark: seed.best.map(f64::from),
                tip: format!(
                    "{name}, seed {}{}",
                    seed.seed,
                    seed.best.map_or(String::new(), |e| format!(", best at epoch {e}"))
                ),
                ..Series::default()
            });
        }
        series.push(Series { name: short, colour, points: mean(&curves), tip: name, ..Series::default() });
    }
    let frame = Frame {
        title: title.into(),
        x: "epoch".into(),
        y: y.into(),
        names: Vec::new(),
        ring: "the epoch of the selected weights".into(),
    };
    plot::lines(&frame, &series)
}

/// Computes the mean over seeds at the epochs that all seeds have. A mean over fewer seeds would jump where a seed
/// ends.
fn mean(curves: &[&Seed]) -> Vec<(f64, f64)> {
    let Some(first) = curves.first() else { return Vec::new() };
    let value = |seed: &Seed, epoch: u32| seed.curve.iter().find(|(e, _)| *e == epoch).map(|(_, value)| *value);
    let at = |epoch: u32| -> Option<(f64, f64)> {
        let values: Option<Vec<f64>> = curves.iter().map(|seed| value(seed, epoch)).collect();
        let values = values?;
        Some((f64::from(epoch), values.iter().sum::<f64>() / values.len() as f64))
    };
    first.curve.iter().filter_map(|(epoch, _)| at(*epoch)).collect()
}
