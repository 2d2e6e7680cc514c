/*! The search space of `mipgpu search`: trials and their order, as pure functions of the arguments.

`lr=1e-3,3e-4` lists values; `lr=1e-4..1e-2` is a range (`:log`: uniform in the logarithm). A grid is every combination
of listed values. Random search (Bergstra and Bengio 2012) draws from lists and ranges. A drawn value is a function of
the seed, the number of the draw and the name of the setting. More trials, another order or an additional setting
therefore do not change the other values. Successive halving (Jamieson and Talwalkar 2016) trains all trials for a few
epochs and the best ones longer.
*/

use std::collections::HashSet;

use crate::{
    base::{
        Error, Result,
        error::nearest,
        rng::{Purpose, Stream},
    },
    train::Settings,
};

/// Settings and their values, as typed.
pub type Choice = Vec<(String, String)>;

/// Maximum number of trials. A larger grid is probably a mistake.
pub const MOST: usize = 10_000;

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettingKind {
    Whole,
    Real,
    /// A name, a list, true or false.
    Word,
}

/// A setting that is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimension {
    pub name: String,
    pub values: Values,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Listed(Vec<String>),
    /// A range that includes both ends.
    Range {
        low: f64,
        high: f64,
        log: bool,
        whole: bool,
    },
}

/// All searched settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Space(pub Vec<Dimension>);

impl Space {
    /// Parses the values of `--over NAME=VALUES`.
    ///
    /// # Errors
    /// A setting does not exist (the nearest is suggested), is given twice, has no values, or has a range and is not a
    /// number.
    pub fn read(over: &[String]) -> Result<Space> {
        let mut all: Vec<Dimension> = Vec::new();
        for text in over {
            let dimension = Dimension::read(text).map_err(|e| e.at(format!("--over {text}")))?;
            if all.iter().any(|d| d.name == dimension.name) {
                return Err(Error::user(format!("--over {text}: {} is also in another --over", dimension.name))
                    .hint("list all values of a setting in one --over, separated by commas"));
            }
            all.push(dimension);
        }
        Ok(Space(all))
    }

    /// Returns the number of different choices, or `None` if a range of real numbers makes it unlimited.
    pub fn size(&self) -> Option<u128> {
        self.0.iter().try_fold(1u128, |all, d| {
            let here = match &d.values {
                Values::Listed(values) => values.len() as u128,
                Values::Range { low, high, whole: true, .. } => (high - low) as u128 + 1,
                Values::Range { .. } => return None,
            };
            Some(all.saturating_mul(here))
        })
    }

    /// Returns every combination. The last setting changes fastest.
    ///
    /// # Errors
    /// A setting has a range instead of a list, or there are too many combinations.
    pub fn grid(&self) -> Result<Vec<Choice>> {
        let mut all: Vec<Choice> = vec![Vec::new()];
        for d in &self.0 {
            let Values::Listed(values) = &d.values else {
                return Err(Error::user(format!("--over {}: a grid requires a list of values, not a range", d.name))
                    .hint("add --random N to draw from the range, or list values separated by commas"));
            };
            if all.len().saturating_mul(values.len()) > MOST {
                return Err(Error::user(format!("the grid has more than {MOST} trials"))
                    .hint("add --random N to draw N of them"));
            }
            let with = |choice: &Choice| {
                let choice = choice.clone();
                values.iter().map(move |v| [&choice[..], &[(d.name.clone(), v.clone())]].concat())
            };
            all = all.iter().flat_map(with).collect();
        }
        Ok(all)
    }

    /// Returns the first `n` different draws, or fewer if there are not as many.
    pub fn random(&self, n: usize, seed: u64) -> Vec<Choice> {
        let most = self.size().map_or(n, |size| (n as u128).min(size) as usize);
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        // With few combinations, the rarest one may need many draws. A range that rounding makes small may never yield
        // it.
        for k in 0..(n as u64).saturating_mul(256).saturating_add(65_536).min(u32::MAX.into()) as u32 {
            if all.len() >= most {
                break;
            }
            let choice = self.draw(seed, k);
            if seen.insert(choice.clone()) {
                all.push(choice);
            }
        }
        all
    }

    /// Returns draw number `k`.
    fn draw(&self, seed: u64, k: u32) -> Choice {
        self.0
            .iter()
            .map(|d| (d.name.clone(), d.draw(Stream::new(seed, Purpose::Search, k).at(place(&d.name)))))
            .collect()
    }

    /// Returns every listed value and both ends of every range, which the flags must accept.
    pub fn ends(&self) -> Choice {
        let of = |d: &Dimension| match &d.values {
            Values::Listed(values) => values.clone(),
            Values::Range { low, high, .. } => vec![shown(*low), shown(*high)],
        };
        self.0.iter().flat_map(|d| of(d).into_iter().map(|v| (d.name.clone(), v))).collect()
    }
}

impl Dimension {
    fn read(text: &str) -> Result<Dimension> {
        let (name, values) = text.split_once('=').ok_or_else(|| {
            Error::user("no values are given").hint("write --over NAME=VALUE,VALUE, or NAME=LOW..HIGH with --random N")
        })?;
        let name = name.trim().trim_start_matches('-');
        let kind = kind_of(name)?;
        let ends = values.split_once("..");
        if let Some((low, high)) = ends {
            return Ok(Dimension { name: name.into(), values: range(name, kind, low, high)? });
        }
        // Values that contain commas are separated by semicolons: dilations=1,4;1,2,4.
        let between = if values.contains(';') { ';' } else { ',' };
        let mut listed: Vec<String> = Vec::new();
        for value in values.split(between).map(str::trim) {
            if value.is_empty() {
                return Err(Error::user("a value is empty").hint("write --over NAME=VALUE,VALUE"));
            }
            let value = plain(kind, value);
            if !listed.contains(&value) {
                listed.push(value);
            }
        }
        Ok(Dimension { name: name.into(), values: Values::Listed(listed) })
    }

    fn draw(&self, mut from: Stream) -> String {
        match &self.values {
            Values::Listed(values) => values[from.below(values.len() as u64) as usize].clone(),
            Values::Range { low, high, log: false, whole: true } => {
                format!("{}", *low as u64 + from.below((high - low) as u64 + 1))
            }
            Values::Range { low, high, log, whole } => {
                // Each whole number, including the ends, covers half a unit below and above it.
                let half = if *whole { 0.5 } else { 0.0 };
                let (from_, to) = (low - half, high + half);
                let (from_, to) = if *log { (from_.ln(), to.ln()) } else { (from_, to) };
                let u = (((from.bits() as u64) << 32 | from.bits() as u64) >> 11) as f64 / (1u64 << 53) as f64;
                let x = from_ + u * (to - from_);
                let x = if *log { x.exp() } else { x };
                let x = if *whole { x.round() } else { four_digits(x) };
                shown(x.clamp(*low, *high))
            }
        }
    }
}

/// Returns the type of the setting with this name, from its default.
fn kind_of(name: &str) -> Result<SettingKind> {
    let all = toml::Table::try_from(Settings::default())
        .map_err(|e| Error::internal(format!("settings cannot be written as TOML: {e}")))?;
    match all.get(name) {
        Some(toml::Value::Integer(_)) => Ok(SettingKind::Whole),
        Some(toml::Value::Float(_)) => Ok(SettingKind::Real),
        Some(_) => Ok(SettingKind::Word),
        None => {
            let e = Error::user(format!("unknown setting '{name}'"));
            Err(match nearest(name, all.keys().map(String::as_str)) {
                Some(near) => e.hint(format!("did you mean '{near}'?")),
                None => e.hint("settings have the names of the flags of `mipgpu train --help-all`"),
            })
        }
    }
}

fn range(name: &str, kind: SettingKind, low: &str, high: &str) -> Result<Values> {
    if kind == SettingKind::Word {
        return Err(Error::user(format!("{name} is not a number and cannot have a range"))
            .hint(format!("list its values: --over {name}=VALUE,VALUE")));
    }
    let (high, log) = match high.split_once(':') {
        None => (high, false),
        Some((high, "log")) => (high, true),
        Some((_, other)) => {
            return Err(
                Error::user(format!("':{other}' is not a kind of range")).hint("write LOW..HIGH or LOW..HIGH:log")
            );
        }
    };
    let end = |text: &str| -> Result<f64> {
        let text = text.trim();
        let x = text.parse::<f64>().ok().filter(|x| x.is_finite());
        let x = x.ok_or_else(|| Error::user(format!("'{text}' is not a number")).hint("write LOW..HIGH"))?;
        // f64 cannot represent all larger whole numbers.
        if kind == SettingKind::Whole && !(x.fract() == 0.0 && (0.0..9e15).contains(&x)) {
            return Err(
                Error::user(format!("'{text}' is not a whole number")).hint(format!("--{name} accepts whole numbers"))
            );
        }
        Ok(x)
    };
    let (low, high) = (end(low)?, end(high)?);
    if low >= high {
        return Err(Error::user("the range is empty").hint("write the lower end first: LOW..HIGH"));
    }
    if log && low <= 0.0 {
        return Err(Error::user("a :log range must start above 0").hint("raise its lower end, or omit :log"));
    }
    Ok(Values::Range { low, high, log, whole: kind == SettingKind::Whole })
}

/// Returns the canonical spelling of a value, so that equal values are recognised: `1e-3` is `0.001`.
fn plain(kind: SettingKind, value: &str) -> String {
    let whole = || value.parse::<u64>().ok().map(|x| x.to_string());
    let real = || value.parse::<f64>().ok().filter(|x| x.is_finite()).map(shown);
    let spelled = match kind {
        SettingKind::Whole => whole(),
        SettingKind::Real => real(),
        SettingKind::Word => None,
    };
    // The flag itself rejects a value that is not a number.
    spelled.unwrap_or_else(|| value.to_string())
}

/// Formats a number as it is usually typed.
fn shown(x: f64) -> String {
    if x == 0.0 {
        "0".into()
    } else if (1e-5..1e16).contains(&x.abs()) {
        format!("{x}")
    } else {
        format!("{x:e}")
    }
}

/// Rounds a drawn number to four significant digits. More digits are hard to read and carry no information.
fn four_digits(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// Returns the position of a setting's numbers in the stream of a draw: a block of four, selected by its name (FNV-1a).
fn place(name: &str) -> u64 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    u64::from(hash) << 2
}

/// A round of successive halving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    pub trials: usize,
    /// Epochs of each trial.
    pub epochs: u32,
}

/// Returns the rungs of successive halving; the last one trains the best trials for `epochs`. From one rung to the
/// next, 1/`eta` of the trials continue with `eta` times the epochs. There are as many rungs as leave at least one
/// trial and one epoch, or a single one if nothing can be halved.
pub fn rungs(trials: usize, epochs: u32, eta: u32) -> Vec<Rung> {
    let mut powers = vec![1u64];
    let next = |powers: &[u64]| powers[powers.len() - 1].saturating_mul(u64::from(eta.max(2)));
    while next(&powers) <= (trials as u64).min(epochs.into()) {
        powers.push(next(&powers));
    }
    let rung = |(few, share): (&u64, &u64)| Rung {
        trials: (trials as u64 / few) as usize,
        epochs: (u64::from(epochs) / share) as u32,
    };
    powers.iter().zip(powers.iter().rev()).map(rung).collect()
}

/// Returns the `n` best trials, best first. Trials without a value are dropped; of equal ones, the first wins.
pub fn survivors(goodness: &[Option<f64>], n: usize) -> Vec<usize> {
    let mut known: Vec<(usize, f64)> = goodness.iter().enumerate().filter_map(|(i, g)| g.map(|g| (i, g))).collect();
    known.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    known.into_iter().take(n).map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(over: &[&str]) -> Space {
        Space::read(&over.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap()
    }

    fn refused(over: &[&str]) -> String {
        Space::read(&over.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap_err().to_string()
    }

    fn values(choices: &[Choice], at: usize) -> Vec<f64> {
        choices.iter().map(|c| c[at].1.parse().unwrap()).collect()
    }

    #[test]
    fn a_grid_is_every_combination_once() {
        let s = space(&["lr=1e-3,3e-4, 0.0010", "--norm=pre,post", "dilations=1,4;1,2,4"]);
        let words: Vec<String> = s
            .grid()
            .unwrap()
            .iter()
            .map(|c| c.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(words.len(), 8);
        assert_eq!(words[0], "lr 0.001 norm pre dilations 1,4");
        assert_eq!(words[1], "lr 0.001 norm pre dilations 1,2,4");
        assert_eq!(words[7], "lr 0.0003 norm post dilations 1,2,4");
        assert_eq!(s.size(), Some(8));
        assert!(space(&["lr=0..1"]).grid().unwrap_err().to_string().contains("--random"));
        let many: Vec<String> = (0..101).map(|i| i.to_string()).collect();
        let s = space(&[&format!("width={}", many.join(",")), &format!("batch={}", many.join(","))]);
        assert!(s.grid().unwrap_err().to_string().contains("more than 10000"));
    }

    #[test]
    fn what_is_no_search_is_refused() {
        for (over, says) in [
            (vec!["dropuot=0.1"], "did you mean 'dropout'?"),
            (vec!["zzz=1"], "names of the flags"),
            (vec!["lr"], "no values are given"),
            (vec!["lr="], "a value is empty"),
            (vec!["lr=1,,2"], "a value is empty"),
            (vec!["lr=1", "lr=2"], "another --over"),
            (vec!["lr=1..x"], "'x' is not a number"),
            (vec!["lr=1..1"], "empty"),
            (vec!["lr=0..1:log"], "above 0"),
            (vec!["lr=0..1:ln"], "':ln' is not a kind of range"),
            (vec!["lr=0..inf"], "'inf' is not a number"),
            (vec!["width=1.5..4"], "'1.5' is not a whole number"),
            (vec!["width=-3..4"], "'-3' is not a whole number"),
            (vec!["norm=pre..post"], "norm is not a number"),
        ] {
            let said = refused(&over);
            assert!(said.contains(says), "{over:?}: {said}");
        }
    }

    #[test]
    fn draws_are_uniform_in_their_range() {
        let s = space(&["lr=1e-4..1e-2:log", "width=3..6", "dropout=0..0.5", "batch=1..8:log", "norm=pre,post"]);
        let n = 8000;
        let all: Vec<Choice> = (0..n).map(|k| s.draw(7, k)).collect();
        // Means of uniform numbers, within four standard errors.
        let near = |xs: &[f64], mean: f64, sd: f64| {
            let m = xs.iter().sum::<f64>() / xs.len() as f64;
            assert!((m - mean).abs() < 4.0 * sd / (xs.len() as f64).sqrt(), "{m} for {mean}");
        };
        let lr = values(&all, 0);
        assert!(lr.iter().all(|x| (1e-4..=1e-2).contains(x)));
        near(&lr.iter().map(|x| x.log10()).collect::<Vec<_>>(), -3.0, 2.0 / 12f64.sqrt());
        let dropout = values(&all, 2);
        assert!(dropout.iter().all(|x| (0.0..=0.5).contains(x)));
        near(&dropout, 0.25, 0.5 / 12f64.sqrt());
        // A tenth of the range has a tenth of the draws: chi-square of 9 degrees, 99.9 %.
        let mut tenths = [0f64; 10];
        dropout.iter().for_each(|x| tenths[((x * 20.0) as usize).min(9)] += 1.0);
        let expected = f64::from(n) / 10.0;
        let chi: f64 = tenths.iter().map(|t| (t - expected).powi(2) / expected).sum();
        assert!(chi < 27.9, "{chi}");
        let width = values(&all, 1);
        for w in 3..=6 {
            let share = width.iter().filter(|x| **x == f64::from(w)).count() as f64 / f64::from(n);
            assert!((share - 0.25).abs() < 4.0 * (0.25 * 0.75 / f64::from(n)).sqrt(), "{w}: {share}");
        }
        // Evenly in the logarithm: w has ln((w + 1/2) / (w - 1/2)) of ln(8.5 / 0.5).
        let batch = values(&all, 3);
        for w in 1..=8 {
            let p = ((f64::from(w) + 0.5) / (f64::from(w) - 0.5)).ln() / 17f64.ln();
            let share = batch.iter().filter(|x| **x == f64::from(w)).count() as f64 / f64::from(n);
            assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "{w}: {share} for {p}");
        }
        let pre = all.iter().filter(|c| c[4].1 == "pre").count() as f64 / f64::from(n);
        assert!((pre - 0.5).abs() < 0.03, "{pre}");
        // Settings are drawn independently: no correlation beyond four standard errors.
        let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
        let (a, b) = (lr.iter().map(|x| x.ln()).collect::<Vec<_>>(), dropout);
        let (ma, mb) = (mean(&a), mean(&b));
        let cov = a.iter().zip(&b).map(|(x, y)| (x - ma) * (y - mb)).sum::<f64>();
        let var = |xs: &[f64], m: f64| xs.iter().map(|x| (x - m).powi(2)).sum::<f64>();
        let r = cov / (var(&a, ma) * var(&b, mb)).sqrt();
        assert!(r.abs() < 4.0 / f64::from(n).sqrt(), "{r}");
    }

    #[test]
    fn a_trial_is_the_same_whatever_is_asked_beside_it() {
        let s = space(&["lr=1e-4..1e-2:log", "width=32,64"]);
        let (few, many) = (s.random(5, 3), s.random(50, 3));
        assert_eq!(few[..], many[..5]);
        assert_ne!(few, s.random(5, 4));
        // Another order, and one more setting.
        let other = space(&["dropout=0..0.5", "width=64,32", "lr=1e-4..1e-2:log"]).random(50, 3);
        assert!(many.iter().zip(&other).all(|(a, b)| a[0] == b[2]));
        // All combinations, once each.
        let s = space(&["width=1..3", "norm=pre,post"]);
        let all: HashSet<Choice> = s.random(100, 1).into_iter().collect();
        assert_eq!((all.len(), s.random(100, 1).len()), (6, 6));
        // Numbers that can be read.
        assert!(many.iter().all(|c| c[0].1.trim_start_matches("0.").trim_start_matches('0').len() <= 4), "{many:?}");
    }

    #[test]
    fn every_setting_has_a_place_of_its_own() {
        let all = toml::Table::try_from(Settings::default()).unwrap();
        let places: HashSet<u64> = all.keys().map(|name| place(name)).collect();
        assert_eq!(places.len(), all.len());
        assert_eq!(kind_of("lr").unwrap(), SettingKind::Real);
        assert_eq!(kind_of("checkpoint-seconds").unwrap(), SettingKind::Whole);
        assert_eq!(kind_of("projection").unwrap(), SettingKind::Word);
        assert_eq!(
            [plain(SettingKind::Real, "1e30"), plain(SettingKind::Real, "-0"), plain(SettingKind::Whole, "+08")],
            ["1e30", "0", "8"]
        );
    }

    #[test]
    fn halving_as_by_hand() {
        let told = |trials, epochs, eta| -> Vec<(usize, u32)> {
            rungs(trials, epochs, eta).iter().map(|r| (r.trials, r.epochs)).collect()
        };
        // The bracket s = 4 of Hyperband's Table 1 (Li et al. 2018).
        assert_eq!(told(81, 81, 3), [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]);
        assert_eq!(told(9, 81, 3), [(9, 9), (3, 27), (1, 81)]);
        assert_eq!(told(20, 40, 3), [(20, 4), (6, 13), (2, 40)]);
        assert_eq!(told(8, 4, 2), [(8, 1), (4, 2), (2, 4)]);
        assert_eq!(told(10, 100, 4), [(10, 25), (2, 100)]);
        assert_eq!(told(2, 100, 3), [(2, 100)]);
        assert_eq!(told(100, 1, 2), [(100, 1)]);
        let goodness = [Some(0.1), None, Some(0.3), Some(0.3), Some(-1.0)];
        assert_eq!(survivors(&goodness, 3), [2, 3, 0]);
        assert_eq!(survivors(&goodness, 9), [2, 3, 0, 4]);
    }
}
