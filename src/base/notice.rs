//! How lines on stderr begin that a parent process recognises: shared by who prints them and who reads them.

/// Before a warning.
pub const WARNING: &str = "mipgpu: warning: ";

/// Before an error; its hint follows.
pub const ERROR: &str = "mipgpu: error: ";
