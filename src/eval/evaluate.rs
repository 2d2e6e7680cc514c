/*! Evaluation in one pass. Each user's history is encoded once, and its held-out items are ranked on the model's
device. Full ranking, sampled rankings, baselines and slices all come from the same pass.

Under full ranking, a user's candidates are the whole catalogue without the items of the history. Items of the history
remain candidates with [`EvalOptions::keep_seen`] and when baskets are evaluated, because people buy items repeatedly.
A held-out item that is also in the history is excluded like the rest of the history. No list can show it, so it is a
[`MISS`] of full ranking; sampled rankings compare it with their negatives. Candidates must not depend on what is held
out.
*/

use std::{borrow::Cow, collections::HashMap};

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use super::{
    Encoder, ItemMap, Query, Ranks,
    metrics::{MISS, Sums},
    negatives::{Sampler, Sampling, TooFew},
    personal::Personal,
    popularity::Popularity,
    rank::distinct,
    report::{Protocol, Ranking, Report, Sampled, Slice},
    slices::{self, Band},
};
use crate::{
    base::{Error, Result},
    data::{Dataset, Vocab, split::HeldOut},
};

/// What to measure, and how.
#[derive(Clone, Debug)]
pub struct EvalOptions<'a> {
    /// The k of the metrics, ascending.
    pub ks: Vec<usize>,
    /// Rank the items of the history too.
    pub keep_seen: bool,
    /// Exclude the validation events from the history that the test is predicted from.
    pub without_validation: bool,
    /// Also rank among this many negatives, drawn by each of `samplings`.
    pub negatives: usize,
    pub samplings: Vec<Sampling>,
    /// Also rank by popularity and, [for baskets](of_baskets), by the items that a user's earlier baskets contain most
    /// often.
    pub baseline: bool,
    pub slices: bool,
    /// Users encoded at a time.
    pub batch: usize,
    /// Seed of the negatives.
    pub seed: u64,
    /// From the data's items to the model's; `None` if both use the same ids.
    pub item_map: Option<&'a ItemMap>,
    /// The model's users, matched to those of the data by key; `None` if both use the same numbers or the model uses no
    /// users.
    pub users: Option<&'a Vocab>,
}

impl Default for EvalOptions<'_> {
    /// Full ranking at k = 10 only: what validation during training needs.
    fn default() -> Self {
        EvalOptions {
            ks: vec![10],
            keep_seen: false,
            without_validation: false,
            negatives: 0,
            samplings: Vec::new(),
            baseline: false,
            slices: false,
            batch: 256,
            seed: 0,
            item_map: None,
            users: None,
        }
    }
}

/// The result of one user; ranks are in the order of `targets`.
#[derive(Clone, Debug, PartialEq)]
pub struct UserResult {
    /// Index into the dataset.
    pub user: u32,
    /// Events in the history that the model knows.
    pub history: usize,
    /// The distinct held-out items, ids of the model, ascending.
    pub targets: Vec<u32>,
    pub ranks: Ranking<Vec<usize>>,
    /// Ranks among negatives, one entry per sampling; `None` if the user has too few items left to draw from.
    pub sampled: Vec<Option<Ranking<Vec<usize>>>>,
}

/// Evaluates `encoder` on a part of the data; see [`evaluate_each`].
///
/// # Errors
/// As [`evaluate_each`].
pub fn evaluate(
    encoder: &mut dyn Encoder,
    data: &Dataset,
    part: &dyn HeldOut,
    options: &EvalOptions<'_>,
) -> Result<Report> {
    evaluate_each(encoder, data, part, options, &mut |_| Ok(()))
}

/// One user as the model sees it.
struct Case<'d> {
    user: u32,
    history: Cow<'d, [u32]>,
    /// Events before the held-out part that the model knows; the history may be only the last basket of them.
    events: usize,
    targets: Vec<u32>,
    /// Items excluded from full ranking: ascending, distinct.
    excluded: Vec<u32>,
    /// Every item the user interacted with, held-out items included: none of them is a negative.
    known: FxHashSet<u32>,
    /// The personal baseline: for baskets, if baselines are requested.
    personal: Option<Personal>,
}

/// What to compute for every case.
#[derive(Clone, Copy)]
struct Wanted {
    /// Use the last basket alone as history.
    basket: bool,
    negatives: bool,
    personal: bool,
}

/// Returns whether baskets are evaluated: the split holds out baskets, or the model's input is the last basket alone.
/// Then items of the history are candidates, and each user's most frequent items are a baseline.
pub fn of_baskets(encoder: &dyn Encoder, part: &dyn HeldOut) -> bool {
    encoder.last_basket() || part.split().spec().repeats()
}

/// Evaluates `encoder` on a part of the data and passes every user's result to `each`, in the order of the data.
///
/// It keeps the lists of one batch of users in memory.
///
/// # Errors
/// k is 0 or larger than the catalogue. No user has as many items left as negatives are requested. There is no user to
/// evaluate. A score is NaN or infinite. Model and data do not match. `encoder` or `each` fails.
pub fn evaluate_each(
    encoder: &mut dyn Encoder,
    data: &Dataset,
    part: &dyn HeldOut,
    options: &EvalOptions<'_>,
    each: &mut dyn FnMut(&UserResult) -> Result<()>,
) -> Result<Report> {
    let catalogue = check(encoder, data, options)?;
    let basket = encoder.last_basket();
    let baskets = of_baskets(encoder, part);
    let options = &EvalOptions { keep_seen: options.keep_seen || baskets, ..options.clone() };
    let counts = match options.item_map {
        Some(map) => map.counts(part.split().train_counts()),
        None => part.split().train_counts().to_vec(),
    };
    let samplers: Vec<Sampler> = if options.negatives > 0 {
        options.samplings.iter().map(|s| Sampler::new(*s, &counts, options.seed)).collect()
    } else {
        Vec::new()
    };
    let wanted = Wanted { basket, negatives: !samplers.is_empty(), personal: options.baseline && baskets };
    let mut tally = Tally::new(options, wanted.personal, &counts);
    let popularity = options.baseline.then(|| Popularity::new(counts));

    let users = part.users();
    for users in users.chunks(options.batch) {
        let of = |user: &u32| case(data, part, options, wanted, *user);
        let cases: Vec<Case> = users.par_iter().map(of).collect();
        cases.iter().for_each(|c| tally.left_out(c));
        let cases: Vec<Case> = cases.into_iter().filter(|c| !c.history.is_empty() && !c.targets.is_empty()).collect();
        if cases.is_empty() {
            continue;
        }
        let draw =
            |c: &Case| -> Vec<_> { samplers.iter().map(|s| s.draw(c.user, options.negatives, &c.known)).collect() };
        let drawn: Vec<Vec<std::result::Result<Vec<u32>, TooFew>>> = cases.par_iter().map(draw).collect();
        drawn.iter().for_each(|of_user| tally.drawn(of_user));
        // A user with too few items left is ranked among none here and left out of the sampled ranking.
        let negatives: Vec<Vec<Vec<u32>>> =
            drawn.iter().map(|all| all.iter().map(|d| d.clone().unwrap_or_default()).collect()).collect();
        let queries: Vec<Query> = cases
            .iter()
            .zip(&negatives)
            .map(|(c, among)| Query {
                history: &c.history,
                user: match options.users {
                    Some(users) => users.find(data.user_keys().key(c.user as usize)),
                    None => Some(c.user),
                },
                excluded: &c.excluded,
                targets: &c.targets,
                among,
            })
            .collect();
        let user_key = |query: usize| data.user_keys().key(cases[query].user as usize);
        let whose = |query: usize| format!(" for user '{}'", user_key(query));
        let ranks = encoder.rank(&queries).map_err(|fault| fault.error(whose))?;

        let results: Vec<UserResult> = cases
            .par_iter()
            .zip(ranks)
            .zip(&negatives)
            .map(|((c, Ranks { full, among }), negatives)| {
                let popularity = popularity.as_ref();
                // The personal baseline needs popularity; it exists for baskets only.
                let personal = c.personal.as_ref().zip(popularity);
                let full_ranks =
                    |rank: &dyn Fn(u32) -> usize| c.miss_excluded(c.targets.iter().map(|t| rank(*t)).collect());
                let ranks = Ranking {
                    model: c.miss_excluded(full),
                    popularity: popularity.map(|p| full_ranks(&|t| p.rank(t, &c.excluded))),
                    personal: personal.map(|(own, p)| full_ranks(&|t| own.rank(t, &c.excluded, p))),
                };
                let beside = |(model, n): (Vec<usize>, &Vec<u32>)| {
                    (n.len() == options.negatives).then(|| Ranking {
                        model,
                        popularity: popularity.map(|p| p.ranks_among(&c.targets, n)),
                        personal: personal.map(|(own, p)| own.ranks_among(&c.targets, n, p)),
                    })
                };
                UserResult {
                    user: c.user,
                    history: c.events,
                    targets: c.targets.clone(),
                    ranks,
                    sampled: among.into_iter().zip(negatives).map(beside).collect(),
                }
            })
            .collect();
        // The sums are added in the order of the users, so they do not depend on the threads.
        for result in results {
            tally.add(&result);
            each(&result)?;
        }
    }
    let mut report = tally.report(data, part, options, catalogue)?;
    if basket {
        report.protocol.history = "the last basket before the held-out one";
    } else if options.without_validation {
        report.protocol.history = "the training part";
    }
    Ok(report)
}

/// Checks the options against model and data before anything is computed; returns the catalogue size.
fn check(encoder: &dyn Encoder, data: &Dataset, options: &EvalOptions<'_>) -> Result<usize> {
    let catalogue = encoder.items();
    let items = options.item_map.map_or(data.items(), |m| m.catalogue);
    if items != catalogue {
        return Err(Error::user(format!("the model has {catalogue} items, the data {items}"))
            .hint("evaluate on the data the model was trained on, or let the items be matched by key"));
    }
    check_ks(&options.ks, catalogue)?;
    if options.negatives > catalogue {
        return Err(Error::user(format!("{} negatives, but the catalogue has {catalogue} items", options.negatives))
            .hint("set --negatives to a smaller number"));
    }
    if options.batch == 0 {
        return Err(Error::user("a batch of 0 users").hint("set --batch to at least 1"));
    }
    Ok(catalogue)
}

/// Checks that there is at least one k and that each lies between 1 and the catalogue size.
///
/// # Errors
/// There is no k, or one lies outside that range.
pub fn check_ks(ks: &[usize], catalogue: usize) -> Result<()> {
    if ks.is_empty() {
        return Err(Error::user("--k is empty").hint("give at least one list length, such as --k 10"));
    }
    if ks.contains(&0) {
        return Err(Error::user("--k 0 is out of range").hint("a list has at least 1 item"));
    }
    match ks.iter().find(|k| **k > catalogue) {
        Some(k) => Err(Error::user(format!("k = {k} is more than the {catalogue} items of the catalogue"))
            .hint(format!("set --k to at most {catalogue}"))),
        None => Ok(()),
    }
}

fn case<'d>(data: &'d Dataset, part: &dyn HeldOut, options: &EvalOptions<'_>, wanted: Wanted, user: u32) -> Case<'d> {
    let all = data.items_of(user as usize);
    let held = part.held_out(user as usize);
    let map = |items: &'d [u32]| options.item_map.map_or(Cow::Borrowed(items), |m| m.sequence(items));
    // The history ends where the held-out events begin: it contains nothing after them.
    let end = if options.without_validation { part.split().train().len_of(user as usize) } else { held.start };
    let before = &all[..end.min(held.start)];
    let history = map(if wanted.basket { data.last_basket_of(user as usize, before.len()) } else { before });
    Case {
        user,
        events: if wanted.basket { map(before).len() } else { history.len() },
        excluded: if options.keep_seen { Vec::new() } else { distinct(&history) },
        history,
        personal: wanted
            .personal
            .then(|| Personal::new(data.baskets_before(user as usize, held.start).map(|basket| map(&all[basket])))),
        targets: distinct(&map(&all[held])),
        known: if wanted.negatives { map(all).iter().copied().collect() } else { FxHashSet::default() },
    }
}

impl Case<'_> {
    /// Replaces the ranks of excluded targets with misses.
    fn miss_excluded(&self, mut ranks: Vec<usize>) -> Vec<usize> {
        for (rank, target) in ranks.iter_mut().zip(&self.targets) {
            if self.excluded.binary_search(target).is_ok() {
                *rank = MISS;
            }
        }
        ranks
    }
}

/// Reports that no user has as many items left as negatives are requested.
fn too_few(sampling: Sampling, most: usize, n: usize) -> Error {
    let among = match sampling {
        Sampling::Uniform => "items",
        Sampling::Popularity => "items that occur in training",
    };
    let hint = match most {
        0 => "omit --negatives: full ranking needs none".to_string(),
        most => format!("set --negatives to at most {most}"),
    };
    Error::user(format!("{n} negatives requested, but no user has more than {most} {among} left to draw from"))
        .hint(hint)
}

/// Running sums of a report.
struct Tally {
    full: Ranking<Sums>,
    sampled: Vec<Among>,
    history: Vec<Ranking<Sums>>,
    bands: Vec<Band>,
    by_band: Vec<Ranking<Sums>>,
    unknown_targets: usize,
    unknown_history: usize,
    /// Held-out items that are misses because they are in their history.
    seen: usize,
}

/// Running sums of a sampled ranking.
struct Among {
    sampling: Sampling,
    sums: Ranking<Sums>,
    /// Users with too few items left, and the largest number of items that one of them has left.
    left_out: u64,
    most: usize,
}

impl Tally {
    fn new(options: &EvalOptions<'_>, personal: bool, counts: &[u32]) -> Tally {
        let sums = |ks: &[usize]| Ranking {
            model: Sums::new(ks),
            popularity: options.baseline.then(|| Sums::new(ks)),
            personal: personal.then(|| Sums::new(ks)),
        };
        // Among n negatives every rank is at most n + 1 (for one target): k > n would give a perfect score to any
        // model.
        let ks: Vec<usize> = options.ks.iter().copied().filter(|k| *k <= options.negatives).collect();
        let samplings: &[Sampling] = if options.negatives > 0 { &options.samplings } else { &[] };
        Tally {
            full: sums(&options.ks),
            sampled: samplings.iter().map(|s| Among { sampling: *s, sums: sums(&ks), left_out: 0, most: 0 }).collect(),
            history: vec![sums(&options.ks); slices::HISTORY_FROM.len()],
            bands: if options.slices { slices::bands(counts) } else { Vec::new() },
            by_band: vec![sums(&options.ks); Band::ALL.len()],
            unknown_targets: 0,
            unknown_history: 0,
            seen: 0,
        }
    }

    fn left_out(&mut self, case: &Case) {
        if case.targets.is_empty() {
            self.unknown_targets += 1;
        } else if case.history.is_empty() {
            self.unknown_history += 1;
        }
    }

    /// Counts what was drawn for a user, one entry per sampling.
    fn drawn(&mut self, drawn: &[std::result::Result<Vec<u32>, TooFew>]) {
        for (among, drawn) in self.sampled.iter_mut().zip(drawn) {
            if let Err(few) = drawn {
                among.left_out += 1;
                among.most = among.most.max(few.available);
            }
        }
    }

    fn add(&mut self, user: &UserResult) {
        self.full.add(&user.ranks);
        self.seen += user.ranks.model.iter().filter(|r| **r == MISS).count();
        for (among, ranks) in self.sampled.iter_mut().zip(&user.sampled) {
            ranks.iter().for_each(|ranks| among.sums.add(ranks));
        }
        if self.bands.is_empty() {
            return;
        }
        self.history[slices::history_slice(user.history)].add(&user.ranks);
        for (t, target) in user.targets.iter().enumerate() {
            self.by_band[self.bands[*target as usize] as usize].add(&user.ranks.map(|ranks| vec![ranks[t]]));
        }
    }

    fn report(self, data: &Dataset, part: &dyn HeldOut, options: &EvalOptions<'_>, catalogue: usize) -> Result<Report> {
        if self.full.model.is_empty() {
            return Err(Error::user(format!(
                "empty split: no user has a {} item to rank and a history before it",
                part.name()
            ))
            .hint(match self.unknown_targets + self.unknown_history {
                0 => "hold out fewer events, or move the cut of a time split",
                _ => "the model knows none of them: use the data it was trained on, or data with the same item keys",
            }));
        }
        if let Some(among) = self.sampled.iter().find(|among| among.sums.model.is_empty()) {
            return Err(too_few(among.sampling, among.most, options.negatives));
        }
        let slice = |name: String, items: Option<usize>, sums: &Ranking<Sums>| {
            (!sums.model.is_empty()).then(|| Slice { name, items, ranking: sums.map(Sums::means) })
        };
        let mut band_sizes: HashMap<usize, usize> = HashMap::new();
        self.bands.iter().for_each(|b| *band_sizes.entry(*b as usize).or_default() += 1);
        let full = self.full.map(Sums::means);
        Ok(Report {
            protocol: Protocol {
                part: part.name(),
                split: part.split().spec(),
                summary: part.split().summary().clone(),
                history: part.history_words(),
                keep_seen: options.keep_seen,
                ties: "against the model",
                catalogue,
                data_users: data.users(),
                users: full.model.cases,
                left_out_unknown_items: self.unknown_targets,
                left_out_unknown_history: self.unknown_history,
                seen_held_out: self.seen,
                unknown_items: options.item_map.map_or(0, ItemMap::unknown),
                negatives: options.negatives,
                seed: options.seed,
            },
            full,
            sampled: self
                .sampled
                .iter()
                .map(|among| Sampled {
                    sampling: among.sampling,
                    negatives: options.negatives,
                    left_out: among.left_out,
                    ranking: among.sums.map(Sums::means),
                })
                .collect(),
            by_history: self
                .history
                .iter()
                .enumerate()
                .filter_map(|(i, sums)| slice(slices::history_name(i), None, sums))
                .collect(),
            by_popularity: Band::ALL
                .iter()
                .zip(&self.by_band)
                .filter_map(|(b, sums)| slice(b.name().into(), band_sizes.get(&(*b as usize)).copied(), sums))
                .collect(),
        })
    }
}
