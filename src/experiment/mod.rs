/*! Experiments: many runs that answer one question, as a grid that is data.

[`grid`] reads what is to be compared (TOML), [`jobs`] runs it, each run a process of its own, as many at a time as the machine
bears, and goes on where it was stopped; [`results`] holds what came out and the tests on it; [`collect`] computes it from the
files of users, [`text`] and [`html`] show it.
[`space`] is what a search of settings chooses from, [`trials`] what came of it.
*/

pub mod collect;
mod figures;
pub mod grid;
pub mod html;
pub mod job;
pub mod jobs;
pub mod metric;
mod notices;
mod overlay;
mod reason;
pub mod record;
pub mod results;
#[cfg(test)]
mod sample;
mod section;
pub mod space;
pub mod text;
pub mod trials;
mod typos;
pub mod words;
