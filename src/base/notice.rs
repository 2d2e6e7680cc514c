//! Prefixes of stderr lines that a parent process recognises, shared by the code that prints and the code that parses
//! them.

/// Prefix of a warning.
pub const WARNING: &str = "mipgpu: warning: ";

/// Prefix of an error; its hint follows.
pub const ERROR: &str = "mipgpu: error: ";
