//! The interface to the emulator's driver: C functions that load a module, find a kernel and run it
//! (`SimtInterpreter` in `kernels/emu/simt_rt.h`), and the settings of the interpreter.

use std::{
    any::Any,
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{
    block::{self, Counts, Launch, Order, Timing},
    memory::Allocation,
    module::Module,
    program::RUN,
    tensor::Sums,
};

/// What the interpreter does beyond running kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Look for accesses of shared memory by two warps that no barrier orders.
    pub races: bool,
    /// Sum the products of `mma` as tensor cores of sm_80 are reported to, instead of in the order of k.
    pub truncated_sums: bool,
}

static RACES: AtomicBool = AtomicBool::new(false);
static TRUNCATED_SUMS: AtomicBool = AtomicBool::new(false);

/// Sets what the following launches do, in the whole process.
pub fn configure(settings: Settings) {
    RACES.store(settings.races, Relaxed);
    TRUNCATED_SUMS.store(settings.truncated_sums, Relaxed);
}

/// The settings of the environment: MIPGPU_PTX_RACES=1 and MIPGPU_PTX_SUMS=truncated.
pub fn settings_of_environment() -> Settings {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|v| v == value);
    Settings { races: is("MIPGPU_PTX_RACES", "1"), truncated_sums: is("MIPGPU_PTX_SUMS", "truncated") }
}

/// Decodes every kernel of a module and returns the number of kernels and of their instructions.
///
/// # Errors
/// Something in it is not known.
pub fn decode_all(text: &str) -> Result<(usize, usize), String> {
    let module = Module::parse(text)?;
    let (mut kernels, mut instructions) = (0, 0);
    for name in module.names() {
        if let Some(kernel) = module.kernel(name) {
            kernels += 1;
            instructions += kernel?.code.len();
        }
    }
    Ok((kernels, instructions))
}

// ----------------------------------------------------------------------------------------------------- the C interface

/// `SimtInterpreter`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Interpreter {
    load: unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> u64,
    unload: extern "C" fn(u64),
    find: unsafe extern "C" fn(u64, *const c_char, *mut usize, *mut c_int, *mut c_char, usize) -> c_int,
    launch: unsafe extern "C" fn(*const Request, *mut c_char, usize) -> c_int,
}

/// The functions that the driver calls.
pub static INTERPRETER: Interpreter = Interpreter { load, unload, find, launch };

/// `SimtMemory`: an allocation.
#[repr(C)]
struct Piece {
    start: *mut u8,
    bytes: u64,
}

/// `SimtRequest`: a launch.
#[repr(C)]
struct Request {
    module: u64,
    kernel: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u64,
    shared_limit: u64,
    params: *const c_void,
    params_bytes: u64,
    memory: *const Piece,
    pieces: u64,
    seed: u64,
    order: u32,
    timing: u32,
    poison: u32,
}

/// Loaded modules by their numbers, from 1.
static MODULES: Mutex<BTreeMap<u64, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// What was run of each kernel, by target and name.
static RUNS: Mutex<BTreeMap<(String, String), Counts>> = Mutex::new(BTreeMap::new());

fn module(number: u64) -> Option<Arc<Module>> {
    MODULES.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
}

/// Writes a text and a NUL to a buffer of the caller, cut to its size.
///
/// # Safety
/// `to` has `room` bytes.
unsafe fn say(text: &str, to: *mut c_char, room: usize) {
    let bytes = &text.as_bytes()[..text.len().min(room.saturating_sub(1))];
    if room > 0 {
        // SAFETY: bytes.len() + 1 is at most `room`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len());
            *to.add(bytes.len()) = 0;
        }
    }
}

/// Runs `what`; a panic is an error, since it must not reach C.
fn guarded<T>(what: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let words = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("the interpreter panicked: {}", text.unwrap_or("without words"))
    };
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| Err(words(panic)))
}

/// Reads a module. Returns its number, or 0 and the reason.
unsafe extern "C" fn load(text: *const c_char, error: *mut c_char, room: usize) -> u64 {
    // SAFETY: the driver passes an image that is text, which ends in NUL.
    let text = unsafe { CStr::from_ptr(text) };
    let read = guarded(|| Module::parse(text.to_str().map_err(|e| e.to_string())?));
    match read {
        Ok(read) => {
            let mut all = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
            let number = all.last_key_value().map_or(1, |(last, _)| last + 1);
            all.insert(number, Arc::new(read));
            number
        }
        Err(why) => {
            // SAFETY: the driver passes a buffer and its size.
            unsafe { say(&why, error, room) };
            0
        }
    }
}

extern "C" fn unload(number: u64) {
    MODULES.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
}

/// Finds a kernel: bytes of its parameters and threads of its launch bound. Returns 0 and the reason if there is none.
unsafe extern "C" fn find(
    number: u64,
    name: *const c_char,
    params: *mut usize,
    threads: *mut c_int,
    error: *mut c_char,
    room: usize,
) -> c_int {
    // SAFETY: the driver passes a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let found = guarded(|| {
        let module = module(number).ok_or("not a loaded module")?;
        let kernel = module.kernel(&name).ok_or_else(|| format!("no kernel {name}"))??;
        Ok((kernel.params, kernel.max_threads as c_int))
    });
    // SAFETY: the driver passes places for both numbers, and a buffer and its size.
    unsafe {
        match found {
            Ok(found) => {
                (*params, *threads) = found;
                1
            }
            Err(why) => {
                say(&why, error, room);
                0
            }
        }
    }
}

/// Runs a kernel. Returns 0 and the reason if it fails.
unsafe extern "C" fn launch(request: *const Request, error: *mut c_char, room: usize) -> c_int {
    // SAFETY: the driver passes a request whose pointers are valid during the call. It holds its lock, so that nothing
    // else touches device memory, and allocations do not overlap.
    let (request, name, params, allocations) = unsafe {
        let request = &*request;
        let pieces = std::slice::from_raw_parts(request.memory, request.pieces as usize);
        let allocations: Vec<Allocation> = pieces
            .iter()
            .map(|p| Allocation {
                start: p.start as u64,
                bytes: std::slice::from_raw_parts_mut(p.start, p.bytes as usize),
            })
            .collect();
        let params = std::slice::from_raw_parts(request.params.cast::<u8>(), request.params_bytes as usize);
        (request, CStr::from_ptr(request.kernel).to_string_lossy(), params, allocations)
    };
    let done = guarded(|| {
        let module = module(request.module).ok_or("not a loaded module")?;
        let kernel = module.kernel(&name).ok_or_else(|| format!("no kernel {name}"))??;
        let counts = block::launch(
            &Launch {
                kernel,
                grid: request.grid,
                block: request.block,
                dynamic: request.dynamic as usize,
                shared_limit: request.shared_limit as usize,
                params,
                order: [Order::Forward, Order::Backward, Order::Random][request.order.min(2) as usize],
                timing: [Timing::AtWait, Timing::AtIssue, Timing::Random][request.timing.min(2) as usize],
                seed: request.seed,
                poison: request.poison != 0,
                races: RACES.load(Relaxed),
                sums: if TRUNCATED_SUMS.load(Relaxed) { Sums::Truncated } else { Sums::InOrder },
            },
            allocations,
        )?;
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        runs.entry((module.target.clone(), kernel.name.clone())).or_default().add(&counts);
        Ok(())
    });
    match done {
        Ok(()) => 1,
        Err(why) => {
            // SAFETY: the driver passes a buffer and its size.
            unsafe { say(&why, error, room) };
            0
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ coverage

unsafe extern "C" {
    /// Registers a function to call when the process ends.
    safe fn atexit(what: extern "C" fn()) -> c_int;
}

/// Writes [`coverage`] to the file that MIPGPU_PTX_COVERAGE names, when the process ends.
pub fn report_at_exit() {
    extern "C" fn report() {
        if let Some(path) = std::env::var_os("MIPGPU_PTX_COVERAGE") {
            // The process ends; nobody is left to tell of a failure.
            let _ = guarded(|| std::fs::write(path, coverage()).map_err(|e| e.to_string()));
        }
    }
    if std::env::var_os("MIPGPU_PTX_COVERAGE").is_some() {
        atexit(report);
    }
}

/// Describes what ran of the loaded modules: a line for each kernel, and one for each line of the sources that has
/// instructions of which none ran.
pub fn coverage() -> String {
    let mut text = String::new();
    for ((target, kernel), c) in RUNS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        text += &format!(
            "kernel\t{target}\t{kernel}\t{} blocks\t{} instructions\t{} of lanes\t{} mma\t{} wgmma\t{} memory\t\
             {} splits\n",
            c.blocks, c.instructions, c.lanes, c.mma, c.wgmma, c.memory, c.splits
        );
    }
    let mut lines: BTreeMap<(String, String, u32), (usize, usize)> = BTreeMap::new();
    for module in MODULES.lock().unwrap_or_else(PoisonError::into_inner).values() {
        for kernel in module.decoded() {
            for ((file, line), seen) in kernel.source.iter().zip(&kernel.seen) {
                let file = module.files.get(file).cloned().unwrap_or_default();
                let of = lines.entry((module.target.clone(), file, *line)).or_default();
                of.0 += (seen.load(Relaxed) & RUN != 0) as usize;
                of.1 += 1;
            }
        }
    }
    for ((target, file, line), (run, all)) in lines.iter().filter(|((_, _, line), _)| *line > 0) {
        if *run == 0 {
            text += &format!("never\t{target}\t{file}:{line}\t{all} instructions\n");
        }
    }
    text
}
