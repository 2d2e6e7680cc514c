//! The public types of the library. They run the same code as the commands.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::Value;

use crate::{
    backend::{self, Device},
    base::{Error, Result},
    data::{
        Dataset, Vocab,
        split::{HeldOut, Split, SplitSpec},
    },
    eval::{EvalOptions, Evaluation, ItemMap, Query, RatingOptions, evaluate, evaluate_ratings},
    recommender::{Recommendation, Recommender, Rejected, Request},
    train::{
        OpenRun, Pretrained, RunConfig, RunFolder, Settings, TrainEvent, Which,
        checkpoint::{EpochRow, TrainState},
        export::{ExportOptions, Exported, export_vectors},
        finish::evaluate_best,
        resolve::{default_split, rating_scale, resolve_settings},
        run::{TrainJob, check},
        train,
    },
};

/// A training run, from random weights or from a trained run: its settings, its split and its device.
#[derive(Clone, Debug, Default)]
pub struct Training {
    pretrained: Option<Pretrained>,
    /// The chosen settings, in the order of the calls.
    given: Vec<(String, Value)>,
    split: Option<SplitSpec>,
    device: Option<Device>,
    threads: Option<usize>,
    stop: Arc<AtomicBool>,
}

/// The result of [`Training::run`].
#[derive(Debug)]
pub struct TrainedRun {
    /// The run folder.
    pub folder: PathBuf,
    /// The learning curve, one row per epoch.
    pub epochs: Vec<EpochRow>,
    /// Epoch and value of the best validation: NDCG@10, or RMSE for ratings.
    pub best: Option<(u32, f64)>,
    /// The evaluation of the best weights on the test part, with baselines.
    pub evaluation: Evaluation,
    /// For a fine-tuned run: keys that may not match those of the base, and test events that a base was trained on.
    pub warnings: Vec<String>,
}

impl Training {
    /// Creates a training from random weights, with the default settings.
    pub fn new() -> Training {
        Training::default()
    }

    /// Creates a training that starts from a trained run, with the settings of that run, as `mipgpu finetune`. Items,
    /// users and values of side fields are matched by key.
    ///
    /// ```no_run
    /// # fn main() -> mipgpu::Result<()> {
    /// use mipgpu::{Dataset, Pretrained, Training, Transfer};
    ///
    /// let films = Pretrained { transfer: Transfer::Patch, ..Pretrained::new("runs/films") };
    /// let books = Dataset::open("data/books".as_ref())?;
    /// let tuned = Training::finetune(films).set("epochs", 5)?.run(&books, "runs/books".as_ref())?;
    /// println!("{}", tuned.evaluation.text());
    /// # Ok(())
    /// # }
    /// ```
    pub fn finetune(pretrained: Pretrained) -> Training {
        Training { pretrained: Some(pretrained), ..Training::default() }
    }

    /// Sets one setting. Settings have the names of the flags of `mipgpu train`, without the dashes: `"lr"`,
    /// `"mask-last"`, `"model"`.
    ///
    /// # Errors
    /// There is no such setting (the hint names the most similar one), or the value has another type.
    /// [`Training::run`] checks ranges.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Result<Training> {
        let value = value.into();
        Settings::default().set(name, value.clone())?;
        self.given.retain(|(given, _)| given != name);
        self.given.push((name.into(), value));
        Ok(self)
    }

    /// Sets which events are held out. Default: the split of the task, for most tasks leave-one-out.
    pub fn split(mut self, split: SplitSpec) -> Training {
        self.split = Some(split);
        self
    }

    /// Sets the device. Default: the first GPU that the kernels support, else the CPU.
    pub fn device(mut self, device: Device) -> Training {
        self.device = Some(device);
        self
    }

    /// Sets the number of threads of the CPU backend. Default: one per core.
    pub fn threads(mut self, threads: usize) -> Training {
        self.threads = Some(threads);
        self
    }

    /// Returns a flag that stops the run: once it is true, the run finishes its current step, writes a checkpoint
    /// and returns an error.
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Trains to the end and evaluates the best weights on the test part.
    ///
    /// # Errors
    /// The settings do not fit the data or the pre-trained run, a pre-trained run was trained on held-out events of the
    /// same data, the folder exists, the device cannot be used, the loss is not finite, or the run was stopped.
    pub fn run(self, data: &Dataset, out: &Path) -> Result<TrainedRun> {
        self.run_with(data, out, |_| {})
    }

    /// As [`Training::run`], and calls `observe` with every event, including every step.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn run_with(
        self,
        data: &Dataset,
        out: &Path,
        mut observe: impl FnMut(TrainEvent) + Send,
    ) -> Result<TrainedRun> {
        let (config, warnings) = self.config(data)?;
        let Training { device, threads, stop, .. } = self;
        let device = device.unwrap_or(Device::Auto);
        let split = Split::for_task(data, config.split, config.settings.find()?.1.baskets)?;
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
            let TrainState { history: epochs, best, .. } = state;
            Ok(TrainedRun { folder: folder.path.clone(), epochs, best, evaluation, warnings })
        })
    }

    /// Returns the configuration of the run, and warnings.
    ///
    /// # Errors
    /// The settings do not fit the data or the pre-trained run.
    fn config(&self, data: &Dataset) -> Result<(RunConfig, Vec<String>)> {
        let names: Vec<String> = self.given.iter().map(|(name, _)| name.clone()).collect();
        let apply = |start: &Settings| {
            let mut settings = start.clone();
            self.given.iter().try_for_each(|(name, value)| settings.set(name, value.clone()))?;
            Ok(settings)
        };
        if let Some(pretrained) = &self.pretrained {
            let base = pretrained.open()?;
            let config = pretrained.config(&base, data, self.split, &names, apply)?;
            let doubts = pretrained.doubts(&base, &config, data)?;
            return Ok((config, doubts));
        }
        let mut settings = apply(&Settings::default())?;
        settings.find()?;
        let split = self.split.map_or_else(|| default_split(&settings), Ok)?;
        resolve_settings(&names, &mut settings, data, None)?;
        let config = RunConfig {
            version: RunConfig::VERSION,
            data: std::path::absolute(data.folder()).unwrap_or(data.folder().into()),
            data_fingerprint: data.fingerprint().to_string(),
            split,
            from: None,
            ratings: rating_scale(&settings, data, split)?,
            settings,
        };
        Ok((config, Vec::new()))
    }
}

fn pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
    pool.map_err(|e| Error::internal(format!("no threads: {e}")))
}

/// An opened run. It must stay on the thread that opened it; [`Service`](crate::Service) answers many threads.
pub struct Run {
    run: OpenRun,
    data: Option<Dataset>,
}

impl Run {
    /// Opens the best checkpoint of a run folder on [`Device::Auto`], and its data set if that still exists.
    ///
    /// # Errors
    /// The folder has no run, or its checkpoint is damaged or does not fit its settings.
    pub fn open(folder: &Path) -> Result<Run> {
        Run::open_with(folder, Which::Best, Device::Auto)
    }

    /// Opens a checkpoint of a run folder on a device.
    ///
    /// # Errors
    /// As [`Run::open`], or the device cannot be used.
    pub fn open_with(folder: &Path, which: Which, device: Device) -> Result<Run> {
        let run = OpenRun::open(folder, which, device)?;
        let data = Dataset::open(&run.data).ok();
        Ok(Run { run, data })
    }

    /// Returns the item keys in the order of the model's table.
    pub fn items(&self) -> &Vocab {
        &self.run.item_keys
    }

    /// Returns the width of the vectors, D.
    pub fn width(&self) -> usize {
        self.run.encoder.width()
    }

    /// Answers requests in one batch and returns the answers in the same order. A request without `k` gets 10 items,
    /// or all items if there are fewer.
    ///
    /// # Errors
    /// The model or its device failed. An invalid request is an `Err` in its own place and does not affect the others.
    pub fn recommend(&mut self, requests: Vec<Request>) -> Result<Vec<std::result::Result<Recommendation, Rejected>>> {
        let k = 10.min(self.run.item_keys.len());
        Recommender::new(&mut self.run, self.data.as_ref(), k)?.answer(requests)
    }

    /// Encodes histories of item keys, oldest first. Returns (H,D) numbers, row-major, for H histories. The score of an
    /// item is `<vector, item vector> + item bias`. Unknown keys are skipped.
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

    /// Returns the vectors of all items, (V,D) row-major, and their biases, (V).
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

    /// Writes the vectors of items, and of the users of its data set, into the folder `out`, with their keys. The score of
    /// an item for a user is `<user vector, item vector> + item bias`. docs/formats.md describes the files.
    ///
    /// # Errors
    /// Users are asked for and the data set of the run does not exist; the folder holds a run, a data set or vectors of
    /// another checkpoint; the model or the file system fails.
    pub fn export(&mut self, out: &Path, options: &ExportOptions) -> Result<Vec<Exported>> {
        if options.users && self.data.is_none() {
            return Err(Error::user(format!("{}: the data set of the run does not exist", self.run.data.display()))
                .hint("import it there again, or export only items"));
        }
        let checkpoint = self.run.checkpoint()?;
        export_vectors(&mut self.run, self.data.as_ref(), &checkpoint, out, options)
    }

    /// Evaluates the run on the test part of a data set, with the split of the run and with baselines. Items are
    /// matched by key. Returns the evaluation and warnings.
    ///
    /// # Errors
    /// The data set has no item of the run, or the run was trained on its held-out events.
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

    /// Returns the opened run, for functions that this type does not offer.
    #[doc(hidden)]
    pub fn opened(&mut self) -> &mut OpenRun {
        &mut self.run
    }
}
