/*! Experiments: many runs that answer one question, described by a grid file.

| module | contents |
|---|---|
| [`grid`] | the TOML file that describes the runs and comparisons |
| [`jobs`] | runs each job as a separate process, in parallel as far as the machine allows, and resumes stopped ones |
| [`collect`] | computes results from the files with the results of each user |
| [`results`] | results and tests |
| [`text`], [`html`] | reports |
| [`space`] | the search space of `mipgpu search` |
| [`trials`] | the trials of a search |
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
