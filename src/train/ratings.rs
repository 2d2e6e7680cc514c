//! The rating scale of the data, which must be known before a run is planned.

use std::collections::BTreeSet;

use crate::{
    base::{Error, Result},
    data::{Dataset, split::Split},
    layers::RatingScale,
};

/// Returns the scale of the ratings of `data`: the levels of all events, and the mean of the training events.
/// If there are more than [`RatingScale::MOST`] different ratings, they are rounded to that many equal steps
/// from the smallest to the largest.
///
/// # Errors
/// There are no ratings, or only one value.
pub fn scale_of(data: &Dataset, split: &Split) -> Result<RatingScale> {
    let place = || data.dir().display().to_string();
    // As bits: numbers of one sign are ordered as their bits, and a set needs no other order.
    let mut different = BTreeSet::new();
    let (mut least, mut greatest) = (f32::INFINITY, f32::NEG_INFINITY);
    let (mut sum, mut n) = (0.0f64, 0u64);
    for user in 0..data.users() {
        let ratings = data.ratings_of(user).ok_or_else(|| none_in(&place()))?;
        for rating in ratings {
            (least, greatest) = (least.min(*rating), greatest.max(*rating));
            if different.len() <= RatingScale::MOST {
                // 0 and -0 are the same rating.
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

/// Returns the scale of a run that starts from one with the scale `base`: the base's classes, and the mean of
/// the new data.
///
/// # Errors
/// The data have ratings for which the base has no class.
pub fn scale_after(base: &RatingScale, new: RatingScale) -> Result<RatingScale> {
    let ((low, high), (least, greatest)) = (base.range(), new.range());
    let missing = new.levels.iter().find(|r| base.levels.len() < RatingScale::MOST && !base.levels.contains(r));
    if let Some(rating) = missing.or((least < low).then_some(&least)).or((greatest > high).then_some(&greatest)) {
        return Err(Error::user(format!(
            "the data have the rating {rating}, which is not a rating of the base: {low} to {high} in {} \
             levels",
            base.levels.len()
        ))
        .hint("convert the ratings to the base's scale before the import, or use --transfer embedding or none"));
    }
    Ok(RatingScale { levels: base.levels.clone(), mean: new.mean })
}

fn none_in(place: &str) -> Error {
    Error::user(format!("{place}: the data have no ratings")).hint(
        "import the log with the column that holds them (--rating-col), or predict the next item: --model bert4rec \
             --task masked-item",
    )
}

/// The error of a rating task without a scale.
pub(super) fn none(task: &str) -> Error {
    Error::user(format!("--task {task} needs ratings, and none are known"))
        .hint("give data that were imported with a column of ratings (--rating-col)")
}

/// The error of a model of another task that is queried for ratings.
pub(super) fn no_model(task: &str) -> Error {
    Error::user(format!("a model trained by {task} predicts no ratings")).hint("train one with --task rating")
}
