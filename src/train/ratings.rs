//! What a run must know of its data's ratings before it is planned.

use std::collections::BTreeSet;

use crate::{
    base::{Error, Result},
    data::{Dataset, split::Split},
    layers::RatingScale,
};

/// The scale of the ratings of `data`: levels of all events, the mean of those that train. More than
/// [`RatingScale::MOST`] different ratings are told apart no further than so many even steps from the least to the greatest.
///
/// # Errors
/// There are no ratings, or but one.
pub fn scale_of(data: &Dataset, split: &Split) -> Result<RatingScale> {
    let place = || data.dir().display().to_string();
    // By their bits: numbers of one sign are in the order of these, and a set needs no more.
    let mut different = BTreeSet::new();
    let (mut least, mut greatest) = (f32::INFINITY, f32::NEG_INFINITY);
    let (mut sum, mut n) = (0.0f64, 0u64);
    for user in 0..data.users() {
        let ratings = data.ratings_of(user).ok_or_else(|| none_in(&place()))?;
        for rating in ratings {
            (least, greatest) = (least.min(*rating), greatest.max(*rating));
            if different.len() <= RatingScale::MOST {
                // 0 and -0 are one rating.
                different.insert((rating + 0.0).to_bits());
            }
        }
        let train = &ratings[..split.train().len_of(user)];
        sum += train.iter().map(|r| *r as f64).sum::<f64>();
        n += train.len() as u64;
    }
    if different.len() < 2 {
        return Err(Error::user(format!("{}: all ratings are {least}: there is nothing to predict", place()))
            .hint("import the log with the column that holds the ratings: --rating-col"));
    }
    let mut levels: Vec<f32> = different.iter().map(|bits| f32::from_bits(*bits)).collect();
    levels.sort_by(f32::total_cmp);
    if levels.len() > RatingScale::MOST {
        let step = (greatest as f64 - least as f64) / (RatingScale::MOST - 1) as f64;
        levels = (0..RatingScale::MOST).map(|i| (least as f64 + i as f64 * step) as f32).collect();
    }
    Ok(RatingScale { levels, mean: (sum / n.max(1) as f64) as f32 })
}

/// The scale for a run that goes on from one of `base`: its classes, and the mean of the new data.
///
/// # Errors
/// The data have ratings that the base has no class for.
pub fn scale_after(base: &RatingScale, new: RatingScale) -> Result<RatingScale> {
    let ((low, high), (least, greatest)) = (base.range(), new.range());
    let missing = new.levels.iter().find(|r| base.levels.len() < RatingScale::MOST && !base.levels.contains(r));
    if let Some(rating) = missing.or((least < low).then_some(&least)).or((greatest > high).then_some(&greatest)) {
        return Err(Error::user(format!(
            "the data have the rating {rating}, which the base does not know: its ratings go from {low} to {high} in {} levels",
            base.levels.len()
        ))
        .hint("bring the ratings to the base's scale before the import, or use --transfer embedding or none"));
    }
    Ok(RatingScale { levels: base.levels.clone(), mean: new.mean })
}

fn none_in(place: &str) -> Error {
    Error::user(format!("{place}: the data have no ratings")).hint(
        "import the log with the column that holds them (--rating-col), or learn what comes next: --model bert4rec \
             --task masked-item",
    )
}

/// A task of ratings that nobody told the scale.
pub(super) fn none(task: &str) -> Error {
    Error::user(format!("--task {task} needs ratings, and none are known"))
        .hint("give data that were imported with a column of ratings (--rating-col)")
}

/// A model of another task, asked for ratings.
pub(super) fn no_model(task: &str) -> Error {
    Error::user(format!("a model trained by {task} predicts no ratings")).hint("train one with --task rating")
}
