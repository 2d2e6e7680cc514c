//! The library in a few types, over the same code as the commands.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::Value;

use crate::{
    backend::{self, Device},
    base::{Error, Result, error::nearest},
    data::{
        Dataset, Vocab,
        split::{HeldOut, Split, SplitSpec},
    },
    eval::{EvalOptions, Evaluation, ItemMap, Query, RatingOptions, evaluate, evaluate_ratings},
    recommender::{Recommendation, Recommender, Rejected, Request},
    train::{
        OpenRun, RunConfig, RunFolder, Settings, TrainEvent, Which,
        checkpoint::TrainState,
        finish::evaluate_best,
        resolve::{default_split, rating_scale, resolve_settings},
        run::{TrainJob, check},
        train,
    },
};

/// A training from scratch: settings, split, device.
#[derive(Clone, Debug, Default)]
pub struct Training {
    settings: Settings,
    given: Vec<String>,
    split: Option<SplitSpec>,
    device: Option<Device>,
    threads: Option<usize>,
    stop: Arc<AtomicBool>,
}

/// What a training has made.
#[derive(Debug)]
pub struct TrainedRun {
    /// The run folder.
    pub folder: PathBuf,
    /// The learning curve, and where the run ended.
    pub state: TrainState,
    /// The best weights on the test part, with baselines.
    pub evaluation: Evaluation,
}

impl Training {
    /// The default settings.
    pub fn new() -> Training {
        Training::default()
    }

    /// Sets one setting by its name, which is the flag's of `mipgpu train` without its dashes: `"lr"`, `"mask-last"`, `"model"`.
    ///
    /// # Errors
    /// No such setting, with the nearest name; a value of another type. Ranges are checked by [`Training::run`].
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Result<Training> {
        let mut all = serde_json::json!(self.settings);
        let known: Vec<&str> = all.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        if !known.contains(&name) {
            let e = Error::user(format!("unknown setting '{name}'"));
            return Err(match nearest(name, known) {
                Some(near) => e.hint(format!("did you mean '{near}'?")),
                None => e.hint("settings have the names of the flags of `mipgpu train --help-all`"),
            });
        }
        all[name] = value.into();
        self.settings = serde_json::from_value(all).map_err(|e| Error::user(format!("setting '{name}': {e}")))?;
        if !self.given.iter().any(|given| given == name) {
            self.given.push(name.into());
        }
        Ok(self)
    }

    /// Which events are held out [default: as the task needs it, mostly leave-one-out].
    pub fn split(mut self, split: SplitSpec) -> Training {
        self.split = Some(split);
        self
    }

    /// Where to train [default: a GPU where the kernels run on one, else the CPU].
    pub fn device(mut self, device: Device) -> Training {
        self.device = Some(device);
        self
    }

    /// Threads of the CPU engine [default: one per core].
    pub fn threads(mut self, threads: usize) -> Training {
        self.threads = Some(threads);
        self
    }

    /// Ends the run with a checkpoint after its current step, once it is set to true.
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Trains to the end and evaluates the best weights on the test part.
    ///
    /// # Errors
    /// Settings or data that do not fit, a folder that exists, a device that cannot be used, a loss that is not finite; that the
    /// run was stopped.
    pub fn run(self, data: &Dataset, out: &Path) -> Result<TrainedRun> {
        self.run_with(data, out, |_| {})
    }

    /// [`Training::run`]; `observe` gets every event of the training, each step among them.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn run_with(
        self,
        data: &Dataset,
        out: &Path,
        mut observe: impl FnMut(TrainEvent) + Send,
    ) -> Result<TrainedRun> {
        let Training { mut settings, given, split, device, threads, stop } = self;
        settings.find()?;
        let spec = split.map_or_else(|| default_split(&settings), Ok)?;
        resolve_settings(&given, &mut settings, data, None)?;
        let ratings = rating_scale(&settings, data, spec)?;
        let config = RunConfig {
            version: RunConfig::VERSION,
            data: std::path::absolute(data.folder()).unwrap_or(data.folder().into()),
            data_fingerprint: data.fingerprint().to_string(),
            split: spec,
            from: None,
            ratings,
            settings,
        };
        let device = device.unwrap_or(Device::Auto);
        let split = Split::for_task(data, spec, config.settings.find()?.1.baskets)?;
        backend::probe(device, config.settings.precision.on(device))?;
        check(&config, data, &split)?;
        let folder = RunFolder::new(out);
        let made = !out.exists();
        folder.create(&config, data)?;
        let _lock = folder.lock()?;
        pool(threads)?.install(|| {
            let job =
                TrainJob { config: &config, data, split: &split, folder: &folder, device, resume: false, stop: &stop };
            let state = train(&job, &mut observe).inspect_err(|_| folder.discard(made))?;
            if !state.done {
                return Err(Error::user(format!("stopped after {} epochs", state.epoch))
                    .hint("the run folder holds a checkpoint: `mipgpu train --resume` continues it"));
            }
            let evaluation = evaluate_best(&folder, data, &split, device)?;
            Ok(TrainedRun { folder: folder.path.clone(), state, evaluation })
        })
    }
}

fn pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
    pool.map_err(|e| Error::internal(format!("no threads: {e}")))
}

/// A trained run, opened. It belongs to the thread that opened it; [`Service`](crate::Service) serves many threads.
pub struct Run {
    run: OpenRun,
    data: Option<Dataset>,
}

impl Run {
    /// Opens the best checkpoint of a run folder on the device that [`Device::Auto`] chooses, and the data it was trained on, if
    /// they are still there.
    ///
    /// # Errors
    /// No run is there, or its checkpoint is damaged or does not fit.
    pub fn open(folder: &Path) -> Result<Run> {
        Run::open_with(folder, Which::Best, Device::Auto)
    }

    /// Opens one of the checkpoints on a device.
    ///
    /// # Errors
    /// As [`Run::open`]; a device that cannot be used.
    pub fn open_with(folder: &Path, which: Which, device: Device) -> Result<Run> {
        let run = OpenRun::open(folder, which, device)?;
        let data = Dataset::open(&run.data).ok();
        Ok(Run { run, data })
    }

    /// Item keys, in the order of the model's table.
    pub fn items(&self) -> &Vocab {
        &self.run.item_keys
    }

    /// Width of the vectors, D.
    pub fn width(&self) -> usize {
        self.run.encoder.width()
    }

    /// Answers requests in one batch, in their order. Lists without a `k` have 10 items, or the catalogue.
    ///
    /// # Errors
    /// The model or its device failed. A request that is rejected is an error of that request alone.
    pub fn recommend(&mut self, requests: Vec<Request>) -> Result<Vec<std::result::Result<Recommendation, Rejected>>> {
        let k = 10.min(self.run.item_keys.len());
        Recommender::new(&mut self.run, self.data.as_ref(), k)?.answer(requests)
    }

    /// The vectors of histories of item keys, oldest first: (histories, D), row-major. The score of an item is `<vector, item
    /// vector> + item bias`. Keys that the model does not know are left out.
    ///
    /// # Errors
    /// The model or its device failed.
    pub fn encode<K: AsRef<str>>(&mut self, histories: &[Vec<K>]) -> Result<Vec<f32>> {
        let keys = &self.run.item_keys;
        let known =
            |history: &Vec<K>| -> Vec<u32> { history.iter().filter_map(|key| keys.find(key.as_ref())).collect() };
        let histories: Vec<Vec<u32>> = histories.iter().map(known).collect();
        let queries: Vec<Query> = histories.iter().map(|history| Query { history, ..Query::default() }).collect();
        let mut vectors = vec![0.0; queries.len() * self.run.encoder.width()];
        self.run.encoder.encode(&queries, &mut vectors)?;
        Ok(vectors)
    }

    /// The vectors of all items, (V, D) row-major, and their biases, (V).
    ///
    /// # Errors
    /// The device failed.
    pub fn item_vectors(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        let (items, width) = (self.run.item_keys.len(), self.run.encoder.width());
        let (mut vectors, mut biases) = (vec![0.0; items * width], vec![0.0; items]);
        self.run.encoder.item_vectors(0..items, &mut vectors)?;
        self.run.encoder.item_biases(&mut biases)?;
        Ok((vectors, biases))
    }

    /// Evaluates the run on the test part of data under its own split, with baselines; items are matched by key. Gives the
    /// evaluation and what the reader should be warned of.
    ///
    /// # Errors
    /// Data that hold none of the run's items; held-out events that the run was trained on.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<(Evaluation, Vec<String>)> {
        let run = &mut self.run;
        let split = Split::for_task(data, run.split, run.encoder.last_basket())?;
        let test = split.test();
        let mut warnings = run.warnings(data, &split, &test as &dyn HeldOut)?;
        let map = ItemMap::between(data.item_keys(), &run.item_keys)?;
        warnings.extend(map.written_otherwise(data.item_keys(), &run.item_keys));
        let users = run.user_keys.as_ref();
        let evaluation = match &run.ratings {
            Some(scale) => {
                let options = RatingOptions { range: scale.range(), batch: 256, item_map: Some(&map), users };
                let report = evaluate_ratings(&mut *run.encoder, data, &test, &options, &mut |_| Ok(()))?;
                Evaluation::Ratings(Box::new(report))
            }
            None => {
                let ks: Vec<usize> = [1, 5, 10, 20].into_iter().filter(|k| *k <= run.item_keys.len().max(1)).collect();
                let keep_seen = run.keeps_seen(None, crate::eval::evaluate::of_baskets(&*run.encoder, &test))?;
                let item_map = Some(&map);
                let options = EvalOptions {
                    ks,
                    keep_seen,
                    baseline: true,
                    slices: true,
                    item_map,
                    users,
                    ..EvalOptions::default()
                };
                Evaluation::Ranking(Box::new(evaluate(&mut *run.encoder, data, &test, &options)?))
            }
        };
        Ok((evaluation, warnings))
    }

    /// The opened run, for what is not here.
    pub fn opened(&mut self) -> &mut OpenRun {
        &mut self.run
    }
}
