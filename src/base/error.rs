//! One error type for the whole crate. An error states *what* is wrong and *where*, and carries a *hint* with the fix.
//!
//! The kind determines the exit code: [`ErrorKind::User`] (bad flag, file or data) exits with 1,
//! [`ErrorKind::Internal`] (a failure of the machine, or a bug) exits with 2.

use std::{fmt, path::Path, sync::Arc};

/// The origin of an error. It determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Flags, files or data that the user can fix: exit code 1.
    User,
    /// A failure of the program or the machine (disk full, broken invariant): exit code 2.
    Internal,
}

/// An error: what is wrong, where, and how to fix it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Error {
    pub kind: ErrorKind,
    /// What went wrong and where.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The underlying I/O error.
    pub(crate) io: Option<Arc<std::io::Error>>,
    /// The available bytes where memory ran out. Callers that know the purpose can report what would fit.
    pub available_bytes: Option<u64>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error that the user can fix.
    pub fn user(what: impl Into<String>) -> Self {
        Error { kind: ErrorKind::User, what: what.into(), hint: None, io: None, available_bytes: None }
    }

    /// Creates an error for a failure of the program or the machine.
    pub fn internal(what: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Internal, what: what.into(), hint: None, io: None, available_bytes: None }
    }

    /// Adds a fix, shown on its own line.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prepends the place: `path: what`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Creates an I/O error on `path`. A missing or forbidden file is a user error; a full disk is a machine error.
    pub fn io(path: &Path, e: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let what = format!("{}: {e}", path.display());
        let error = match e.kind() {
            NotFound | PermissionDenied | AlreadyExists | IsADirectory | NotADirectory | InvalidInput | InvalidData
            | UnexpectedEof => Error::user(what),
            StorageFull => Error::internal(what).hint("free some disk space; no partial file was left"),
            _ => Error::internal(what),
        };
        Error { io: Some(Arc::new(std::io::Error::new(e.kind(), e.to_string()))), ..error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.io.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

/// Adds a path to an I/O result.
pub trait IoContext<T> {
    fn at_path(self, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at_path(self, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(path, &e))
    }
}

/// Formats a word as typed in a shell: quoted where a blank or another character has a special meaning.
pub fn typed(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,~".contains(c);
    // Not at the start: a shell replaces it by the home folder.
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('~') {
        return word;
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Returns the candidate with the spelling nearest to `word`, for "did you mean" hints, or `None` when nothing is
/// close.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(word, c), c))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_stands_on_its_own_line() {
        let e = Error::user("no column 'usr'").at("log.csv").hint("did you mean 'user'?");
        assert_eq!(e.to_string(), "log.csv: no column 'usr'\n  hint: did you mean 'user'?");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_cut_them() {
        for (word, expected) in [
            ("data/shop-1", "data/shop-1"),
            ("data/é", "data/é"),
            ("data/my shop é", "'data/my shop é'"),
            ("it's", r"'it'\''s'"),
            ("a$b", "'a$b'"),
            ("~x", "'~x'"),
            ("", "''"),
        ] {
            assert_eq!(typed(word), expected);
        }
    }

    #[test]
    fn nearest_suggests_only_what_is_close() {
        assert_eq!(nearest("dropuot", ["dropout", "heads"]), Some("dropout"));
        assert_eq!(nearest("zzz", ["dropout", "heads"]), None);
    }
}
