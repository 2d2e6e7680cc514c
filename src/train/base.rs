//! The base of a fine-tuned run: opens it and compares it with the new run.

use std::{collections::HashMap, path::Path};

use super::{
    checkpoint::{self, Opened},
    columns::{Columns, Place, named_columns, width_of},
    engine::Engine,
    folder::{RunConfig, RunFolder},
    freeze::Freeze,
    origin::{Origin, Rows, Transfer, Which, rows_of},
    settings::{Differs, Listed, Patching, Settings, list},
    side_tables::SideTables,
};
use crate::{
    backend::Cpu,
    base::{Error, Result},
    data::{Dataset, ItemField, Vocab, digits, whole_number},
    layers::{DataSummary, Patch, View},
    mem::Param,
};

/// The dense layer over items, users and fields.
const SIDE: &str = "side.weight";

/// A base run, opened.
#[derive(Debug)]
pub struct Base {
    pub(super) folder: RunFolder,
    pub config: RunConfig,
    pub items: Vocab,
    pub(super) side_tables: SideTables,
    file: Opened,
    /// For a patched run: the run that has its frozen parts.
    below: Option<Box<Base>>,
    /// All tensors, including those of `below`.
    pub(super) known: Vec<Known>,
}

/// A tensor of a base.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub name: String,
    pub shape: Vec<usize>,
    /// See [`named_columns`].
    pub columns: Columns,
}

impl Base {
    /// Opens a base. For a patched run also opens the run below it, down to a complete one.
    ///
    /// # Errors
    /// There is no run or no such checkpoint, or the run that completes it is missing or different.
    pub fn open(run: &Path, which: Which) -> Result<Base> {
        let folder = RunFolder::new(run);
        let config = folder.config()?;
        let path = folder.checkpoint(which)?;
        let file = checkpoint::open(&path)?;
        let below = match config.from.as_ref().filter(|_| file.base().is_some()) {
            Some(origin) => Some(Box::new(open_origin(origin)?)),
            None => None,
        };
        if file.lags() {
            return Err(Error::user(format!(
                "{}: rows of this checkpoint's table are from earlier steps than the rest, because its run updates \
                 tables by rows",
                path.display()
            ))
            .hint("use its best checkpoint: omit --last"));
        }
        let items = Vocab::open(&folder.items())?;
        let side_tables = SideTables::open(&config.settings, &folder, items.len())?;
        if file.vocabulary() != side_tables.fingerprint(&items) {
            return Err(Error::user(format!("{}: the checkpoint belongs to another vocabulary", path.display()))
                .hint("a checkpoint only fits the run folder it was written in, with that folder's keys"));
        }
        let summary = DataSummary { ratings: config.ratings.clone(), ..side_tables.summary(vec![1; items.len()])? };
        let own = file.weights();
        let known = Engine::<Cpu>::parameters(&config.settings, &summary)?.into_iter().filter_map(|p| {
            let columns = named_columns(&p, &config.settings);
            let shape = own.iter().find(|(name, _)| *name == p.name).map(|(_, shape)| shape.clone());
            let shape = shape.or_else(|| below.is_some().then_some(p.shape))?;
            Some(Known { name: p.name, shape, columns })
        });
        let known = known.collect();
        Ok(Base { folder, config, items, side_tables, file, below, known })
    }

    /// Whether its checkpoint has only the patches, and another run has the rest.
    pub fn patched(&self) -> bool {
        self.below.is_some()
    }

    /// Returns the values of a tensor, in the rows of this run.
    ///
    /// # Errors
    /// There is no tensor of that name, an I/O error, or rows that no run of the chain was trained on.
    pub(super) fn weight(&mut self, name: &str) -> Result<Vec<f32>> {
        let below = match &mut self.below {
            Some(below) if self.file.weights().iter().all(|(own, _)| own != name) => below,
            _ => return self.file.weight(name),
        };
        let values = below.weight(name)?;
        let mine = self.known.iter().find(|k| k.name == name);
        let (Some(mine), kind) = (mine, rows_of(name)) else { return Ok(values) };
        if kind == Rows::Whole {
            return Ok(values);
        }
        let theirs = below.known.iter().find(|k| k.name == name).map_or(0, |k| k.shape[0]);
        let place = Place::new(
            keys_of(kind, &self.items, &self.side_tables),
            keys_of(kind, &below.items, &below.side_tables),
            theirs,
        );
        let d: usize = mine.shape[1..].iter().product();
        let mut rows = Vec::with_capacity(mine.shape[0] * d);
        for i in 0..mine.shape[0] {
            let from = place.of(i).ok_or_else(|| {
                Error::user(format!(
                    "{}: '{name}' is frozen there and has rows that its own base, {}, does not know",
                    self.folder.path.display(),
                    below.folder.path.display()
                ))
                .hint(format!("start from that base: --from {}", below.folder.path.display()))
            })?;
            rows.extend_from_slice(&values[from * d..][..d]);
        }
        Ok(rows)
    }

    /// SHA-256 of the checkpoint.
    pub fn sha256(&self) -> &str {
        self.file.sha256()
    }

    /// Describes how many items of `data` it knows, and how many users if it has any.
    pub fn shared(&self, data: &Dataset) -> String {
        let count = |what: &str, mine: &Vocab, theirs: &Vocab| {
            let both = mine.keys().filter(|key| theirs.find(key).is_some()).count();
            let [both, all, gone] = [both, mine.len(), theirs.len() - both].map(|n| digits(n as u64));
            format!("{both} of {all} {what} known to the base; {gone} {what} of the base are not in the data")
        };
        let mut words = count("items", data.item_keys(), &self.items);
        if let Some(users) = &self.side_tables.users {
            words += &format!(" · {}", count("users", data.user_keys(), users));
        }
        words
    }

    /// Describes the keys of `data` that the base would know if whole numbers were written the same way (`3.0`
    /// and `3`).
    pub fn key_doubts(&self, data: &Dataset) -> Vec<String> {
        let users = self.side_tables.users.as_ref().map(|theirs| ("user", data.user_keys(), theirs));
        let all = [Some(("item", data.item_keys(), &self.items)), users];
        let mut doubts: Vec<String> =
            all.into_iter().flatten().filter_map(|(what, mine, theirs)| key_doubt(what, mine, theirs)).collect();
        let Some(theirs) = &self.side_tables.values else { return doubts };
        // One field at a time: equal names of genres do not show whether years match.
        doubts.extend(data.item_fields().iter().filter_map(|field| {
            let values = (0..field.values()).map(|id| format!("{}\t{}", field.name(), field.value(id)));
            key_doubt(&format!("'{}' value", field.name()), &Vocab::from_keys(values), theirs)
        }));
        doubts
    }

    /// Returns what patches leave unchanged: the network, and each table of which the base knows all rows in
    /// `data`. Tables that `settings` do not use are excluded.
    pub fn freezes(&self, data: &Dataset, settings: &Settings) -> Freeze {
        let all = |mine: &Vocab, theirs: Option<&Vocab>| {
            mine.keys().all(|key| theirs.is_some_and(|theirs| theirs.find(key).is_some()))
        };
        let known = |field: &ItemField<'_>| {
            let key = |id| format!("{}\t{}", field.name(), field.value(id));
            (0..field.values()).all(|id| self.side_tables.values.as_ref().is_some_and(|v| v.find(&key(id)).is_some()))
        };
        let named = settings.field_names();
        let items = all(data.item_keys(), Some(&self.items));
        // All rows of a table that does not exist are known, but there is nothing to freeze.
        let has = (settings.user_width > 0, !named.is_empty());
        let users = all(data.user_keys(), self.side_tables.users.as_ref());
        let fields = data.item_fields().iter().filter(|f| named.contains(&f.name())).all(|f| known(&f));
        if items && (users || !has.0) && (fields || !has.1) {
            return Freeze::ALL;
        }
        Freeze { network: true, items, users: users && has.0, fields: fields && has.1 }
    }

    /// Checks that a network of `settings` can use its layers.
    ///
    /// # Errors
    /// The architecture differs: another model, or equal shapes with another computation.
    pub fn check_model(&self, settings: &Settings, transfer: Transfer) -> Result<()> {
        let path = self.folder.path.display().to_string();
        check_model(&path, (&self.config.settings, &self.known), settings, transfer)
    }

    /// Whether its blocks follow a dense layer over users and fields that a run of `settings` would not have.
    /// The new run then keeps that layer ([`Settings::keep_side`]).
    ///
    /// # Errors
    /// As [`Engine::parameters`].
    pub fn leaves_side(&self, settings: &Settings, summary: &DataSummary, transfer: Transfer) -> Result<bool> {
        let has = |name: &str| name == SIDE;
        let theirs = transfer.layers() && self.known.iter().any(|k| has(&k.name));
        Ok(theirs && !Engine::<Cpu>::parameters(settings, summary)?.iter().any(|p| has(&p.name)))
    }

    /// Checks that the copied tensors fit a run of `settings` on `data`.
    ///
    /// # Errors
    /// Names the first tensor that does not fit, that would be frozen but is missing, or that a patched network
    /// would lack; or no user of the data is known although user vectors are to be copied.
    pub fn check(&self, settings: &Settings, summary: &DataSummary, data: &Dataset, transfer: Transfer) -> Result<()> {
        let params = Engine::<Cpu>::parameters(settings, summary)?;
        let path = self.folder.path.display().to_string();
        for p in &params {
            let found = find(&path, &self.known, (p, &named_columns(p, settings)), transfer)
                .map_err(|e| unlike(e, &self.config.settings, settings, transfer))?;
            if found.is_some() && rows_of(&p.name) == Rows::Users {
                let theirs = self.side_tables.users.as_ref();
                if !data.user_keys().keys().any(|key| theirs.is_some_and(|t| t.find(key).is_some())) {
                    let doubt = theirs.and_then(|theirs| key_doubt("user", data.user_keys(), theirs));
                    return Err(Error::user(format!(
                        "no user of the new data is known to the base, which has {}{}",
                        theirs.map_or(0, Vocab::len),
                        doubt.map_or(String::new(), |doubt| format!(": {doubt}"))
                    ))
                    .hint(format!(
                        "user vectors are matched by key: give both data sets the same keys, or start without them: {}",
                        without_users(settings, transfer)
                    )));
                }
            }
        }
        let missed = left_behind(&self.known, &params, transfer).find(|k| !k.name.contains(".head."));
        if let (Transfer::Patch, Some(Known { name, .. })) = (transfer, missed) {
            let what =
                format!("{}: the base has '{name}', which the new run does not have", self.folder.path.display());
            return Err(Error::user(what).hint(
                "patches need the whole network of the base: omit the settings that change it, or use --transfer model",
            ));
        }
        Ok(())
    }
}

/// Checks that a network of `settings` can use the layers of `base`; `path` names the base in errors.
///
/// # Errors
/// The architecture differs: another model, or equal shapes with another computation.
fn check_model(
    path: &str,
    (base, known): (&Settings, &[Known]),
    settings: &Settings,
    transfer: Transfer,
) -> Result<()> {
    if transfer == Transfer::Embedding && base.width != settings.width {
        return Err(Error::user(format!("the base has width {}, the new run {}", base.width, settings.width))
            .hint("omit --width"));
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
        .hint(format!("omit --model, {tables}")));
    }
    // Some settings change no tensor shape.
    if let Some((name, [theirs, mine])) = unlike_layers(base, settings).into_iter().next() {
        return Err(Error::user(format!("{path}: the base has --{name} {theirs}, the new run {mine}"))
            .hint(format!("omit --{name}: the base's layers were trained with this value; {tables}")));
    }
    let patches = |s: &Settings| (s.patch, s.patches, s.patch_width);
    if base.patch != Patching::None && patches(base) != patches(settings) {
        return Err(Error::user(format!("{path}: the base and the new run have different patches"))
            .hint("omit --patch, --patches and --patch-width: the new run continues to train the base's patches"));
    }
    let (theirs, mine) = (base.field_names(), settings.field_names());
    let beside = !theirs.is_empty() && !mine.is_empty();
    // New fields may come between, but the base's fields must keep their order.
    let mut rest = mine.iter();
    if beside && !theirs.iter().all(|name| rest.any(|mine| mine == name)) {
        let (theirs, mine) = (theirs.join(","), mine.join(","));
        return Err(Error::user(format!("{path}: the base has --fields {theirs}, the new run {mine}")).hint(format!(
            "the order of the fields is part of the network: use --fields {theirs}, with any new fields after them, or \
             --fields none, {tables}"
        )));
    }
    let none = mine.is_empty() && settings.user_width == 0;
    if known.iter().any(|k| k.name == SIDE) && base.join != settings.join && !none {
        return Err(Error::user(format!("{path}: the base and the new run differ in --join")).hint("omit it"));
    }
    let ((_, theirs), (_, mine)) = (base.find()?, settings.find()?);
    if transfer == Transfer::Patch && theirs.view != mine.view {
        return Err(Error::user(format!(
            "{path}: the base was trained for {}, where a row sees {}, the new run for {}: frozen layers would get \
                 inputs that they were not trained on",
            theirs.name,
            if theirs.view == View::Both { "both sides" } else { "only the past" },
            mine.name
        ))
        .hint(format!("omit --task, or train the layers too with --transfer model, {tables}")));
    }
    Ok(())
}

/// Returns the base's tensor for a parameter, if it is copied.
pub(super) fn find<'k>(
    path: &str,
    known: &'k [Known],
    (p, columns): (&Param, &Columns),
    transfer: Transfer,
) -> Result<Option<&'k Known>> {
    let thaw = match transfer {
        Transfer::Patch => "use --transfer model, which trains new parameters",
        _ => "omit --freeze: new parameters must be trained",
    };
    let found = known.iter().find(|k| k.name == p.name).filter(|_| wanted(&p.name, transfer));
    let Some(found) = found else {
        if p.frozen && !p.name.contains(Patch::NAME) {
            let what = format!("{path}: the base has no '{}', which would be frozen", p.name);
            return Err(Error::user(what).hint(thaw));
        }
        return Ok(None);
    };
    let same_columns = match columns.is_empty() || found.columns.is_empty() {
        true => found.shape[1..] == p.shape[1..],
        false => columns.iter().all(|(name, width)| width_of(&found.columns, name).is_none_or(|w| w == *width)),
    };
    if !same_columns || rows_of(&p.name) == Rows::Whole && found.shape[0] != p.shape[0] {
        let (name, shape, new) = (&p.name, &found.shape, &p.shape);
        // A transfer that copies less.
        let less = match wanted(name, Transfer::Embedding) {
            true => "--transfer none",
            false => "--transfer embedding or none",
        };
        return Err(Error::user(format!("{path}: tensor '{name}' is {shape:?} in the base, {new:?} in the new run"))
            .hint(format!("give the new run the base's settings, or use {less}")));
    }
    let new = columns.iter().find(|(name, _)| width_of(&found.columns, name).is_none());
    if let (true, Some((new, _))) = (p.frozen, new.filter(|_| !found.columns.is_empty())) {
        let what = format!("{path}: the columns of '{}' for '{new}' are new, and would be frozen at zero", p.name);
        return Err(Error::user(what).hint(thaw));
    }
    Ok(Some(found))
}

/// Returns the key with whole numbers in their short form: `3` for `3.0`. Values of fields have the field's
/// name and a tab in front.
fn plain(key: &str) -> &str {
    let value = key.rfind('\t').map_or(0, |tab| tab + 1);
    whole_number(&key.as_bytes()[value..]).map_or(key, |whole| &key[..value + whole.len()])
}

fn key_doubt(what: &str, mine: &Vocab, theirs: &Vocab) -> Option<String> {
    let numbers: HashMap<&str, &str> = theirs.keys().map(|key| (plain(key), key)).collect();
    let literally = mine.keys().filter(|key| theirs.find(key).is_some()).count();
    let alike = || {
        let unknown = mine.keys().filter(|key| theirs.find(key).is_none());
        unknown.filter_map(|key| numbers.get(plain(key)).map(|other| (key, *other)))
    };
    let more = alike().count();
    let (here, there) = alike().next()?;
    let shown = |key: &str| key.rsplit('\t').next().unwrap_or(key).to_string();
    let (here, there) = (shown(here), shown(there));
    Some(format!(
        "{} of the data's {} {what} keys differ from the base's only in how whole numbers are written ('{here}' here, \
         '{there}' there), and {} are equal: those {} start as new {what}s; write the column as in the base's data and \
         import again (--whole-keys reads 3.0 as 3)",
        digits(more as u64),
        digits(mine.len() as u64),
        digits(literally as u64),
        digits(more as u64),
    ))
}

/// Returns the flags that start without the users of the base.
fn without_users(settings: &Settings, transfer: Transfer) -> &'static str {
    match transfer {
        // The model has nothing but users.
        _ if settings.find().is_ok_and(|(model, _)| model.users) => "--transfer none",
        Transfer::Patch => "--transfer model --user-width 0",
        _ => "--user-width 0",
    }
}

/// Checks that a run of the settings `new` can start from one of the settings `base`, called `name`, before the
/// base is trained.
///
/// # Errors
/// As [`Base::check_model`] and [`Base::check`], as far as settings and data allow.
pub fn check_plans(
    name: &str,
    (base, theirs): (&Settings, &DataSummary),
    (new, summary): (&Settings, &DataSummary),
    transfer: Transfer,
) -> Result<()> {
    let known = Engine::<Cpu>::parameters(base, theirs)?.into_iter().map(|p| {
        let columns = named_columns(&p, base);
        Known { name: p.name, shape: p.shape, columns }
    });
    let known: Vec<Known> = known.collect();
    check_model(name, (base, &known), new, transfer)?;
    let params = Engine::<Cpu>::parameters(new, summary)?;
    let fits = |p: &Param| find(name, &known, (p, &named_columns(p, new)), transfer).map(|_| ());
    params.iter().try_for_each(fits).map_err(|e| unlike(e, base, new, transfer))
}

/// Adds to an error about tensors that do not fit the flags to omit: settings that shape tensors and differ
/// from the base's.
fn unlike(e: Error, base: &Settings, new: &Settings, transfer: Transfer) -> Error {
    // Users and fields may be added or removed.
    let both = |has: fn(&Settings) -> bool| has(base) && has(new);
    let comes_or_goes = |name: &str| match name {
        "user-width" => !both(|s| s.user_width > 0),
        "fields" | "field-width" => !both(|s| !s.field_names().is_empty()),
        "join" => !both(|s| s.user_width > 0 || !s.field_names().is_empty()),
        _ => false,
    };
    let stands = |s: &Listed| match s.differs {
        // Tables alone may be used under other layers.
        Differs::Never => transfer == Transfer::Embedding,
        Differs::ByShape => false,
        Differs::ByColumns => comes_or_goes(&s.name) || transfer == Transfer::Embedding && s.name == "join",
        Differs::Freely => true,
    };
    let unlike = differences(base, new).into_iter().filter(|(s, _)| !stands(s));
    let flags: Vec<String> = unlike.map(|(s, _)| format!("--{}", s.name)).collect();
    match (&e.hint, flags.is_empty()) {
        (Some(hint), false) => {
            let hint = hint.replace("give the new run the base's settings", &format!("omit {}", flags.join(", ")));
            e.hint(hint)
        }
        _ => e,
    }
}

/// Returns the settings that differ and have an effect in both runs, with the values of the base and of the new
/// run as flags spell them.
fn differences(base: &Settings, new: &Settings) -> Vec<(Listed, [String; 2])> {
    let all = [base, new].map(|s| serde_json::json!(s));
    let has_effect = |s: &Settings, name: &str| s.idle(name, None).is_ok_and(|idle| idle.is_none());
    let differs = |listed: Listed| {
        let [theirs, mine] = [0, 1].map(|i| &all[i][&listed.name]);
        let effective = theirs != mine && [base, new].iter().all(|s| has_effect(s, &listed.name));
        let words = |value: &serde_json::Value| value.as_str().map_or(value.to_string(), str::to_string);
        effective.then(|| (listed, [words(theirs), words(mine)]))
    };
    list().into_iter().filter_map(differs).collect()
}

/// Returns the settings that the base's layers were trained with and that differ in the new run: names and both
/// values.
fn unlike_layers(base: &Settings, new: &Settings) -> Vec<(String, [String; 2])> {
    let fixed = differences(base, new).into_iter().filter(|(s, _)| s.differs == Differs::Never);
    fixed.map(|(s, values)| (s.name, values)).collect()
}

/// Returns the tensors that a transfer would copy but that the new run does not have.
pub(super) fn left_behind<'k>(
    known: &'k [Known],
    params: &[Param],
    transfer: Transfer,
) -> impl Iterator<Item = &'k Known> {
    known.iter().filter(move |k| wanted(&k.name, transfer) && params.iter().all(|p| p.name != k.name))
}

fn wanted(name: &str, transfer: Transfer) -> bool {
    match transfer {
        Transfer::None => false,
        Transfer::Embedding => rows_of(name) != Rows::Whole || name.starts_with("position."),
        Transfer::Model | Transfer::Patch => true,
    }
}

/// Returns the keys of the rows of a table; `None` for a tensor whose rows have no keys.
pub(super) fn keys_of<'a>(kind: Rows, items: &'a Vocab, side_tables: &'a SideTables) -> Option<&'a Vocab> {
    match kind {
        Rows::Items => Some(items),
        Rows::Users => side_tables.users.as_ref(),
        Rows::Fields => side_tables.values.as_ref(),
        Rows::Whole => None,
    }
}

/// Opens the base that a patched run needs to be complete.
///
/// # Errors
/// It is missing, or is not the one that the patches were trained on.
pub(super) fn open_origin(origin: &Origin) -> Result<Base> {
    let base = Base::open(&origin.run, origin.checkpoint).map_err(|e| {
        e.hint(format!(
            "the patches of this run require their base, {}; restore it, or correct `run` under [from] in config.toml",
            origin.run.display()
        ))
    })?;
    check_base(&base, origin)?;
    Ok(base)
}

/// Checks that `base` is the checkpoint that the patches were trained on.
///
/// # Errors
/// Its SHA-256 differs from the one in `origin`.
pub fn check_base(base: &Base, origin: &Origin) -> Result<()> {
    if base.sha256() == origin.sha256 {
        return Ok(());
    }
    Err(Error::user(format!(
        "{}: not the weights that the patches were trained on (SHA-256 {}, expected {})",
        origin.run.display(),
        &base.sha256()[..12],
        &origin.sha256[..12.min(origin.sha256.len())]
    ))
    .hint("patches fit one base only: restore it, or train new patches with `mipgpu finetune --transfer patch`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_alike() {
        for (key, want) in [("3.0", "3"), ("-12.000", "-12"), ("3.", "3"), ("3", "3"), ("3.5", "3.5"), ("v3.0", "v3.0")]
        {
            assert_eq!(plain(key), want);
        }
        assert_eq!(plain(".0"), ".0");
        assert_eq!(plain("year\t1990.0"), "year\t1990");
        assert_eq!(plain("1.2.0"), "1.2.0");
    }

    #[test]
    fn keys_that_are_the_same_are_no_doubt() {
        let [ints, floats] = [["1", "2", "3"], ["1.0", "2.0", "3"]].map(Vocab::from_keys);
        assert!(key_doubt("item", &ints, &ints).is_none());
        let told = key_doubt("item", &floats, &ints).unwrap();
        assert!(told.starts_with("2 of the data's 3 item keys") && told.contains("'1.0' here, '1' there"), "{told}");
        let other = Vocab::from_keys(["4", "2", "5.0"]);
        assert!(key_doubt("item", &other, &ints).is_none());
    }
}
