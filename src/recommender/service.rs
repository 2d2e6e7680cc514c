//! A thread that owns an opened run and answers the requests of other threads, in batches of pending requests.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread::JoinHandle,
};

use super::{Recommendation, Recommender, Rejected, Request};
use crate::{
    backend::Device,
    base::{Error, Result},
    data::Dataset,
    train::{OpenRun, Which},
};

/// Options of a service.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Which checkpoint.
    pub which: Which,
    pub device: Device,
    /// Threads of the CPU engine; `None`: one per core.
    pub threads: Option<usize>,
    /// Default length of lists; at most the catalogue size.
    pub k: usize,
    /// Whether items of the history are candidates, for requests that do not specify it; `None`: as in the
    /// run's validation.
    pub keep_seen: Option<bool>,
    /// Maximum number of requests in one pass over the model.
    pub max_batch: usize,
    /// Maximum number of waiting calls; a further call blocks.
    pub queue: usize,
    /// Data with the histories of users and the titles of items; `None`: the run's data, if they still exist.
    pub data: Option<PathBuf>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        ServiceOptions {
            which: Which::Best,
            device: Device::Auto,
            threads: None,
            k: 10,
            keep_seen: None,
            max_batch: 256,
            queue: 1024,
            data: None,
        }
    }
}

/// The answers to the requests of a call, in their order.
type Answers = Result<Vec<std::result::Result<Recommendation, Rejected>>>;

/// The requests of one call, and the channel for their answers.
struct Call {
    requests: Vec<Request>,
    answers: Sender<Answers>,
}

/// An opened run on its own thread. All methods take `&self`: share it by reference or in an `Arc`. When the
/// service is dropped, the thread answers the requests it has received and ends.
pub struct Service {
    calls: Option<SyncSender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Opens a run on a new thread and waits until it is ready.
    ///
    /// # Errors
    /// As [`OpenRun::open`], or data given in the options cannot be opened.
    pub fn open(run: &Path, options: ServiceOptions) -> Result<Service> {
        let (calls, received) = sync_channel(options.queue);
        let (ready, opened) = channel();
        let run = run.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("mipgpu-service".into())
            .spawn(move || serve(run, options, received, ready))
            .map_err(|e| Error::internal(format!("no thread: {e}")))?;
        let service = Service { calls: Some(calls), thread: Some(thread) };
        opened.recv().unwrap_or_else(|_| Err(stopped())).map(|()| service)
    }

    /// Answers requests, in order. Blocks until there is room in the queue and until the answers are ready.
    ///
    /// # Errors
    /// The model or its device failed. A rejected request is an error of that request alone.
    pub fn recommend(&self, requests: Vec<Request>) -> Answers {
        let (answers, reply) = channel();
        let calls = self.calls.as_ref().ok_or_else(stopped)?;
        calls.send(Call { requests, answers }).map_err(|_| stopped())?;
        reply.recv().unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::internal("the thread that serves the run has stopped").hint("open the service again")
}

/// The thread: opens the run, then answers until all senders are dropped. All of it runs inside the thread pool
/// of the model.
fn serve(run: PathBuf, options: ServiceOptions, calls: Receiver<Call>, ready: Sender<Result<()>>) {
    match rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build() {
        Ok(pool) => pool.install(move || {
            if let Err(e) = answer_all(&run, &options, &calls, &ready) {
                // The caller of `open` has either received the error or already knows that the service is
                // ready.
                let _ = ready.send(Err(e));
            }
        }),
        Err(e) => drop(ready.send(Err(Error::internal(format!("no threads: {e}"))))),
    }
}

/// Opens the run and answers calls.
///
/// # Errors
/// The run cannot be opened; nothing was answered.
fn answer_all(run: &Path, options: &ServiceOptions, calls: &Receiver<Call>, ready: &Sender<Result<()>>) -> Result<()> {
    let mut run = OpenRun::open(run, options.which, options.device)?;
    let data = match &options.data {
        Some(path) => Some(Dataset::open(path)?),
        None => Dataset::open(&run.data).ok(),
    };
    let k = options.k.min(run.item_keys.len());
    let mut recommender = Recommender::new(&mut run, data.as_ref(), k)?;
    if let Some(keep_seen) = options.keep_seen {
        recommender = recommender.keep_seen(keep_seen);
    }
    if ready.send(Ok(())).is_err() {
        return Ok(());
    }
    while let Ok(first) = calls.recv() {
        // Calls that arrived during the previous batch form the next one.
        let mut size = first.requests.len();
        let mut batch = vec![first];
        while size < options.max_batch {
            let Ok(call) = calls.try_recv() else { break };
            size += call.requests.len();
            batch.push(call);
        }
        let (mut requests, mut callers) = (Vec::new(), Vec::new());
        for call in batch {
            callers.push((call.requests.len(), call.answers));
            requests.extend(call.requests);
        }
        let (mut answers, mut failed) = (Vec::with_capacity(requests.len()), None);
        let mut left = requests.into_iter().peekable();
        while left.peek().is_some() && failed.is_none() {
            match recommender.answer(left.by_ref().take(options.max_batch.max(1)).collect()) {
                Ok(some) => answers.extend(some),
                Err(e) => failed = Some(e),
            }
        }
        let mut answers = answers.into_iter();
        for (n, caller) in callers {
            let own: Vec<_> = answers.by_ref().take(n).collect();
            let reply = match &failed {
                Some(e) if own.len() < n => Err(e.clone()),
                _ => Ok(own),
            };
            // A caller that no longer waits needs no answer.
            let _ = caller.send(reply);
        }
    }
    Ok(())
}
