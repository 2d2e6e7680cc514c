/*! Matrix products by cuBLASLt, with cached plans.

The library chooses an algorithm once for every shape, with the bias as an epilogue and the actual alignment of the
operands. Packed batches have a new number of rows at every step. Plans are therefore made for rows rounded up to
`BUCKET` and used for all numbers of rows up to it. The choice then depends on the sizes alone: the same run uses the
same algorithms, and soon no more plans are made. Our own kernels compute the products that the library does not
support.
*/

use std::{
    collections::HashMap,
    ffi::c_void,
    path::{Path, PathBuf},
    sync::Arc,
};

use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys,
    },
    driver::{CudaSlice, DevicePtr},
};

use super::{
    Simt,
    driver::{Loaded, words},
    gemm::{self, Gemm, GemmLayout, Product},
    kernels::Ptr,
};
use crate::{
    base::{Error, Result},
    mem::Precision,
};

/// The rows of packed batches are rounded up to a multiple of this for the choice of an algorithm.
const BUCKET: usize = 256;

/// Memory for algorithms that split sums: NVIDIA's recommendation for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Finds the library outside the loader's path and loads it by its full name.
/// The later search by name then finds it loaded. Returns whether it is loaded.
fn preload() -> bool {
    static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *FOUND.get_or_init(look_for_it)
}

fn look_for_it() -> bool {
    // SAFETY: searches for the library by name.
    if unsafe { sys::is_culib_present() } {
        return true;
    }
    for folder in folders() {
        for file in ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"] {
            let path = folder.join(file);
            if path.is_file() && load(&path) {
                return true;
            }
        }
    }
    false
}

fn load(path: &Path) -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: NVIDIA's library, with its own initialisers.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // It stays loaded for good.
    library.map(std::mem::forget).is_ok()
}

/// Returns the folders where a CUDA toolkit or pip packages store the library.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = std::env::var_os(name) {
            folders.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|d| Path::new(&home).join(d)));
        }
    }
    folders.push("/usr/local/cuda/lib64".into());
    // Python reports where its packages are. Without Python there are none.
    let asked = std::process::Command::new("python3").args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
    if let Ok(said) = asked {
        for place in String::from_utf8_lossy(&said.stdout).lines().filter(|l| !l.is_empty()) {
            folders.extend(["nvidia/cu13/lib", "nvidia/cublas/lib"].map(|d| Path::new(place).join(d)));
        }
    }
    folders
}

/// The key of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    shape: GemmLayout,
    /// Sizes. The size that counts rows of a batch is rounded up.
    sizes: [usize; 3],
    add: bool,
    f32_out: bool,
    bias: bool,
    bf16: bool,
    /// Alignment in bytes of the addresses of A, B and C.
    aligned: [u32; 3],
}

/// An algorithm, or `None` where the library has none.
type Plan = Option<sys::cublasLtMatmulAlgo_t>;

/// The library and its plans.
pub struct CublasLt {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Key, Plan>,
    workspace: CudaSlice<u8>,
    version: usize,
}

// SAFETY: any thread may use the handle, one at a time, which `&mut self` ensures.
unsafe impl Send for CublasLt {}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created by `open`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Opens cuBLASLt where it is installed.
///
/// # Errors
/// It is installed but does not start.
pub fn open(device: &Arc<Loaded>) -> Result<Option<CublasLt>> {
    if !preload() {
        return Ok(None);
    }
    let failed = |e: String| {
        Error::user(format!("cuBLASLt does not start: {e}")).hint("reinstall it: pip install nvidia-cublas")
    };
    device.context.bind_to_thread().map_err(|e| failed(words(e)))?;
    let handle = result::create_handle().map_err(|e| failed(e.to_string()))?;
    // SAFETY: a query without arguments.
    let version = unsafe { sys::cublasLtGetVersion() };
    let workspace = device.stream.alloc_zeros(WORKSPACE_BYTES).map_err(|e| failed(words(e)))?;
    // Another stream will use it.
    device.stream.synchronize().map_err(|e| failed(words(e)))?;
    Ok(Some(CublasLt { handle, plans: HashMap::new(), workspace, version }))
}

/// Descriptors of one product. They are destroyed when dropped.
struct Described {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: created by `describe`, destroyed once. Nothing uses them after the call they were made for.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in &self.layouts {
                let _ = result::destroy_matrix_layout(*layout);
            }
        }
    }
}

type Attempt<T> = std::result::Result<T, CublasError>;

/// Describes a product to the library.
/// The library is column-major, so it computes C^T (N,M) = op(B)^T op(A)^T in the same memory.
fn describe(p: &Product, sizes: [usize; 3], bf16: bool) -> Attempt<Described> {
    use sys::cublasLtMatmulDescAttributes_t as D;
    let [m, n, k] = sizes.map(|x| x as u64);
    let (narrow, wide) = (sys::cudaDataType_t::CUDA_R_16BF, sys::cudaDataType_t::CUDA_R_32F);
    let act = if bf16 { narrow } else { wide };
    let out = if p.f32_out { wide } else { act };
    let operation = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, wide)?;
    let mut described = Described { operation, layouts: Vec::new() };
    let set = |what: D, value: *const c_void, bytes: usize| {
        // SAFETY: the descriptor is live; the value is `bytes` long and copied.
        unsafe { result::set_matmul_desc_attribute(operation, what, value, bytes) }
    };
    // (B^T transposed?, rows, columns of B in memory; the same of A)
    let (tb, b, ta, a) = match p.shape {
        GemmLayout::Nt => (1i32, (k, n), 0i32, (k, m)),
        GemmLayout::Nn => (0, (n, k), 0, (k, m)),
        GemmLayout::Tn => (0, (n, k), 1, (m, k)),
    };
    set(D::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const tb).cast(), 4)?;
    set(D::CUBLASLT_MATMUL_DESC_TRANSB, (&raw const ta).cast(), 4)?;
    if p.bias != 0 {
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        set(D::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), size_of_val(&epilogue))?;
        set(D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const p.bias).cast(), 8)?;
    }
    for ((rows, columns), kind) in [(b, act), (a, act), ((n, m), out)] {
        described.layouts.push(result::create_matrix_layout(kind, rows, columns, rows as i64)?);
    }
    Ok(described)
}

/// Returns the largest power of two up to 256 that divides an address.
fn alignment(at: Ptr) -> u32 {
    1 << at.trailing_zeros().min(8)
}

impl CublasLt {
    fn plan(&self, p: &Product, key: &Key) -> Attempt<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let d = describe(p, key.sizes, key.bf16)?;
        let preference = result::create_matmul_pref()?;
        let set = |what: A, value: *const c_void, bytes: usize| {
            // SAFETY: the preference is live; the value is `bytes` long and copied.
            unsafe { result::set_matmul_pref_attribute(preference, what, value, bytes) }
        };
        let ask = || {
            let workspace = WORKSPACE_BYTES;
            set(A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
            // Sums that are split among blocks are combined in f32, never in the type of the result.
            let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            set(A::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const scheme).cast(), 4)?;
            let [a, b, c] = &key.aligned;
            for (what, bytes) in [
                (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
                (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
                (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
                (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
            ] {
                set(what, (&raw const *bytes).cast(), 4)?;
            }
            let [b, a, c] = d.layouts[..] else { unreachable!("three layouts") };
            // SAFETY: all descriptors are live.
            unsafe { result::get_matmul_algo_heuristic(self.handle, d.operation, b, a, c, c, preference) }
        };
        let found = ask();
        // SAFETY: created above, destroyed once.
        unsafe { result::destroy_matmul_pref(preference) }?;
        found.map(|f| f.algo)
    }

    fn call(&self, simt: &Simt, p: &Product, algorithm: &sys::cublasLtMatmulAlgo_t) -> Attempt<()> {
        let d = describe(p, [p.m, p.n, p.k], simt.precision == Precision::Bf16)?;
        let [b, a, c] = d.layouts[..] else { unreachable!("three layouts") };
        let (one, beta) = (1f32, if p.add { 1f32 } else { 0f32 });
        let stream = &simt.stream;
        let workspace = self.workspace.device_ptr(stream).0;
        // SAFETY: addresses and sizes are those of a checked op; the workspace has its size; scalars are read
        // immediately.
        unsafe {
            result::matmul(
                self.handle,
                d.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                p.b as *const c_void,
                b,
                p.a as *const c_void,
                a,
                p.c as *const c_void,
                c,
                p.c as *mut c_void,
                c,
                algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
    }
}

impl Gemm for CublasLt {
    fn name(&self) -> String {
        let v = self.version;
        format!("cuBLASLt {}.{}.{}", v / 10_000, v / 100 % 100, v % 100)
    }

    fn multiply(&mut self, simt: &mut Simt, p: &Product) {
        use sys::cublasStatus_t::{CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
        if p.m == 0 || p.n == 0 {
            return;
        }
        if p.k == 0 {
            return gemm::own(simt, p);
        }
        if let Err(e) = simt.device.context.bind_to_thread() {
            return simt.fail("cublasLt", e);
        }
        let up = |x: usize| x.next_multiple_of(BUCKET);
        let sizes = match p.shape {
            GemmLayout::Tn => [p.m, p.n, up(p.k)],
            _ => [up(p.m), p.n, p.k],
        };
        let key = Key {
            shape: p.shape,
            sizes,
            add: p.add,
            f32_out: p.f32_out,
            bias: p.bias != 0,
            bf16: simt.precision == Precision::Bf16,
            aligned: [p.a, p.b, p.c].map(alignment),
        };
        let plan = match self.plans.get(&key) {
            Some(plan) => *plan,
            None => {
                let plan = match self.plan(p, &key) {
                    Ok(algorithm) => Some(algorithm),
                    Err(CublasError(CUBLAS_STATUS_NOT_SUPPORTED)) => None,
                    // A wrong descriptor is our bug, not a reason to skip the library.
                    Err(e) => return simt.fail_with(format!("cublasLtMatmulAlgoGetHeuristic: {e}")),
                };
                self.plans.insert(key, plan);
                plan
            }
        };
        let done = plan.map(|algorithm| self.call(simt, p, &algorithm));
        match done {
            Some(Ok(())) => {}
            None => gemm::own(simt, p),
            // Rejected before anything ran: the algorithm of the rounded size does not support this one. The plan
            // stays, since the choice for a product must depend on its own sizes alone, not on earlier products.
            Some(Err(CublasError(CUBLAS_STATUS_NOT_SUPPORTED | CUBLAS_STATUS_INVALID_VALUE))) => gemm::own(simt, p),
            Some(Err(e)) => simt.fail_with(format!("cublasLtMatmul: {e}")),
        }
    }
}
