/*! Finds and opens a device: the CUDA driver library, or the emulator in its place, which also runs PTX by the
interpreter of this crate.

cudarc accesses both. It searches for `libcuda.so` at its first use. The emulator is a library with that SONAME: when it
is loaded before, the search finds it. Everything above this file, down to the single driver call, is therefore the same
for all. A process uses a GPU, or the emulator and the interpreter.
*/

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaStream, DriverError, result, sys},
    nvrtc::Ptx,
};

use super::kernels::{ARCHITECTURES, FATBINS, FILES, KERNELS, NVCC_VERSION, PTX};
#[cfg(emu)]
use super::ptx::interpreter;
use crate::{
    backend::{Target, cards::Card},
    base::{Error, Result},
};

/// The driver library behind the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// NVIDIA's driver.
    Cuda,
    /// The same kernels compiled for this machine's processor: slow, for tests.
    Emulator,
    /// The PTX that nvcc made of the kernels, interpreted: slow, for tests.
    Ptx(Target),
}

impl Driver {
    /// Returns the name that `--device` accepts.
    pub fn name(self, ordinal: usize) -> String {
        match self {
            Driver::Cuda => format!("cuda:{ordinal}"),
            Driver::Emulator => "emu".into(),
            Driver::Ptx(target) => target.device().into(),
        }
    }
}

/// The lowest compute capability that the kernels are compiled for.
const OLDEST: (i32, i32) = (8, 0);

/// The driver library and the devices it found.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CUDA version of the driver: (13, 0).
    pub driver: (i32, i32),
    pub cards: Vec<Card>,
}

/// A device with all kernels loaded, usable by any number of backends.
pub struct Loaded {
    pub driver: Driver,
    pub card: Card,
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    /// In the order of [`KERNELS`].
    pub functions: Vec<CudaFunction>,
}

impl Loaded {
    /// Returns whether kernels with wgmma run: on Hopper with code for sm_90a, on the emulator, and as PTX for Hopper.
    pub fn has_wgmma(&self) -> bool {
        match self.driver {
            Driver::Cuda => self.card.capability == (9, 0) && ARCHITECTURES.contains(&"90a"),
            Driver::Emulator => true,
            Driver::Ptx(target) => target == Target::Compute90a,
        }
    }
}

/// Formats a driver error.
pub fn words(e: DriverError) -> String {
    let name = e.error_name().map_or_else(|_| format!("{:?}", e.0), |n| n.to_string_lossy().into_owned());
    match e.error_string() {
        Ok(text) => format!("{name} ({})", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// Settings of the emulator: the order of threads, and the time of asynchronous copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emulation {
    /// 0 forward, 1 backward, 2 random.
    pub order: u32,
    /// 0 at the wait, 1 immediately, 2 at random.
    pub copies: u32,
    pub seed: u64,
}

/// Returns the emulator's library: the one in MIPGPU_EMU_LIB, else the one this program was built with.
fn emulator_path() -> Option<String> {
    std::env::var("MIPGPU_EMU_LIB").ok().or(option_env!("MIPGPU_EMU_LIB_BUILT").map(String::from))
}

/// Returns whether this program has an emulator.
pub fn emulator_is_built() -> bool {
    emulator_path().is_some()
}

/// Returns whether this program has an interpreter of PTX, and PTX to run.
pub fn ptx_is_built() -> bool {
    cfg!(emu) && emulator_is_built() && !PTX.is_empty()
}

/// Loads the emulator once, before anything searches for the driver library.
fn load_emulator() -> Result<&'static libloading::Library> {
    static LIBRARY: OnceLock<std::result::Result<libloading::Library, String>> = OnceLock::new();
    let Some(path) = emulator_path() else {
        return Err(Error::user("--device emu and ptx: this program was built without the emulator")
            .hint("build with `cargo build --release --features emu` (it needs g++)"));
    };
    let loaded = LIBRARY.get_or_init(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the library is ours; its initialisers only register kernels.
        let library: libloading::Library =
            unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| e.to_string())?.into();
        #[cfg(emu)]
        interpret(&library)?;
        Ok(library)
    });
    loaded.as_ref().map_err(|e| Error::user(format!("the emulator {path} cannot be loaded: {e}")))
}

/// Gives the emulator's driver our interpreter, which it calls for modules that are PTX.
#[cfg(emu)]
fn interpret(library: &libloading::Library) -> std::result::Result<(), String> {
    type Interpret = unsafe extern "C" fn(&interpreter::Interpreter);
    interpreter::configure(interpreter::settings_of_environment());
    interpreter::report_at_exit();
    // SAFETY: the symbol has this type in kernels/emu/device.cpp.
    let interpret: libloading::Symbol<Interpret> =
        unsafe { library.get(b"mipgpu_emu_interpret\0") }.map_err(|e| e.to_string())?;
    // SAFETY: the library copies the functions, which live as long as the program.
    unsafe { interpret(&interpreter::INTERPRETER) };
    Ok(())
}

/// Sets how the emulator runs from now on, in the whole process.
///
/// # Errors
/// There is no emulator.
pub fn emulate(settings: Emulation) -> Result<()> {
    type Configure = unsafe extern "C" fn(u32, u32, u32, u32, u64);
    let library = load_emulator()?;
    // SAFETY: the symbol has this type in kernels/emu/driver.cpp.
    let configure: libloading::Symbol<Configure> = unsafe { library.get(b"mipgpu_emu_configure\0") }
        .map_err(|e| Error::internal(format!("the emulator has no settings: {e}")))?;
    // SAFETY: plain numbers. They poison shared memory and select one host thread.
    unsafe { configure(settings.order, settings.copies, 1, 1, settings.seed) };
    Ok(())
}

/// Makes the driver library of `driver` the current one.
fn begin(driver: Driver) -> Result<()> {
    // Whether a GPU's driver is in use.
    static IN_USE: Mutex<Option<bool>> = Mutex::new(None);
    let mut in_use = IN_USE.lock().unwrap_or_else(|e| e.into_inner());
    let real = driver == Driver::Cuda;
    match *in_use {
        Some(other) if other != real => {
            return Err(Error::user("the emulator and a GPU cannot be used in one process")
                .hint("run the two one after the other"));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    if !real {
        load_emulator()?;
    }
    // SAFETY: searches for the library by name; loading the driver has no effect on ours.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::user("no NVIDIA driver: libcuda.so was not found")
            .hint("install the NVIDIA driver, or use --device cpu"));
    }
    *in_use = Some(real);
    Ok(())
}

/// Queries the driver for its devices.
///
/// # Errors
/// There is no driver library, or it does not start.
pub fn machine(driver: Driver) -> Result<Machine> {
    begin(driver)?;
    let failed = |e| Error::user(format!("the CUDA driver does not start: {}", words(e)));
    let hint = "check the driver with nvidia-smi, or use --device cpu";
    let none = sys::cudaError_enum::CUDA_ERROR_NO_DEVICE;
    let start = result::init().and_then(|()| result::device::get_count());
    let count = match start {
        Err(DriverError(code)) if code == none => 0,
        other => other.map_err(|e| failed(e).hint(hint))?,
    };
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed(e).hint(hint))?;
    let cards = (0..count).map(|i| card(i as usize)).collect::<std::result::Result<_, _>>().map_err(failed)?;
    Ok(Machine { driver: (version / 1000, version % 1000 / 10), cards })
}

fn card(ordinal: usize) -> std::result::Result<Card, DriverError> {
    use sys::CUdevice_attribute_enum as A;
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` is valid, since the driver returned it.
    let ask = |a| unsafe { result::device::get_attribute(device, a) };
    // SAFETY: as above.
    let memory_bytes = unsafe { result::device::total_mem(device) }?;
    let capability =
        (ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?);
    Ok(Card {
        ordinal,
        name: result::device::get_name(device)?,
        capability,
        memory_bytes,
        // The exact value is known once a context is open.
        free_bytes: memory_bytes,
        multiprocessors: ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

/// How to get a program with CUDA kernels, for users with and without a clone.
pub const WITH_KERNELS: &str = "use a release archive with CUDA kernels, or build or install again with \
                                NVCC=/path/to/nvcc (from the CUDA toolkit)";

/// Returns the reason why the kernels of this program cannot run on `card`, if any.
pub fn obstacle(driver: Driver, machine: &Machine, card: &Card) -> Option<Error> {
    if driver == Driver::Cuda && FATBINS.is_empty() {
        return Some(Error::user("this program was built without nvcc: it has no CUDA kernels").hint(WITH_KERNELS));
    }
    if matches!(driver, Driver::Ptx(_)) && !ptx_is_built() {
        let error = format!("--device {}: this program was built without the interpreter of PTX", driver.name(0));
        let hint = "build with `cargo build --release --features emu`; it needs g++, nvcc and its cuobjdump";
        return Some(Error::user(error).hint(hint));
    }
    let (major, minor) = card.capability;
    if card.capability < OLDEST {
        return Some(
            Error::user(format!("{} has compute capability {major}.{minor}", card.name))
                .hint(format!("the kernels need {}.{} (Ampere) or newer; use --device cpu", OLDEST.0, OLDEST.1)),
        );
    }
    // Code of one major version runs on every driver of that version or a later one. The emulator's code counts as
    // 13.0.
    let (have, need) = (machine.driver, if driver == Driver::Cuda { NVCC_VERSION } else { (13, 0) });
    // Drivers before 12.4 cannot report the sizes of parameters.
    if have.0 < need.0 || have < (12, 4) {
        return Some(
            Error::user(format!(
                "the NVIDIA driver is too old: it knows CUDA {}.{}, the kernels were built by CUDA {}.{}",
                have.0, have.1, need.0, need.1
            ))
            .hint("update the driver, or build with an older nvcc: NVCC=/path/to/nvcc cargo build --release"),
        );
    }
    None
}

/// Opens device number `ordinal` and loads all kernels. Later calls return the same device.
///
/// # Errors
/// There is no driver or no such device, or the kernels do not run on the device or driver.
pub fn open(driver: Driver, ordinal: usize) -> Result<Arc<Loaded>> {
    type Open = HashMap<(Driver, usize), Arc<Loaded>>;
    static OPEN: Mutex<Option<Open>> = Mutex::new(None);
    let mut all = OPEN.lock().unwrap_or_else(|e| e.into_inner());
    let all = all.get_or_insert_default();
    if let Some(loaded) = all.get(&(driver, ordinal)) {
        return Ok(loaded.clone());
    }
    let machine = machine(driver)?;
    let Some(card) = machine.cards.get(ordinal) else {
        let e = Error::user(format!("there is no device {}", driver.name(ordinal)));
        return Err(match machine.cards.len() {
            0 => e.hint("the driver sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"),
            1 => e.hint("this machine has one: cuda:0"),
            n => e.hint(format!("this machine has {n}: cuda:0 to cuda:{}", n - 1)),
        });
    };
    if let Some(obstacle) = obstacle(driver, &machine, card) {
        return Err(obstacle);
    }
    let name = driver.name(ordinal);
    let images = images(driver)?;
    let loaded = load(driver, card, images).map_err(|e| {
        use sys::cudaError_enum::*;
        let error = Error::user(format!("{name} ({}) cannot be opened: {}", card.name, words(e)));
        match e.0 {
            CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                error.hint("the driver is older than the nvcc of this build: update it")
            }
            CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_INVALID_PTX => {
                error.hint("this build has no code for the device: build with an nvcc that knows it")
            }
            CUDA_ERROR_OUT_OF_MEMORY => error.hint("another process holds its memory: see nvidia-smi"),
            _ => error.hint("check the device with nvidia-smi"),
        }
    })?;
    let loaded = Arc::new(loaded);
    all.insert((driver, ordinal), loaded.clone());
    Ok(loaded)
}

/// Returns the code of each file of [`FILES`] for this driver.
fn images(driver: Driver) -> Result<Vec<Ptx>> {
    let image = |name: &&str| match driver {
        Driver::Ptx(target) => ptx_text(name, target).map(Ptx::from_src),
        _ => {
            let code = FATBINS.iter().find(|(n, _)| n == name).map_or(&b"emulated"[..], |(_, code)| code);
            Ok(Ptx::from_binary(code.to_vec()))
        }
    };
    FILES.iter().map(image).collect()
}

/// Returns the PTX of a source file: NAME.TARGET.ptx in the folder MIPGPU_PTX_FOLDER if it is there, else that of the
/// fatbin of this build.
fn ptx_text(name: &str, target: Target) -> Result<String> {
    let changed = std::env::var_os("MIPGPU_PTX_FOLDER")
        .map(|folder| std::path::Path::new(&folder).join(format!("{name}.{}.ptx", target.number())))
        .filter(|path| path.exists());
    let built = || PTX.iter().find(|(n, t, _)| (*n, *t) == (name, target.number())).map(|(.., path)| path.into());
    let Some(path) = changed.or_else(built) else {
        return Err(Error::internal(format!("there is no PTX of {name}.cu for {target:?}")));
    };
    let text = std::fs::read(&path).map_err(|e| {
        Error::user(format!("{}: {e}", path.display())).hint("this program runs PTX only in the clone that built it")
    })?;
    // The image in a fatbin ends in zeros.
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    String::from_utf8(text[..end].to_vec()).map_err(|e| Error::internal(format!("{}: {e}", path.display())))
}

fn load(driver: Driver, card: &Card, images: Vec<Ptx>) -> std::result::Result<Loaded, DriverError> {
    let context = CudaContext::new(card.ordinal)?;
    // SAFETY: a slice is used only on the stream of its backend, in order, so it needs no events of its own. Transfers
    // between streams wait explicitly (`transfer.rs`).
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let mut modules = Vec::new();
    for image in images {
        modules.push(context.load_module(image)?);
    }
    let mut functions = Vec::new();
    for kernel in KERNELS {
        let function = modules[kernel.file].load_function(kernel.symbol)?;
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a function that was just loaded; every kernel has one parameter.
        unsafe { sys::cuFuncGetParamInfo(function.cu_function(), 0, &mut offset, &mut bytes) }.result()?;
        assert_eq!(bytes, kernel.params, "{}: parameters differ between Rust and CUDA", kernel.symbol);
        let fixed = function.get_attribute(sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, card.shared_bytes - fixed)?;
        functions.push(function);
    }
    let (free_bytes, _) = context.mem_get_info()?;
    Ok(Loaded { driver, card: Card { free_bytes, ..card.clone() }, context, stream, functions })
}
