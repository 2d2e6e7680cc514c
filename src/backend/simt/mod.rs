/*! The CUDA backend: one file of launchers an op, over the kernels in `kernels/`, written once for the GPU and for the
emulator (see [`driver`]).

All memory of a plan is taken when the backend opens; scratch for partial sums is taken before the first step, when the
engine asks what every op of a step needs (`Run::need`). Work goes to one stream, in order. A failed call is kept, what
follows it is skipped, and [`Memory::sync`] reports it: a device that falls away cannot leave a half-done step unnoticed.

In bf16, activations are bf16; weights stay f32 and are shadowed by a bf16 copy, which AdamW and `write` keep up to date
and from which products and gathers read.

SAFETY, for every launch in this room: addresses come from spans that were checked against their arenas, or from scratch of
the size asked for; sizes are those of the op, whose `check` the plan has passed; parameter structs are made from the
kernels' sources by build.rs and compared with the compiled code when it is loaded.
*/

mod adamw;
mod attention;
mod cross_entropy;
pub mod cublas;
mod draw_negatives;
pub mod driver;
mod dropout;
mod embedding;
mod gelu;
pub mod gemm;
pub mod kernels;
mod layer_norm;
mod linear;
mod mask_items;
mod negative_loss;
mod reduce;
mod rows;
mod sampled_softmax;
mod segment;
mod sort_ids;

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{CudaSlice, DevicePtr, DriverError, result};
use half::bf16;

use crate::{
    base::{Error, Result},
    mem::{Arena, Dst, Element, F32, Planner, Precision, RawSpan, Span, U32},
    ops::{Memory, NoOp, Run},
};
use driver::{Driver, Loaded, words};
use gemm::Gemm;
use kernels::{Kernel, Pair, Ptr, Sealed, ShadowParams};

/// Blocks that fill a large GPU about twice: what sums over everything are cut into. A constant, so that results do not
/// depend on the device.
pub const BLOCKS: usize = 264;

/// A backend's memory on one device, and the way to launch on it.
pub struct Simt {
    device: Arc<Loaded>,
    precision: Precision,
    arenas: Vec<CudaSlice<u8>>,
    /// bf16 copy of [`Arena::Param`], empty in f32.
    shadow: CudaSlice<u8>,
    scratch: CudaSlice<u8>,
    /// What a write converts into.
    staging: Vec<bf16>,
    gemm: Option<Box<dyn Gemm>>,
    /// The first failure, until it is reported.
    fault: Option<String>,
}

/// Bytes of an element in an arena.
fn element_bytes(arena: Arena, precision: Precision) -> usize {
    if arena == Arena::Act && precision == Precision::Bf16 { 2 } else { 4 }
}

const ARENAS: [Arena; Arena::COUNT] =
    [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat, Arena::Index];

/// Bytes of device memory that a plan takes, without scratch and the driver's own.
pub fn bytes(plan: &Planner, precision: Precision) -> usize {
    let arenas: usize = ARENAS.iter().map(|a| plan.len(*a) * element_bytes(*a, precision)).sum();
    arenas + if precision == Precision::Bf16 { plan.len(Arena::Param) * 2 } else { 0 }
}

impl Simt {
    /// Memory for everything in the plan on device `ordinal`, starting as zeros. Products go to `gemm`.
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
        let (free, _) = device.context.mem_get_info().unwrap_or((device.card.free_bytes, 0));
        let needed = bytes(plan, precision);
        let refused = |e: DriverError| {
            if e.0 != cudarc::driver::sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
                let error = format!("{} ({}) gives no memory: {}", driver.name(ordinal), device.card.name, words(e));
                return Error::user(error).hint("look at nvidia-smi: the device may have failed");
            }
            let error = format!(
                "{} ({}): these settings need {:.1} GB of device memory, {:.1} GB are free: {}",
                driver.name(ordinal),
                device.card.name,
                needed as f64 / 1e9,
                free as f64 / 1e9,
                words(e)
            );
            Error::user(error).hint("lower --batch, --length, --width, --blocks or --negatives, or use --device cpu")
        };
        // Rounded up so that a vector load of a last element stays inside; never empty, so that every address is real.
        let take = |bytes: usize| device.stream.alloc_zeros::<u8>(bytes.next_multiple_of(64).max(512)).map_err(refused);
        let arenas =
            ARENAS.iter().map(|a| take(plan.len(*a) * element_bytes(*a, precision))).collect::<Result<Vec<_>>>()?;
        let shadow = take(if precision == Precision::Bf16 { plan.len(Arena::Param) * 2 } else { 0 })?;
        let scratch = take(0)?;
        Ok(Simt { device, precision, arenas, shadow, scratch, staging: Vec::new(), gemm: Some(gemm), fault: None })
    }

    /// The device's address of a slice. Nothing is tracked: there is one stream.
    fn base(&self, slice: &CudaSlice<u8>) -> Ptr {
        slice.device_ptr(&self.device.stream).0
    }

    fn address(&self, span: RawSpan) -> Ptr {
        let (slice, bytes) = (&self.arenas[span.arena as usize], element_bytes(span.arena, self.precision));
        assert!((span.offset + span.len) * bytes <= slice.len(), "{span:?} lies outside its arena");
        self.base(slice) + (span.offset * bytes) as Ptr
    }

    /// Where a span stands.
    fn at<E: Element>(&self, span: Span<E>) -> Ptr {
        self.address(span.raw())
    }

    /// Where a gradient goes and whether it is added to; null where it is not wanted.
    fn grad<E: Element>(&self, dst: Dst<E>) -> (Ptr, i32) {
        (dst.span().map_or(0, |span| self.at(span)), dst.accumulates() as i32)
    }

    /// A weight in the element type of activations: itself in f32, its shadow in bf16.
    fn weight(&self, span: Span<F32>) -> Ptr {
        match self.precision {
            Precision::F32 => self.at(span),
            Precision::Bf16 => self.shadow(span.raw()).expect("weights stand in the parameter arena"),
        }
    }

    /// The bf16 copy of a span, where there is one.
    fn shadow(&self, span: RawSpan) -> Option<Ptr> {
        (span.arena == Arena::Param && self.precision == Precision::Bf16)
            .then(|| self.base(&self.shadow) + 2 * span.offset as Ptr)
    }

    fn of(&self, pair: Pair) -> Kernel {
        match self.precision {
            Precision::Bf16 => pair.bf16,
            Precision::F32 => pair.f32,
        }
    }

    /// Bytes of an activation.
    fn act_bytes(&self) -> usize {
        element_bytes(Arena::Act, self.precision)
    }

    /// Room for partial sums, at least `bytes`; what it holds is lost at the next op.
    fn scratch(&mut self, bytes: usize) -> Ptr {
        if self.scratch.len() < bytes {
            match self.device.stream.alloc_zeros::<u8>(bytes.next_multiple_of(1 << 20)) {
                Ok(slice) => self.scratch = slice,
                Err(e) => self.fail("scratch memory", e),
            }
        }
        self.base(&self.scratch)
    }

    /// Keeps the first failure; what follows it is skipped.
    fn fail(&mut self, what: &str, e: DriverError) {
        self.fail_with(format!("{what}: {}", words(e)));
    }

    fn fail_with(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// Puts a kernel on the stream: `grid` blocks of as many threads as its source says. An empty grid is nothing to do.
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
            // SAFETY: see the head of this file; the driver copies the parameters before it returns.
            unsafe {
                let stream = device.stream.cu_stream();
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
            // SAFETY: callers give spans that `at` has checked.
            unsafe { result::memset_d8_async(at, 0, bytes, device.stream.cu_stream()) }
        });
        if let Err(e) = done {
            self.fail("memset", e);
        }
    }

    /// A product through cuBLASLt or what stands in for it.
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
        let (at, device) = (self.address(span), &self.device);
        let done = device.context.bind_to_thread().and_then(|()| {
            // SAFETY: callers check the length. From pageable memory the call returns when the values have been taken.
            unsafe { result::memcpy_htod_async(at, values, device.stream.cu_stream()) }
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
            // SAFETY: callers check the length; the host waits before it reads.
            .and_then(|()| unsafe { result::memcpy_dtoh_async(values, at, device.stream.cu_stream()) })
            .and_then(|()| device.stream.synchronize());
        if let Err(e) = done {
            self.fail("copy from the device", e);
        }
    }
}

impl Run<NoOp> for Simt {
    fn run(&mut self, _: &NoOp) {}
}

impl Memory for Simt {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn write(&mut self, span: RawSpan, values: &[f32]) {
        assert!(values.len() <= span.len);
        if element_bytes(span.arena, self.precision) == 2 {
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
        assert!(values.len() <= span.len);
        if element_bytes(span.arena, self.precision) == 2 {
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

    fn reserve(&mut self, bytes: usize) -> Result<()> {
        self.scratch(bytes);
        self.sync()
    }

    fn sync(&mut self) -> Result<()> {
        if self.fault.is_none()
            && let Err(e) = self.device.stream.synchronize()
        {
            self.fail("waiting for the device", e);
        }
        let Some(fault) = &self.fault else { return Ok(()) };
        let (name, card) = (self.device.driver.name(self.device.card.ordinal), &self.device.card.name);
        Err(Error::user(format!("{name} ({card}) failed in {fault}, or in the work before it"))
            .hint("what was saved is intact: look at nvidia-smi, then continue the run with --resume"))
    }
}
