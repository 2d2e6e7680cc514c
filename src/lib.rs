/*! Pre-trains sequential recommenders by masked item prediction (MIP) on hand-written CUDA kernels or the CPU,
fine-tunes them, evaluates them and recommends items.

Start with [`import()`], [`Training`], [`Run`] and [`Service`]. The library prints nothing and never ends the process.

```
use mipgpu::{Request, Run, Training};

# fn main() -> mipgpu::Result<()> {
# let folder = std::env::temp_dir().join(format!("mipgpu-doc-{}", std::process::id()));
// The built-in MovieLens sample; `mipgpu::import` reads a log of your own.
let data = mipgpu::import_sample(&folder.join("data"))?;
println!("{} users, {} items", data.users(), data.items());

// Settings have the names of the flags of `mipgpu train`.
let training = Training::new().set("epochs", 1)?.set("width", 32)?.set("length", 30)?;
let trained = training.run(&data, &folder.join("run"))?;
println!("{}", trained.evaluation.text());

let mut run = Run::open(&folder.join("run"))?;
let lists = run.recommend(vec![Request::history(["318", "858"])])?;
let list = lists[0].as_ref().expect("both films are known");
assert_eq!(list.items.len(), 10);

let vectors = run.encode(&[vec!["318", "858"], vec!["1"]])?;
assert_eq!(vectors.len(), 2 * run.width());
# std::fs::remove_dir_all(&folder).ok();
# Ok(())
# }
```

The modules are public for the program, its tests and benchmarks. They are not part of the stable interface and are
hidden from this documentation. ARCHITECTURE.md in the repository describes them.
*/

mod api;

/// The code blocks of docs/library.md compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct LibraryPage;

#[doc(hidden)]
pub use internal::*;

// Internal modules, in one place for their attributes. Their formulas index with brackets, w[item], and [MASK] is a
// name: rustdoc reads both as links.
#[allow(rustdoc::broken_intra_doc_links)]
#[path = ""]
mod internal {
    pub mod backend;
    pub mod base;
    #[cfg(feature = "cli")]
    #[allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]
    pub mod cli;
    pub mod data;
    pub mod eval;
    #[cfg(feature = "cli")]
    pub mod experiment;
    pub mod layers;
    #[cfg(feature = "cli")]
    pub mod measure;
    pub mod mem;
    pub mod models;
    pub mod ops;
    #[cfg(feature = "cli")]
    pub mod page;
    pub mod recommender;
    pub mod tasks;
    pub mod train;
}

pub use api::{Run, TrainedRun, Training};
pub use backend::Device;
pub use base::{Error, Notice, Result, error::ErrorKind};
pub use data::{Dataset, Vocab, split::SplitSpec};
#[cfg(feature = "import")]
pub use data::{ImportOptions, ImportSummary, import, import_sample};
pub use eval::{Evaluation, vectors::Format};
pub use recommender::{Item, Recommendation, Rejected, Request, Service, ServiceOptions};
pub use train::{
    FreshRows, Pretrained, Settings, TrainEvent, Transfer, Which,
    checkpoint::EpochRow,
    export::{ExportOptions, Exported},
};
