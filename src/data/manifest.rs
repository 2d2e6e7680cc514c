/*! `manifest.json`: the contents of a data set folder, with the size and checksum of every file.

`fingerprint` is a hash over the checksums of all files: it changes if and only if the data do. `manifest_sha256`
protects the manifest itself: it is the SHA-256 of the manifest's text with those 64 digits set to zeros.
*/

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    base::{Error, Result, error::IoContext},
    data::{hex::hex, shard::VERSION},
};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const FORMAT: &str = "mipgpu.dataset";

/// One file of the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub name: String,
    /// `shard`, `users`, `items`, `item_counts` or `item_fields`.
    pub kind: String,
    pub bytes: u64,
    pub sha256: String,
    /// Shards only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_user: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interactions: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: String,
    pub version: String,
    pub written_by: String,
    pub users: u64,
    pub items: u64,
    pub interactions: u64,
    /// `s`, `ms`, `us`, `ns`, or `unknown` (numbers that only order the log); absent if the log has no timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_unit: Option<String>,
    pub ratings: bool,
    /// Whether the log had a basket column; absent in data sets written before baskets were supported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baskets: bool,
    /// How users and items are numbered, in words.
    pub id_order: String,
    /// Names of the imported files, without their folders.
    pub sources: Vec<String>,
    /// The filters that were applied.
    pub filters: serde_json::Value,
    pub files: Vec<FileEntry>,
    pub fingerprint: String,
    pub manifest_sha256: String,
}

const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Manifest {
    /// Returns the hash of the data: over size and checksum of every file.
    pub fn fingerprint_of(files: &[FileEntry]) -> String {
        let mut hash = Sha256::new();
        for file in files {
            hash.update(format!("{} {} {}\n", file.name, file.bytes, file.sha256));
        }
        hex(&hash.finalize())
    }

    /// Returns the text of the file with its checksum.
    pub fn text(&mut self) -> Result<String> {
        self.fingerprint = Self::fingerprint_of(&self.files);
        self.manifest_sha256 = NO_HASH.into();
        let open = serde_json::to_string_pretty(self).map_err(|e| Error::internal(format!("{MANIFEST}: {e}")))? + "\n";
        self.manifest_sha256 = hex(&Sha256::digest(&open));
        // The digits are the last field of the file, so the last run of zeros is theirs.
        let at = open.rfind(NO_HASH).expect("the field was just written");
        Ok(format!("{}{}{}", &open[..at], self.manifest_sha256, &open[at + 64..]))
    }

    /// Reads and checks the manifest of a data set folder.
    ///
    /// # Errors
    /// There is no folder or manifest, or the manifest is foreign, altered or of another version.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            let what = match dir.metadata() {
                Err(_) => "there is no such folder",
                Ok(meta) if meta.is_file() => "this is a file, not an imported data set",
                Ok(_) => "no data set is in this folder (it has no manifest.json)",
            };
            let error = Error::user(format!("{}: {what}", dir.display()));
            // The folder that `mipgpu split` makes contains two data sets.
            let (source, target) = (dir.join("source"), dir.join("target"));
            return Err(if source.join(MANIFEST).exists() && target.join(MANIFEST).exists() {
                error.hint(format!("its subfolders are data sets: use {} or {}", source.display(), target.display()))
            } else {
                error.hint("make a data set with `mipgpu import LOG --out DIR`")
            });
        }
        let text = fs::read_to_string(&path).at_path(&path)?;
        Self::parse(&text).map_err(|what| {
            Error::user(format!("{}: {what}", path.display())).hint("import the data again with `mipgpu import`")
        })
    }

    fn parse(text: &str) -> std::result::Result<Manifest, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("is damaged ({e})"))?;
        if value["format"] != FORMAT {
            return Err("is not the manifest of a mipgpu data set".into());
        }
        if value["version"] != VERSION {
            return Err(format!("has format version {}; this program reads version {VERSION}", value["version"]));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| format!("is damaged ({e})"))?;
        let sealed = manifest.manifest_sha256.as_str();
        let at = if sealed.len() == 64 { text.rfind(sealed) } else { None };
        let at = at.ok_or("is damaged (its own checksum is unreadable)")?;
        if hex(&Sha256::digest(format!("{}{NO_HASH}{}", &text[..at], &text[at + 64..]))) != sealed {
            return Err("was altered: its checksum does not match".into());
        }
        for file in &manifest.files {
            // A foreign manifest must not refer to files outside its folder.
            if file.name.is_empty() || file.name.starts_with('.') || file.name.contains(['/', '\\', ':']) {
                return Err(format!("names a file outside its folder: '{}'", file.name));
            }
        }
        Ok(manifest)
    }

    /// Returns the file of a kind.
    pub fn file(&self, kind: &str) -> Option<&FileEntry> {
        self.files.iter().find(|f| f.kind == kind)
    }
}
