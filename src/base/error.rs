//! One error type for the whole crate. An error says *what* is wrong and *where*, and carries a *hint*: what to do.
//!
//! The kind decides the exit code: [`ErrorKind::User`] (bad flag, file or data) ends with 1, [`ErrorKind::Internal`]
//! (the machine failed us, or we have a bug) ends with 2.

use std::{fmt, path::Path, sync::Arc};

/// Whose fault it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Flags, files or data that the user can mend: exit code 1.
    User,
    /// Our failure or the machine's (disk full, broken invariant): exit code 2.
    Internal,
}

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Error {
    pub kind: ErrorKind,
    /// What went wrong and where.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The error of the file system behind it.
    pub(crate) io: Option<Arc<std::io::Error>>,
    /// Where memory ran out: bytes that there were. Who knows what they were for can say what would fit.
    pub room: Option<u64>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A mistake the user can mend.
    pub fn user(what: impl Into<String>) -> Self {
        Error { kind: ErrorKind::User, what: what.into(), hint: None, io: None, room: None }
    }

    /// A failure of the program or the machine.
    pub fn internal(what: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Internal, what: what.into(), hint: None, io: None, room: None }
    }

    /// Adds what to do about it; shown on a line of its own.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the place in front: `path: what`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// An I/O error on `path`. A missing or forbidden file is the user's; a full disk is the machine's.
    pub fn io(path: &Path, e: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let what = format!("{}: {e}", path.display());
        let error = match e.kind() {
            NotFound | PermissionDenied | AlreadyExists | IsADirectory | NotADirectory | InvalidInput | InvalidData
            | UnexpectedEof => Error::user(what),
            StorageFull => Error::internal(what).hint("free some disk space; nothing half-written was left behind"),
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

/// Attaches a path to an I/O result.
pub trait IoContext<T> {
    fn at_path(self, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at_path(self, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(path, &e))
    }
}

/// A word as it is typed in a shell: in quotes where a blank or another sign would mean something there.
pub fn typed(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,~".contains(c);
    // Not at the start: a shell puts the home folder in its place.
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('~') {
        return word;
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The candidate nearest in spelling to `word`, for "did you mean" hints; `None` when nothing is close.
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
