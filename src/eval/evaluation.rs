//! The result of an evaluation, for both kinds of models.

use super::{RatingReport, Report};

/// An evaluation of a model on held-out events.
#[derive(Debug)]
pub enum Evaluation {
    /// Of a model that ranks items.
    Ranking(Box<Report>),
    /// Of a model that predicts ratings.
    Ratings(Box<RatingReport>),
}

impl Evaluation {
    /// As `report.json` of a run folder.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Evaluation::Ranking(report) => report.json(),
            Evaluation::Ratings(report) => report.json(),
        }
    }

    /// As tables for people.
    pub fn text(&self) -> String {
        match self {
            Evaluation::Ranking(report) => report.text(),
            Evaluation::Ratings(report) => report.text(),
        }
    }
}
