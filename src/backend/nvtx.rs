/*! Named time ranges that NVIDIA's profilers show next to kernels (NVTX ranges). The library is searched by name when
the first range is opened. Without it, ranges do nothing.
*/

use std::{
    ffi::{c_char, c_int},
    sync::OnceLock,
};

/// Names of the library: in current toolkits, and in toolkits up to 12.
const NAMES: [&str; 4] = ["libnvtx3interop.so.1", "libnvtx3interop.so", "libnvToolsExt.so.1", "libnvToolsExt.so"];
/// Number of characters of a name that are shown.
const MOST: usize = 63;

struct Ranges {
    name: &'static str,
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
    /// Keeps the library loaded, so that the function pointers stay valid.
    _library: libloading::Library,
}

fn ranges() -> Option<&'static Ranges> {
    static RANGES: OnceLock<Option<Ranges>> = OnceLock::new();
    let open = |name: &&'static str| {
        // SAFETY: a library of this name is NVIDIA's. Its initialisers do nothing without a profiler.
        let library = unsafe { libloading::Library::new(*name) }.ok()?;
        // SAFETY: these are the types of the two functions in nvToolsExt.h, unchanged in all versions.
        let (push, pop) = unsafe { (*library.get(b"nvtxRangePushA\0").ok()?, *library.get(b"nvtxRangePop\0").ok()?) };
        Some(Ranges { name, push, pop, _library: library })
    };
    RANGES.get_or_init(|| NAMES.iter().find_map(open)).as_ref()
}

/// Returns the name of the loaded library, if any.
pub fn library() -> Option<&'static str> {
    ranges().map(|r| r.name)
}

/// Opens a range of this thread, nested in the open ones.
pub fn push(name: &str) {
    let Some(ranges) = ranges() else { return };
    let mut text = [0u8; MOST + 1];
    let letters = name.bytes().filter(|b| *b != 0);
    text[..MOST].iter_mut().zip(letters).for_each(|(to, letter)| *to = letter);
    // SAFETY: the text ends with a zero and is read before the call returns.
    unsafe { (ranges.push)(text.as_ptr().cast()) };
}

/// Closes the range that was opened last.
pub fn pop() {
    if let Some(ranges) = ranges() {
        // SAFETY: takes no arguments; without an open range it does nothing.
        unsafe { (ranges.pop)() };
    }
}
