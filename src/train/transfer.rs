/*! Transfer of tensors from a base run to a new run. Tables are copied row by row: a row is copied if both runs have
its key (an item, a user, or a value of a field).

| transfer | copied | trained |
|---|---|---|
| none | nothing | all |
| embedding | tables of items (in and out), users, fields and positions | all |
| model | every tensor | all |
| patch | every tensor | patches, and each table (items, users, fields) that has new rows |

The first three are from Zeng et al. 2021, patches from Yuan et al. 2020. Rows that the base does not have are
initialised fresh. The checkpoints of a patched run hold the trained tensors and the fingerprint of the base checkpoint,
which holds the rest. A run that starts from a patched run copies its patches too.

What the new run adds between the tables and blocks of its base (users, fields, ratings) starts at zero
contribution: see `train/columns.rs`.
*/

use serde::Serialize;

pub use super::base::{Base, check_base, check_plans};
use super::{
    base::{Known, find, keys_of, left_behind, open_origin},
    columns::{Columns, Place, added, beginning, laid_out, named_columns},
    engine::Engine,
    fresh::{Start, group},
    origin::{Origin, Rows, rows_of},
    side_tables::SideTables,
};
use crate::{
    base::Result,
    data::{ItemFields, Vocab},
    mem::Param,
};

/// Reports how a parameter was initialised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Carried {
    pub name: String,
    pub shape: Vec<usize>,
    /// Number of copied rows; all other rows are fresh.
    pub rows: usize,
    /// Number of all rows; 0 for a parameter of the base that the new run does not have.
    pub of: usize,
    pub frozen: bool,
    /// How the parameter or some of its columns start if not at random, so that the network starts equal to its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins: Option<String>,
}

/// The keys of a new run's rows.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub items: &'a Vocab,
    pub side_tables: &'a SideTables,
    /// The side fields of the data, from which rows of new items may be initialised.
    pub content: Option<&'a ItemFields>,
}

/// Copies tensors of `base` into the freshly initialised parameters of `engine` that `only` selects, and reports each
/// parameter.
///
/// # Errors
/// A tensor has another shape, or the base lacks a frozen parameter.
pub fn carry(
    engine: &mut Engine,
    base: &mut Base,
    origin: &Origin,
    keys: Keys<'_>,
    only: impl Fn(&Param) -> bool,
) -> Result<Vec<Carried>> {
    let params: Vec<Param> = engine.params().to_vec();
    let path = base.folder.path.display().to_string();
    let mut all = Vec::new();
    for p in params.iter().filter(|p| only(p)).cloned() {
        let columns = named_columns(&p, engine.settings());
        let found = find(&path, &base.known, (&p, &columns), origin.transfer)?.cloned();
        let (rows, begins) = match found {
            Some(known) => take(engine, base, origin, keys, (&p, &columns), &known)?,
            None if origin.transfer.layers() && !columns.is_empty() => {
                engine.backend.write(p.w.raw(), &beginning(p.shape[0], &columns));
                (0, Some("at zero: the network starts equal to its base".to_string()))
            }
            None => (0, None),
        };
        all.push(Carried { name: p.name, rows, of: p.shape[0], shape: p.shape, frozen: p.frozen, begins });
    }
    let behind = left_behind(&base.known, &params, origin.transfer);
    all.extend(behind.map(|k| Carried {
        name: k.name.clone(),
        shape: k.shape.clone(),
        rows: 0,
        of: 0,
        frozen: false,
        begins: None,
    }));
    engine.backend.sync()?;
    Ok(all)
}

/// Copies one parameter. Returns the number of copied rows and how new columns start.
fn take(
    engine: &mut Engine,
    base: &mut Base,
    origin: &Origin,
    keys: Keys<'_>,
    (p, columns): (&Param, &Columns),
    known: &Known,
) -> Result<(usize, Option<String>)> {
    let values = laid_out(base.weight(&p.name)?, columns, &known.columns);
    let new = added(columns, &known.columns);
    let count: usize = new.iter().map(std::ops::Range::len).sum();
    let begins = (count > 0).then(|| format!("{count} new columns at zero"));
    let kind = rows_of(&p.name);
    if kind == Rows::Whole {
        engine.backend.write(p.w.raw(), &values);
        return Ok((p.shape[0], begins));
    }
    let none = Vocab::from_keys(Vec::<String>::new());
    let mine = keys_of(kind, keys.items, keys.side_tables).unwrap_or(&none);
    let theirs = keys_of(kind, &base.items, &base.side_tables).unwrap_or(&none);
    let d: usize = p.shape[1..].iter().product();
    let place = Place::new(Some(mine), Some(theirs), known.shape[0]);
    let start = Start::new(kind, origin.fresh_rows, keys.content, &values, d, mine, theirs);
    // In pieces, because a table may exceed the free memory.
    let piece = ((1 << 22) / d.max(1)).max(1);
    let mut rows = Vec::new();
    for first in (0..p.shape[0]).step_by(piece) {
        let n = piece.min(p.shape[0] - first);
        let span = p.w.slice(first * d, n * d).raw();
        rows.resize(n * d, 0.0);
        engine.backend.read(span, &mut rows);
        for (i, row) in rows.chunks_exact_mut(d).enumerate() {
            match place.of(first + i) {
                Some(from) => row.copy_from_slice(&values[from * d..][..d]),
                None if first + i < mine.len() => start.add_to(row, first + i, group(kind, mine.key(first + i))),
                None => {}
            }
            new.iter().for_each(|columns| row[columns.clone()].fill(0.0));
        }
        engine.backend.write(span, &rows);
    }
    Ok(((0..p.shape[0]).filter(|i| place.of(*i).is_some()).count(), begins))
}

/// Reads the frozen parameters of a patched run from its base.
///
/// # Errors
/// The base is missing, or is not the one that the patches were trained on.
pub fn complete(engine: &mut Engine, origin: &Origin, keys: Keys<'_>) -> Result<()> {
    let mut base = open_origin(origin)?;
    carry(engine, &mut base, origin, keys, |p| p.frozen).map(|_| ())
}
