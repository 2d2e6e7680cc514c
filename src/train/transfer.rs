/*! What a run takes over from another one: which tensors, row by row where their rows belong to items, users or values that
both runs know by the same key.

| transfer | taken over | trained |
|---|---|---|
| none | nothing | all |
| embedding | tables of items (in and out), users, fields and positions | all |
| model | every tensor | all |
| patch | every tensor | patches, and each table (items, users, fields) that has new rows |

(Zeng et al. 2021 for the first three, Yuan et al. 2020 for patches.) Rows that the base does not know start fresh. The
checkpoints of a patched run hold what is trained, and the fingerprint of the checkpoint that completes them.
*/

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{self, Opened},
    engine::Engine,
    folder::{RunConfig, RunFolder},
    freeze::Freeze,
    fresh::{FreshRows, Start, group},
    settings::Settings,
    sides::Sides,
    trained::Which,
};
use crate::{
    backend::Cpu,
    base::{Error, Result},
    data::{Dataset, ItemField, ItemFields, Vocab, digits, number_twin},
    layers::{Facts, Patch, View},
    mem::Param,
    ops::Backend,
};

/// What is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Nothing: the same network, to compare with.
    None,
    /// Tables: items, users, fields, positions.
    Embedding,
    /// Every tensor; all are trained on.
    Model,
    /// Every tensor, frozen; small patches are trained in their stead.
    Patch,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transfer::None => "none",
            Transfer::Embedding => "embedding",
            Transfer::Model => "model",
            Transfer::Patch => "patch",
        })
    }
}

/// Where a run comes from (`[from]` of its config.toml).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Folder of the base run.
    pub run: PathBuf,
    /// Which of its checkpoints.
    pub checkpoint: Which,
    /// SHA-256 of that checkpoint.
    pub sha256: String,
    pub transfer: Transfer,
    #[serde(alias = "fresh_items")]
    pub fresh_rows: FreshRows,
}

/// What became of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Carried {
    pub name: String,
    pub shape: Vec<usize>,
    /// Rows taken over; all other ones are fresh.
    pub rows: usize,
    /// Rows in all; 0 of what the base has and the new run has no place for.
    pub of: usize,
    pub frozen: bool,
}

/// A base run, opened.
#[derive(Debug)]
pub struct Base {
    folder: RunFolder,
    pub config: RunConfig,
    pub items: Vocab,
    sides: Sides,
    file: Opened,
}

impl Base {
    /// # Errors
    /// No run is there, it has no such checkpoint, or it is itself patched.
    pub fn open(run: &Path, which: Which) -> Result<Base> {
        let folder = RunFolder::new(run);
        let config = folder.config()?;
        let path = folder.checkpoint(which)?;
        let file = checkpoint::open(&path)?;
        if let Some(origin) = config.from.as_ref().filter(|_| file.base().is_some()) {
            let what =
                format!("{}: the run is complete with another one alone, which holds its frozen parts", run.display());
            return Err(Error::user(what).hint(format!("start from its base: --from {}", origin.run.display())));
        }
        if file.lags() {
            return Err(Error::user(format!(
                "{}: rows of this checkpoint's table stand at earlier steps than the rest (its run updates tables by rows)",
                path.display()
            ))
            .hint("take its best checkpoint: leave --last out"));
        }
        let items = Vocab::open(&folder.items())?;
        let sides = Sides::open(&config.settings, &folder, items.len())?;
        if file.vocabulary() != sides.fingerprint(&items) {
            return Err(Error::user(format!("{}: the checkpoint belongs to another vocabulary", path.display()))
                .hint("a checkpoint only fits the run folder it was written in, with that folder's keys"));
        }
        Ok(Base { folder, config, items, sides, file })
    }

    /// SHA-256 of the checkpoint.
    pub fn sha256(&self) -> &str {
        self.file.sha256()
    }

    /// In words: how many items of `data` it knows, and users, if it knows any.
    pub fn shared(&self, data: &Dataset) -> String {
        let count = |what: &str, mine: &Vocab, theirs: &Vocab| {
            let both = mine.keys().filter(|key| theirs.find(key).is_some()).count();
            let [both, all, gone] = [both, mine.len(), theirs.len() - both].map(|n| digits(n as u64));
            format!("{both} of {all} {what} known to the base; {gone} of its own are not in the data")
        };
        let mut words = count("items", data.item_keys(), &self.items);
        if let Some(users) = &self.sides.users {
            words += &format!(" · {}", count("users", data.user_keys(), users));
        }
        words
    }

    /// A warning where keys of `data` are unknown to the base and the same whole numbers in their other form (3 and 3.0) are
    /// not.
    pub fn other_forms(&self, data: &Dataset) -> Option<String> {
        let count = |mine: &Vocab, theirs: &Vocab| {
            let twin = |key: &str| String::from_utf8(number_twin(key.as_bytes())?).ok();
            let other = |key: &&str| theirs.find(key).is_none() && twin(key).is_some_and(|t| theirs.find(&t).is_some());
            mine.keys().filter(other).count()
        };
        let items = count(data.item_keys(), &self.items);
        let users = self.sides.users.as_ref().map_or(0, |users| count(data.user_keys(), users));
        let parts: Vec<String> = [(items, "items"), (users, "users")]
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", digits(n as u64)))
            .collect();
        (!parts.is_empty()).then(|| {
            format!(
                "{} of the data are known to the base in the other form of a whole number (3 for 3.0, or 3.0 for 3), and are \
                 taken for new ones: import the data whose keys end in .0 again with --whole-keys",
                parts.join(" and ")
            )
        })
    }

    /// What patches leave as it is: the network, and each table of whose rows in `data` it knows all. Tables that `settings`
    /// do not ask for have none.
    pub fn freezes(&self, data: &Dataset, settings: &Settings) -> Freeze {
        let all = |mine: &Vocab, theirs: Option<&Vocab>| {
            mine.keys().all(|key| theirs.is_some_and(|theirs| theirs.find(key).is_some()))
        };
        let known = |field: &ItemField<'_>| {
            let key = |id| format!("{}\t{}", field.name(), field.value(id));
            (0..field.values()).all(|id| self.sides.values.as_ref().is_some_and(|v| v.find(&key(id)).is_some()))
        };
        let named = settings.field_names();
        let items = all(data.item_keys(), Some(&self.items));
        // Of tables that are not there all rows are known, but there is nothing to freeze.
        let has = (settings.user_width > 0, !named.is_empty());
        let users = all(data.user_keys(), self.sides.users.as_ref());
        let fields = data.item_fields().iter().filter(|f| named.contains(&f.name())).all(|f| known(&f));
        if items && (users || !has.0) && (fields || !has.1) {
            return Freeze::ALL;
        }
        Freeze { network: true, items, users: users && has.0, fields: fields && has.1 }
    }

    /// Whether a network of `settings` can take over its layers.
    ///
    /// # Errors
    /// It is of another architecture: another model, or one of the same shapes that computes something else.
    pub fn check_model(&self, settings: &Settings, transfer: Transfer) -> Result<()> {
        let (path, known) = (self.folder.path.display().to_string(), self.file.weights());
        check_model(&path, (&self.config.settings, &known), settings, transfer)
    }

    /// Whether what is taken over fits a run of `settings` on `data`.
    ///
    /// # Errors
    /// Names the first tensor that does not fit, or that would be frozen and is not there, or that a patched network would
    /// lack; no user of the data is known where the base's users are wanted.
    pub fn check(&self, settings: &Settings, facts: &Facts, data: &Dataset, transfer: Transfer) -> Result<()> {
        let known = self.file.weights();
        let params = Engine::<Cpu>::parameters(settings, facts)?;
        let path = self.folder.path.display().to_string();
        for p in &params {
            let found =
                find(&path, &known, p, transfer).map_err(|e| unlike(e, &self.config.settings, settings, transfer))?;
            if found.is_some() && rows_of(&p.name) == Rows::Users {
                let theirs = self.sides.users.as_ref();
                if !data.user_keys().keys().any(|key| theirs.is_some_and(|t| t.find(key).is_some())) {
                    return Err(Error::user(format!(
                        "no user of the new data is known to the base, which has {}",
                        theirs.map_or(0, Vocab::len)
                    ))
                    .hint("user vectors are matched by key: give both data sets the same keys, or start without them: --user-width 0 (caser, mlp: --transfer none)"));
                }
            }
        }
        let missed = left_behind(&known, &params, transfer).find(|(name, _)| !name.contains(".head."));
        if let (Transfer::Patch, Some((name, _))) = (transfer, missed) {
            let what =
                format!("{}: the base has '{name}', the new run has no place for it", self.folder.path.display());
            return Err(Error::user(what).hint(
                "patches stand on the whole network: leave out what shapes it, or use --transfer model, which trains it anew",
            ));
        }
        Ok(())
    }
}

/// Whether a network of `settings` can take over the layers of one of `base`'s; `path`: who that is.
///
/// # Errors
/// It is of another architecture: another model, or one of the same shapes that computes something else.
fn check_model(
    path: &str,
    (base, known): (&Settings, &[(String, Vec<usize>)]),
    settings: &Settings,
    transfer: Transfer,
) -> Result<()> {
    if transfer == Transfer::Embedding && base.width != settings.width {
        return Err(Error::user(format!("the base has width {}, the new run {}", base.width, settings.width))
            .hint("leave --width out"));
    }
    if !matches!(transfer, Transfer::Model | Transfer::Patch) {
        return Ok(());
    }
    let tables = "or carry over tables alone with --transfer embedding";
    if base.model != settings.model {
        return Err(Error::user(format!(
            "{path}: the base is a {}, the new run a {}: their layers do not fit",
            base.model, settings.model
        ))
        .hint(format!("leave --model out, {tables}")));
    }
    // What no tensor's shape tells.
    let of = |s: &Settings| {
        [
            ("blocks", s.blocks.to_string()),
            ("heads", s.heads.to_string()),
            ("norm", format!("{:?}", s.norm).to_lowercase()),
            ("dilations", String::from(s.dilations.clone())),
            ("projection", s.projection.to_string()),
        ]
    };
    for ((name, theirs), (_, mine)) in of(base).into_iter().zip(of(settings)) {
        // What the model does not listen to makes no difference.
        if theirs != mine && settings.find()?.0.uses.contains(&name) {
            return Err(Error::user(format!("{path}: the base has --{name} {theirs}, the new run {mine}"))
                .hint(format!("leave --{name} out: its layers were trained so; {tables}")));
        }
    }
    let (theirs, mine) = (base.field_names(), settings.field_names());
    let beside = !theirs.is_empty() && !mine.is_empty();
    if beside && theirs != mine {
        let (theirs, mine) = (theirs.join(","), mine.join(","));
        return Err(Error::user(format!("{path}: the base has --fields {theirs}, the new run {mine}"))
            .hint(format!("fields stand side by side in their order: give --fields {theirs}, {tables}")));
    }
    if known.iter().any(|(name, _)| name == "side.weight") && base.join != settings.join {
        return Err(Error::user(format!("{path}: the base and the new run differ in --join")).hint("leave it out"));
    }
    let ((_, theirs), (_, mine)) = (base.find()?, settings.find()?);
    if transfer == Transfer::Patch && theirs.view != mine.view {
        return Err(Error::user(format!(
            "{path}: the base was trained for {}, where a row sees {}, the new run for {}: frozen layers would see \
                 what they were not trained for",
            theirs.name,
            if theirs.view == View::Both { "both sides" } else { "the past alone" },
            mine.name
        ))
        .hint(format!("leave --task out, or train the layers on with --transfer model, {tables}")));
    }
    Ok(())
}

/// The shape that a parameter has in the base, where it is taken over.
fn find<'k>(
    path: &str,
    known: &'k [(String, Vec<usize>)],
    p: &Param,
    transfer: Transfer,
) -> Result<Option<&'k [usize]>> {
    let found = known.iter().find(|(name, _)| *name == p.name).filter(|_| wanted(&p.name, transfer));
    let Some((_, shape)) = found else {
        if p.frozen && !p.name.contains(Patch::NAME) {
            let what = format!("{path}: the base has no '{}', which would be frozen", p.name);
            return Err(Error::user(what).hint("use --transfer model, which trains what is new"));
        }
        return Ok(None);
    };
    let whole = rows_of(&p.name) == Rows::Whole;
    if shape[1..] != p.shape[1..] || whole && *shape != p.shape {
        let (name, new) = (&p.name, &p.shape);
        // What takes less over.
        let less = match wanted(name, Transfer::Embedding) {
            true => "--transfer none",
            false => "--transfer embedding or none",
        };
        return Err(Error::user(format!("{path}: tensor '{name}' is {shape:?} in the base, {new:?} in the new run"))
            .hint(format!("give the new run the base's settings, or use {less}")));
    }
    Ok(Some(shape))
}

/// Whether a run of the settings `new` will be able to start from one of `base`, called `name`: before that has been trained.
///
/// # Errors
/// As [`Base::check_model`] and [`Base::check`], of what settings and data tell.
pub fn check_plans(
    name: &str,
    (base, theirs): (&Settings, &Facts),
    (new, facts): (&Settings, &Facts),
    transfer: Transfer,
) -> Result<()> {
    let known = Engine::<Cpu>::parameters(base, theirs)?;
    let known: Vec<(String, Vec<usize>)> = known.into_iter().map(|p| (p.name, p.shape)).collect();
    check_model(name, (base, &known), new, transfer)?;
    let params = Engine::<Cpu>::parameters(new, facts)?;
    let fits = |p: &Param| find(name, &known, p, transfer).map(|_| ());
    params.iter().try_for_each(fits).map_err(|e| unlike(e, base, new, transfer))
}

/// An error of tensors that do not fit, with the flags to leave out: settings that shape tensors, unlike the base's.
fn unlike(e: Error, base: &Settings, new: &Settings, transfer: Transfer) -> Error {
    let all = |s: &Settings| serde_json::json!(s);
    let (theirs, mine) = (all(base), all(new));
    // Tables alone may stand under other layers.
    let of_layers = |name: &str| ["blocks", "ffn-ratio", "taps", "join"].contains(&name);
    let unlike = |name: &&&str| theirs[**name] != mine[**name] && !(transfer == Transfer::Embedding && of_layers(name));
    let flags: Vec<String> = SHAPING.iter().filter(unlike).map(|name| format!("--{name}")).collect();
    match (&e.hint, flags.is_empty()) {
        (Some(hint), false) => {
            let hint = hint.replace("give the new run the base's settings", &format!("leave {} out", flags.join(", ")));
            e.hint(hint)
        }
        _ => e,
    }
}

/// Settings that shape tensors.
const SHAPING: &[&str] = &[
    "width",
    "length",
    "blocks",
    "ffn-ratio",
    "taps",
    "window",
    "horizontal",
    "vertical",
    "rating-width",
    "user-width",
    "fields",
    "field-width",
    "join",
];

/// What a transfer would take over and the new run has no place for.
fn left_behind<'k>(
    known: &'k [(String, Vec<usize>)],
    params: &[Param],
    transfer: Transfer,
) -> impl Iterator<Item = &'k (String, Vec<usize>)> {
    known.iter().filter(move |(name, _)| wanted(name, transfer) && params.iter().all(|p| p.name != *name))
}

/// Whose rows a parameter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Items,
    Users,
    Fields,
    /// Its rows are nobody's: all or nothing.
    Whole,
}

fn rows_of(name: &str) -> Rows {
    match name.split('.').next() {
        Some("item") => Rows::Items,
        Some("user") => Rows::Users,
        Some("field") => Rows::Fields,
        _ => Rows::Whole,
    }
}

fn wanted(name: &str, transfer: Transfer) -> bool {
    match transfer {
        Transfer::None => false,
        Transfer::Embedding => rows_of(name) != Rows::Whole || name.starts_with("position."),
        Transfer::Model | Transfer::Patch => true,
    }
}

/// The keys of a new run's rows.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub items: &'a Vocab,
    pub sides: &'a Sides,
    /// The side fields of the data: by them rows of new items may start.
    pub content: Option<&'a ItemFields>,
}

/// Writes what `base` gives over the parameters of `engine` that `only` names, all of them otherwise fresh; tells what
/// became of each.
///
/// # Errors
/// A tensor of another shape; a frozen parameter that the base lacks.
pub fn carry<B: Backend>(
    engine: &mut Engine<B>,
    base: &mut Base,
    origin: &Origin,
    keys: Keys<'_>,
    only: impl Fn(&Param) -> bool,
) -> Result<Vec<Carried>> {
    let params: Vec<Param> = engine.params().to_vec();
    let (path, known) = (base.folder.path.display().to_string(), base.file.weights());
    let mut all = Vec::new();
    for p in params.iter().filter(|p| only(p)).cloned() {
        let of = p.shape[0];
        let rows = match find(&path, &known, &p, origin.transfer)? {
            Some(shape) => take(engine, base, origin, keys, &p, shape[0])?,
            None => 0,
        };
        all.push(Carried { name: p.name, shape: p.shape, rows, of, frozen: p.frozen });
    }
    let behind = left_behind(&known, &params, origin.transfer);
    all.extend(behind.map(|(name, shape)| Carried {
        name: name.clone(),
        shape: shape.clone(),
        rows: 0,
        of: 0,
        frozen: false,
    }));
    engine.backend.sync()?;
    Ok(all)
}

/// Takes one parameter over; gives the number of its rows that the base knows.
fn take<B: Backend>(
    engine: &mut Engine<B>,
    base: &mut Base,
    origin: &Origin,
    keys: Keys<'_>,
    p: &Param,
    base_rows: usize,
) -> Result<usize> {
    let none = Vocab::from_keys(Vec::<String>::new());
    let (mine, theirs) = match rows_of(&p.name) {
        Rows::Whole => {
            let values = base.file.weight(&p.name)?;
            engine.backend.write(p.w.raw(), &values);
            return Ok(p.shape[0]);
        }
        Rows::Items => (keys.items, &base.items),
        Rows::Users => (keys.sides.users.as_ref().unwrap_or(&none), base.sides.users.as_ref().unwrap_or(&none)),
        Rows::Fields => (keys.sides.values.as_ref().unwrap_or(&none), base.sides.values.as_ref().unwrap_or(&none)),
    };
    let d: usize = p.shape[1..].iter().product();
    // Rows of keys first, those of special ids behind them in the same order.
    let special = |i: usize| Some(theirs.len() + i - mine.len()).filter(|row| *row < base_rows);
    let place = |i: usize| if i < mine.len() { theirs.find(mine.key(i)).map(|r| r as usize) } else { special(i) };
    let values = base.file.weight(&p.name)?;
    let kind = rows_of(&p.name);
    let start = Start::new(kind, origin.fresh_rows, keys.content, &values, d, mine, theirs);
    // In pieces: a table may be larger than what memory is left.
    let piece = ((1 << 22) / d.max(1)).max(1);
    let mut rows = Vec::new();
    for first in (0..p.shape[0]).step_by(piece) {
        let n = piece.min(p.shape[0] - first);
        let span = p.w.slice(first * d, n * d).raw();
        rows.resize(n * d, 0.0);
        engine.backend.read(span, &mut rows);
        for (i, row) in rows.chunks_exact_mut(d).enumerate() {
            match place(first + i) {
                Some(from) => row.copy_from_slice(&values[from * d..][..d]),
                None if first + i < mine.len() => start.add_to(row, first + i, group(kind, mine.key(first + i))),
                None => {}
            }
        }
        engine.backend.write(span, &rows);
    }
    Ok((0..p.shape[0]).filter(|i| place(*i).is_some()).count())
}

/// Reads the frozen parameters of a patched run from its base.
///
/// # Errors
/// The base is gone, or is not the one that the patches were trained on.
pub fn complete<B: Backend>(engine: &mut Engine<B>, origin: &Origin, keys: Keys<'_>) -> Result<()> {
    let mut base = Base::open(&origin.run, origin.checkpoint).map_err(|e| {
        e.hint(format!(
            "the patches of this run need their base, {}; put it back, or correct `run` under [from] in config.toml",
            origin.run.display()
        ))
    })?;
    check_base(&base, origin)?;
    carry(engine, &mut base, origin, keys, |p| p.frozen).map(|_| ())
}

/// # Errors
/// `base` is not the checkpoint that the patches were trained on.
pub fn check_base(base: &Base, origin: &Origin) -> Result<()> {
    if base.sha256() == origin.sha256 {
        return Ok(());
    }
    Err(Error::user(format!(
        "{}: these are not the weights that the patches were trained on (SHA-256 {}, not {})",
        origin.run.display(),
        &base.sha256()[..12],
        &origin.sha256[..12.min(origin.sha256.len())]
    ))
    .hint("patches fit one base only: give them theirs, or train them anew with `mipgpu finetune --transfer patch`"))
}
