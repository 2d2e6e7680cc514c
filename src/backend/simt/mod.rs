/*! The CUDA backend: one file of launchers per op, over the kernels in `kernels/`. It is written once for the GPU and
for the emulator and the interpreter of PTX (see [`driver`]).

All memory of a plan is allocated when the backend opens. Scratch for partial sums is allocated before the first step,
when the engine queries the need of every op of a step (`Run::need`). Work goes to one stream, in order. The first
failed call is recorded, later work is skipped, and [`Memory::sync`] reports it. A failing device therefore cannot leave
a half-done step unnoticed.

A sequence of work can recur with the same sizes ([`Schedule::replay`]). It is launched call by call the first time,
recorded as a CUDA graph the second time, and replayed by one call afterwards. Copies from and to the host bypass it
(`transfer.rs`). MIPGPU_GRAPHS=off keeps single calls, for profilers that show kernels by name.

In bf16, activations are bf16. Weights stay f32 and have a bf16 copy, the shadow, which AdamW and `write` keep up to
date. Products and gathers read the shadow.

SAFETY, for every launch in this folder: addresses come from spans that were checked against their arenas, or from
scratch of the requested size. Sizes are those of the op, which is [`Valid`]: its spans are large enough for them and do
not overlap. build.rs generates the parameter structures from the kernels' sources, and they are compared with the
compiled code when it is loaded.
*/

mod activation;
mod adamw;
mod attention;
mod ceilings;
mod concat;
mod cross_entropy;
pub mod cublas;
mod dilated_conv;
mod draw_negatives;
pub mod driver;
mod dropout;
mod embedding;
mod field_bag;
mod gather_sequences;
mod gelu;
pub mod gemm;
mod gru;
mod item_dot;
pub mod kernels;
mod layer_norm;
mod linear;
mod mask_items;
mod negative_loss;
mod next_items;
mod point_loss;
#[cfg(emu)]
pub mod ptx;
mod rank;
mod reduce;
mod row_adamw;
mod rows;
mod sampled_softmax;
mod scores;
mod segment;
mod sequence_rows;
mod sort_ids;
mod top_k;
mod transfer;
mod vertical_conv;
mod window_conv;

use std::{any::Any, collections::HashMap, ffi::c_void, sync::Arc};

use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use half::bf16;

use crate::{
    base::{Error, Result},
    mem::{Arena, Dst, Element, F32, Owners, Planner, Precision, RawSpan, Span, U32},
    ops::{Backend, Clock, Invalid, Later, Mark, Memory, NoOp, Phase, Run, Schedule, Valid},
};
use driver::{Driver, Loaded, words};
use gemm::Gemm;
use kernels::{Kernel, Pair, Ptr, Sealed, ShadowParams};
use transfer::{Ahead, Moments, Results, Uploads};

/// The number of blocks of sums over everything: they fill a large GPU about twice. A constant, so that results do not
/// depend on the device.
pub const BLOCKS: usize = 264;

/// A backend's memory on one device, and the interface to launch on it.
pub struct Simt {
    device: Arc<Loaded>,
    /// The stream of all its work. It is private, so recording it captures no other work.
    stream: Arc<CudaStream>,
    precision: Precision,
    wgmma: bool,
    /// Indexed by [`Arena`]. [`Memory::resident`] allocates the last one.
    arenas: Vec<CudaSlice<u8>>,
    /// bf16 copy of [`Arena::Param`], empty in f32.
    shadow: CudaSlice<u8>,
    scratch: CudaSlice<u8>,
    /// The most that an op has taken of it: see [`Memory::scratch_taken`].
    scratch_taken: usize,
    /// Buffer for values that a write converts.
    staging: Vec<bf16>,
    gemm: Option<Box<dyn Gemm>>,
    graphs: HashMap<u64, Stretch>,
    replays: bool,
    /// Data that a recording must keep alive; `Some` while a recording is made.
    recording: Option<Vec<Box<dyn Any + Send>>>,
    uploads: Uploads,
    ahead: Option<Ahead>,
    results: Results,
    moments: Moments,
    owners: Owners,
    /// The first failure of the device.
    fault: Option<Error>,
    /// The first error of a refused op. From then on nothing is launched, but memory can be read.
    refused: Option<Error>,
}

/// Formats a number of bytes.
fn size(bytes: usize) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{} MB", bytes.div_ceil(1_000_000)),
    }
}

/// The state of a sequence of work that may recur.
enum Stretch {
    /// It was launched once, call by call, which created everything it needs.
    Seen,
    Recorded {
        graph: CudaGraph,
        /// The data of its host functions.
        _kept: Vec<Box<dyn Any + Send>>,
    },
}

// SAFETY: any thread may use a graph, one at a time, which `&mut Simt` ensures.
unsafe impl Send for Stretch {}

impl Drop for Simt {
    fn drop(&mut self) {
        // Copies may still be on their way to memory that is freed now.
        let _ = self.stream.synchronize();
    }
}

/// Returns the bytes of an element in an arena.
fn element_bytes(arena: Arena, precision: Precision) -> usize {
    if arena == Arena::Act && precision == Precision::Bf16 { 2 } else { 4 }
}

const ARENAS: [Arena; Arena::COUNT] =
    [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat, Arena::Index, Arena::Data];

/// Returns the bytes of device memory that a plan needs, without scratch and the driver's own memory.
pub fn bytes(plan: &Planner, precision: Precision) -> usize {
    let arenas: usize = ARENAS.iter().map(|a| plan.len(*a) * element_bytes(*a, precision)).sum();
    arenas + if precision == Precision::Bf16 { plan.len(Arena::Param) * 2 } else { 0 }
}

impl Simt {
    /// Opens device `ordinal` and allocates zeroed memory for the plan. Products go to `gemm`.
    ///
    /// # Errors
    /// The device cannot be opened, or has too little memory.
    pub fn open(
        driver: Driver,
        ordinal: usize,
        precision: Precision,
        plan: &Planner,
        gemm: impl FnOnce(&Arc<Loaded>) -> Result<Box<dyn Gemm>>,
    ) -> Result<Simt> {
        let device = driver::open(driver, ordinal)?;
        let gemm = gemm(&device)?;
        let wgmma = std::env::var_os("MIPGPU_WGMMA").is_some_and(|v| v == "1");
        if wgmma && !device.has_wgmma() {
            let (major, minor) = device.card.capability;
            let error = format!("MIPGPU_WGMMA=1: {} has compute capability {major}.{minor}", device.card.name);
            let hint = "wgmma needs 9.0 (Hopper) and an nvcc that supports sm_90a: unset MIPGPU_WGMMA; \
                        of the interpreter's devices, ptx90a has it";
            return Err(Error::user(error).hint(hint));
        }
        let failed = |e: DriverError| {
            Error::user(format!("{} ({}) cannot be used: {}", driver.name(ordinal), device.card.name, words(e)))
                .hint("check nvidia-smi: the device may have failed")
        };
        let stream = device.context.new_stream().map_err(failed)?;
        let (uploads, results) = (Uploads::new(&device).map_err(failed)?, Results::new(&device).map_err(failed)?);
        let (free, _) = device.context.mem_get_info().unwrap_or((device.card.free_bytes, 0));
        let needed = bytes(plan, precision);
        let refused = |e: DriverError| {
            if e.0 != cudarc::driver::sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
                let error =
                    format!("{} ({}) cannot allocate memory: {}", driver.name(ordinal), device.card.name, words(e));
                return Error::user(error).hint("check nvidia-smi: the device may have failed");
            }
            let error = format!(
                "{} ({}): these settings need {} of device memory, {} are free: {}",
                driver.name(ordinal),
                device.card.name,
                size(needed),
                size(free),
                words(e)
            );
            let hint = "lower --batch, --length, --width, --blocks or --negatives, or use --device cpu";
            Error { available_bytes: Some(free as u64), ..Error::user(error).hint(hint) }
        };
        // Rounded up so that a vector load of a last element stays inside. Never empty, so that every address is valid.
        let take = |bytes: usize| stream.alloc_zeros::<u8>(bytes.next_multiple_of(64).max(512)).map_err(refused);
        let arenas =
            ARENAS.iter().map(|a| take(plan.len(*a) * element_bytes(*a, precision))).collect::<Result<Vec<_>>>()?;
        let shadow = take(if precision == Precision::Bf16 { plan.len(Arena::Param) * 2 } else { 0 })?;
        let scratch = take(0)?;
        Ok(Simt {
            device,
            stream,
            precision,
            wgmma,
            arenas,
            shadow,
            scratch,
            scratch_taken: 0,
            staging: Vec::new(),
            gemm: Some(gemm),
            graphs: HashMap::new(),
            replays: std::env::var_os("MIPGPU_GRAPHS").is_none_or(|v| v != "off"),
            recording: None,
            uploads,
            ahead: None,
            results,
            moments: Moments::default(),
            owners: plan.owners().clone(),
            fault: None,
            refused: None,
        })
    }

    /// Sets whether [`Schedule::replay`] records and replays, or launches every call.
    ///
    /// It replays by default, except with MIPGPU_GRAPHS=off.
    pub fn set_replay(&mut self, on: bool) {
        self.replays = on;
    }

    /// Sets whether kernels with a wgmma variant (Hopper) run as that variant.
    ///
    /// By default only MIPGPU_WGMMA=1 enables it.
    ///
    /// # Panics
    /// The device does not support wgmma.
    pub fn set_wgmma(&mut self, on: bool) {
        assert!(!on || self.device.has_wgmma(), "{} has no wgmma", self.device.card.name);
        self.graphs.clear();
        self.wgmma = on;
    }

    /// Returns the number of recorded sequences of work.
    pub fn recorded(&self) -> usize {
        self.graphs.values().filter(|g| matches!(g, Stretch::Recorded { .. })).count()
    }

    /// Enqueues a host function on the stream, or in the current recording.
    pub(super) fn on_host(&mut self, work: impl FnMut() + Send + 'static) {
        type Work = Box<dyn FnMut() + Send>;
        unsafe extern "C" fn call(work: *mut c_void) {
            // SAFETY: the address of a `Work` that is kept as long as it may be called, by one thread at a time.
            unsafe { (*work.cast::<Work>())() };
        }
        if self.fault.is_some() {
            return;
        }
        // Boxed twice: the outer box has a one-word address.
        let mut work: Box<Work> = Box::new(Box::new(work));
        let at: *mut c_void = (&raw mut *work).cast();
        // SAFETY: `work` lives until the stream has run it: below, or with the recording.
        let done = unsafe { result::stream::launch_host_function(self.stream.cu_stream(), call, at) };
        match &mut self.recording {
            Some(kept) => kept.push(work),
            None => drop(self.stream.synchronize()),
        }
        if let Err(e) = done {
            self.fail("a host function", e);
        }
    }

    /// Returns whether launches are being recorded.
    pub(super) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    fn launch_recorded(&mut self, key: u64) {
        let Some(Stretch::Recorded { graph, .. }) = self.graphs.get(&key) else { return };
        if let Err(e) = graph.launch() {
            self.fail("launching a graph", e);
        }
    }

    /// Records the launches of `body`.
    fn record(&mut self, body: &mut dyn FnMut(&mut dyn Backend)) -> std::result::Result<Option<Stretch>, DriverError> {
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        self.recording = Some(Vec::new());
        body(self);
        let kept = self.recording.take().unwrap_or_default();
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0))?;
        Ok(graph.map(|graph| Stretch::Recorded { graph, _kept: kept }))
    }

    /// Returns the device address of a slice. Nothing is tracked, since there is one stream.
    fn base(&self, slice: &CudaSlice<u8>) -> Ptr {
        slice.device_ptr(&self.stream).0
    }

    fn address(&self, span: RawSpan) -> Ptr {
        let (slice, bytes) = (&self.arenas[span.arena() as usize], element_bytes(span.arena(), self.precision));
        let room = slice.len() / bytes;
        assert!(
            span.offset() <= room && span.len() <= room - span.offset(),
            "{span:?} lies outside its arena of {room}"
        );
        self.base(slice) + (span.offset() * bytes) as Ptr
    }

    /// Returns the address of a span.
    fn at<E: Element>(&self, span: Span<E>) -> Ptr {
        self.address(span.raw())
    }

    /// Returns the address of a gradient and whether to add to it; null where it is not wanted.
    fn grad<E: Element>(&self, dst: Dst<E>) -> (Ptr, i32) {
        (dst.span().map_or(0, |span| self.at(span)), dst.accumulates() as i32)
    }

    /// Returns a weight in the element type of activations: itself in f32, its shadow in bf16.
    fn weight(&self, span: Span<F32>) -> Ptr {
        match self.precision {
            Precision::F32 => self.at(span),
            Precision::Bf16 => self.shadow(span.raw()).expect("weights lie in the parameter arena"),
        }
    }

    /// Returns the bf16 copy of a span, where there is one.
    fn shadow(&self, span: RawSpan) -> Option<Ptr> {
        (span.arena() == Arena::Param && self.precision == Precision::Bf16)
            .then(|| self.base(&self.shadow) + 2 * span.offset() as Ptr)
    }

    fn of(&self, pair: Pair) -> Kernel {
        match self.precision {
            Precision::Bf16 => pair.wgmma.filter(|_| self.uses_wgmma()).unwrap_or(pair.bf16),
            Precision::F32 => pair.f32,
        }
    }

    /// Returns whether kernels with a wgmma variant run as that variant.
    fn uses_wgmma(&self) -> bool {
        self.wgmma && self.precision == Precision::Bf16
    }

    /// Returns the bytes of an activation.
    fn act_bytes(&self) -> usize {
        element_bytes(Arena::Act, self.precision)
    }

    /// Returns scratch of at least `bytes` bytes. The next op overwrites its contents.
    fn scratch(&mut self, bytes: usize) -> Ptr {
        self.scratch_taken = self.scratch_taken.max(bytes);
        if self.scratch.len() < bytes {
            // Recorded work uses the old address.
            self.graphs.clear();
            assert!(self.recording.is_none(), "scratch memory is taken before work is recorded");
            // The old block is freed first: there may be no room for both.
            if let Ok(none) = self.stream.alloc_zeros::<u8>(512) {
                self.scratch = none;
                let _ = self.stream.synchronize();
            }
            match self.stream.alloc_zeros::<u8>(bytes.next_multiple_of(1 << 20)) {
                Ok(slice) => self.scratch = slice,
                Err(e) => self.fail("scratch memory", e),
            }
        }
        self.base(&self.scratch)
    }

    /// Records the first failure. Later work is skipped.
    fn fail(&mut self, what: &str, e: DriverError) {
        self.fail_with(format!("{what}: {}", words(e)));
    }

    fn fail_with(&mut self, what: String) {
        let (name, card) = (self.device.driver.name(self.device.card.ordinal), &self.device.card.name);
        self.fault.get_or_insert_with(|| {
            Error::user(format!("{name} ({card}) failed in {what}, or in earlier work"))
                .hint("saved data is intact: check nvidia-smi, then continue the run with --resume")
        });
    }

    /// Launches a kernel on the stream: `grid` blocks with the threads that its source specifies. An empty grid
    /// launches nothing.
    fn launch<P: Sealed>(&mut self, kernel: Kernel, grid: [usize; 3], shared_bytes: usize, mut params: P) {
        if self.fault.is_some() || grid.contains(&0) {
            return;
        }
        let info = kernel.info();
        assert!(size_of::<P>() == info.params, "{}: not its parameters", info.symbol);
        assert!(grid[0] < 1 << 31 && grid[1] < 1 << 16 && grid[2] < 1 << 16, "{}: grid {grid:?}", info.symbol);
        let [x, y, z] = grid.map(|n| n as u32);
        let device = &self.device;
        let function = device.functions[kernel as usize].cu_function();
        let mut list = [(&raw mut params).cast::<c_void>()];
        let done = device.context.bind_to_thread().and_then(|()| {
            // SAFETY: see the head of this file. The driver copies the parameters before it returns.
            unsafe {
                let stream = self.stream.cu_stream();
                result::launch_kernel(function, (x, y, z), (info.threads, 1, 1), shared_bytes as u32, stream, &mut list)
            }
        });
        if let Err(e) = done {
            self.fail(info.symbol, e);
        }
    }

    /// Sets `bytes` bytes to zero.
    fn zero(&mut self, at: Ptr, bytes: usize) {
        if bytes == 0 || self.fault.is_some() {
            return;
        }
        let device = &self.device;
        let done = device.context.bind_to_thread().and_then(|()| {
            // SAFETY: callers pass spans that `at` has checked.
            unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
        });
        if let Err(e) = done {
            self.fail("memset", e);
        }
    }

    /// Computes a product through the matrix-product engine.
    fn multiply(&mut self, product: &gemm::Product) {
        if self.fault.is_some() {
            return;
        }
        let mut gemm = self.gemm.take().expect("put back below");
        gemm.multiply(self, product);
        self.gemm = Some(gemm);
    }

    fn copy_in<T: bytemuck::Pod>(&mut self, span: RawSpan, values: &[T]) {
        if values.is_empty() || self.fault.is_some() {
            return;
        }
        assert!(self.recording.is_none(), "a copy from the host would be recorded with what it held");
        let (at, bytes) = (self.address(span), bytemuck::cast_slice::<T, u8>(values));
        let done = self.device.context.bind_to_thread().and_then(|()| match bytes.len() <= Uploads::MOST {
            true => self.uploads.copy(&self.stream, at, bytes),
            // SAFETY: callers check the length. From pageable memory the call returns once the values are copied.
            false => unsafe { result::memcpy_htod_async(at, bytes, self.stream.cu_stream()) },
        });
        if let Err(e) = done {
            self.fail("copy to the device", e);
        }
    }

    fn copy_out<T: bytemuck::Pod>(&mut self, span: RawSpan, values: &mut [T]) {
        if values.is_empty() || self.fault.is_some() {
            return;
        }
        let (at, device) = (self.address(span), &self.device);
        let done = device
            .context
            .bind_to_thread()
            // SAFETY: callers check the length. The host waits before it reads.
            .and_then(|()| unsafe { result::memcpy_dtoh_async(values, at, self.stream.cu_stream()) })
            .and_then(|()| self.stream.synchronize());
        if let Err(e) = done {
            self.fail("copy from the device", e);
        }
    }
}

impl Run<NoOp> for Simt {
    fn execute(&mut self, _: &Valid<'_, NoOp>) {}
}

impl Memory for Simt {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn products(&self) -> Precision {
        self.precision
    }

    fn refuse(&mut self, why: &Invalid) {
        self.refused.get_or_insert_with(|| why.error(&self.owners));
    }

    fn failed(&self) -> bool {
        self.fault.is_some() || self.refused.is_some()
    }

    fn write(&mut self, span: RawSpan, values: &[f32]) {
        assert!(values.len() <= span.len());
        if element_bytes(span.arena(), self.precision) == 2 {
            let mut staging = std::mem::take(&mut self.staging);
            staging.clear();
            staging.extend(values.iter().map(|x| bf16::from_f32(*x)));
            self.copy_in(span, &staging);
            self.staging = staging;
        } else {
            self.copy_in(span, values);
        }
        if let Some(shadow) = self.shadow(span) {
            let n = values.len() as i64;
            let params = ShadowParams { y: shadow, x: self.address(span), n };
            self.launch(Kernel::ShadowWeights, [values.len().div_ceil(2048), 1, 1], 0, params);
        }
    }

    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        assert!(values.len() <= span.len());
        if element_bytes(span.arena(), self.precision) == 2 {
            let mut staging = std::mem::take(&mut self.staging);
            staging.clear();
            staging.resize(values.len(), bf16::ZERO);
            self.copy_out(span, &mut staging);
            values.iter_mut().zip(&staging).for_each(|(v, s)| *v = s.to_f32());
            self.staging = staging;
        } else {
            self.copy_out(span, values);
        }
    }

    fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
        assert!(values.len() <= span.len());
        self.copy_in(span.raw(), values);
    }

    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
        assert!(values.len() <= span.len());
        self.copy_out(span.raw(), values);
    }

    fn bytes(&self, plan: &Planner) -> usize {
        bytes(plan, self.precision)
    }

    fn reserve(&mut self, bytes: usize) -> Result<()> {
        // Memory freed lately counts as free only after the device is idle.
        self.sync()?;
        let there = self.device.context.mem_get_info().map_or(usize::MAX, |(free, _)| free + self.scratch.len());
        if bytes.next_multiple_of(1 << 20) > there {
            let taken = self.arenas.iter().map(CudaSlice::len).sum::<usize>() + self.shadow.len();
            let (name, card) = (self.device.driver.name(self.device.card.ordinal), &self.device.card.name);
            let what = format!(
                "{name} ({card}): these settings need {} of device memory with partial sums, {} are free",
                size(taken + bytes),
                size(taken + there)
            );
            let e = Error::user(what).hint("lower --batch, --length, --width, --blocks or --negatives");
            return Err(Error { available_bytes: Some((taken + there) as u64), ..e });
        }
        self.scratch(bytes);
        self.sync()
    }

    fn scratch_taken(&mut self) -> usize {
        std::mem::take(&mut self.scratch_taken)
    }

    fn sync(&mut self) -> Result<()> {
        if self.fault.is_none()
            && let Err(e) = self.stream.synchronize()
        {
            self.fail("waiting for the device", e);
        }
        self.fault.clone().or_else(|| self.refused.clone()).map_or(Ok(()), Err)
    }

    fn resident(&mut self, len: usize) -> Option<Span<U32>> {
        self.sync().ok()?;
        // The remaining memory also serves the driver, graphs and other users of this device.
        let (free, total) = self.device.context.mem_get_info().ok()?;
        let bytes = len.checked_mul(4)?.next_multiple_of(64).max(512);
        if self.fault.is_some() || bytes > free.saturating_sub(total / 16) {
            return None;
        }
        self.graphs.clear();
        self.arenas[Arena::Data as usize] = self.stream.alloc_zeros(bytes).ok()?;
        Some(Span::data(len))
    }
}

impl Schedule for Simt {
    fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]) {
        assert!(values.len() <= span.len());
        if values.is_empty() || self.fault.is_some() {
            return;
        }
        let (at, bytes) = (self.at(span), bytemuck::cast_slice::<u32, u8>(values));
        let done = self.device.context.bind_to_thread().and_then(|()| {
            if self.ahead.as_ref().is_none_or(|a| a.room() < bytes.len()) {
                self.stream.synchronize()?;
                self.ahead = None;
                self.ahead = Some(Ahead::new(&self.device, 4 * span.len())?);
            }
            self.ahead.as_mut().expect("made above").copy(&self.stream, at, bytes)
        });
        if let Err(e) = done {
            self.fail("copy to the device", e);
        }
    }

    fn read_later(&mut self, span: Span<F32>) -> Later {
        assert!(span.len() >= transfer::NUMBERS && self.recording.is_none());
        if self.failed() {
            return Later::Lost;
        }
        let at = self.at(span);
        match self.device.context.bind_to_thread().and_then(|()| self.results.begin(&self.stream, at)) {
            Ok(slot) => Later::Slot(slot),
            Err(e) => {
                self.fail("copy from the device", e);
                Later::Lost
            }
        }
    }

    fn collect(&mut self, later: Later) -> [f32; 4] {
        match later {
            Later::Now(values) => values,
            Later::Lost => [f32::NAN; 4],
            Later::Slot(slot) => self.results.end(slot).unwrap_or_else(|e| {
                self.fail("waiting for the device", e);
                [f32::NAN; 4]
            }),
        }
    }

    fn enter(&mut self, _: Phase) {}

    fn replays(&self) -> bool {
        true
    }

    fn replay(&mut self, key: u64, body: &mut dyn FnMut(&mut dyn Backend)) {
        if !self.replays || self.failed() {
            return body(self);
        }
        match self.graphs.get(&key) {
            None => {
                body(self);
                self.graphs.insert(key, Stretch::Seen);
            }
            Some(Stretch::Seen) => match self.record(body) {
                // An incomplete recording is discarded.
                Ok(Some(_)) if self.failed() => {}
                Ok(Some(recorded)) => {
                    self.graphs.insert(key, recorded);
                    self.launch_recorded(key);
                }
                Ok(None) => self.fail_with("recording a graph: the driver gave none".into()),
                Err(e) => self.fail("recording a graph", e),
            },
            Some(Stretch::Recorded { .. }) => self.launch_recorded(key),
        }
    }
}

impl Clock for Simt {
    fn mark(&mut self) -> Mark {
        assert!(self.recording.is_none(), "an event would be recorded, and replayed");
        // No mark reaches this number. It represents a mark that was never made.
        let never = Mark::Device(u64::MAX);
        if self.fault.is_some() {
            return never;
        }
        match self.device.context.bind_to_thread().and_then(|()| self.moments.mark(&self.stream)) {
            Ok(mark) => Mark::Device(mark),
            Err(e) => {
                self.fail("recording an event", e);
                never
            }
        }
    }

    fn seconds_between(&mut self, from: &Mark, to: &Mark) -> f64 {
        let (Mark::Device(from), Mark::Device(to)) = (from, to) else { return f64::NAN };
        if self.fault.is_some() {
            return f64::NAN;
        }
        self.moments.between(*from, *to).unwrap_or_else(|e| {
            self.fail("waiting for the device", e);
            f64::NAN
        })
    }
}
