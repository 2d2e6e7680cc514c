//! Reads a module: the directives outside of functions, and where its entries are. An entry is decoded when it is first
//! asked for.

use std::{collections::HashMap, ops::Range, sync::OnceLock};

use super::{
    decoder,
    program::Kernel,
    text::{number, sized},
};

/// A variable in shared memory.
#[derive(Clone, Debug)]
pub struct Shared {
    pub name: String,
    pub align: usize,
    pub bytes: usize,
    /// `.extern`: the dynamic part.
    pub dynamic: bool,
}

/// An entry of the text.
#[derive(Debug)]
struct Entry {
    name: String,
    text: Range<usize>,
    kernel: OnceLock<Result<Kernel, String>>,
}

/// The text of a module and its entries.
#[derive(Debug)]
pub struct Module {
    text: String,
    /// `sm_80` of the directive `.target`.
    pub target: String,
    shared: Vec<Shared>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    /// The source files by their numbers.
    pub files: HashMap<u32, String>,
}

impl Module {
    /// Reads the text of a module.
    ///
    /// # Errors
    /// The text has something other than the directives and entries that nvcc writes for kernels.
    pub fn parse(text: &str) -> Result<Module, String> {
        let mut module = Module {
            text: text.to_string(),
            target: String::new(),
            shared: Vec::new(),
            entries: Vec::new(),
            index: HashMap::new(),
            files: HashMap::new(),
        };
        let mut at = 0;
        let mut line = 0;
        while at < text.len() {
            line += 1;
            let end = text[at..].find('\n').map_or(text.len(), |n| at + n + 1);
            let code = text[at..end].split("//").next().unwrap_or("").trim();
            let said = |why: &str| format!("line {line}: `{code}`: {why}");
            let words: Vec<&str> = code.split_whitespace().collect();
            match words[..] {
                [] => {}
                [".version", _] => {}
                [".target", target] => module.target = target.into(),
                [".target", ..] => return Err(said("more than an architecture")),
                [".address_size", "64"] => {}
                [".file", n, file, ..] => {
                    let n = n.parse().map_err(|_| said("no number"))?;
                    let name = file.trim_matches(['"', ',']);
                    module.files.insert(n, name.rsplit('/').next().unwrap_or(name).to_string());
                }
                [".visible", ".entry", ..] => {
                    let rest = text[at..].find("\n}").ok_or_else(|| said("no end"))?;
                    let name = words[2].split('(').next().unwrap_or("");
                    if name.is_empty() || module.index.contains_key(name) {
                        return Err(said("no name, or a second entry of this name"));
                    }
                    module.index.insert(name.into(), module.entries.len());
                    let kernel = OnceLock::new();
                    module.entries.push(Entry { name: name.into(), text: at..at + rest, kernel });
                    line += text[at..at + rest].matches('\n').count() + 1;
                    at += rest + 2;
                    continue;
                }
                [".section", ..] => {
                    // Names of inlined functions for debuggers.
                    if !words[1].starts_with(".debug") {
                        return Err(said("a section other than .debug"));
                    }
                    let rest = text[at..].find('}').ok_or_else(|| said("no end"))?;
                    line += text[at..at + rest].matches('\n').count();
                    at += rest + 1;
                    continue;
                }
                _ if code.starts_with(".shared") || code.starts_with(".extern .shared") => {
                    module.shared.push(shared(code).ok_or_else(|| said("not a variable in shared memory"))?);
                }
                // The end of the image in a fatbin.
                _ if code.trim_matches('\0').is_empty() => {}
                _ => return Err(said("not a directive that is known")),
            }
            at = end;
        }
        if module.target.is_empty() {
            return Err("no .target".into());
        }
        Ok(module)
    }

    /// Returns the kernel of this name, decoded.
    pub fn kernel(&self, name: &str) -> Option<Result<&Kernel, String>> {
        let entry = &self.entries[*self.index.get(name)?];
        let decoded = entry.kernel.get_or_init(|| {
            let line = self.text[..entry.text.start].matches('\n').count() as u32 + 1;
            decoder::decode(name, &self.text[entry.text.clone()], line, &self.shared)
                .map_err(|e| format!("kernel {name}, {e}"))
        });
        Some(decoded.as_ref().map_err(String::clone))
    }

    /// Names of the entries, in the order of the text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// The kernels that were decoded.
    pub fn decoded(&self) -> impl Iterator<Item = &Kernel> {
        self.entries.iter().filter_map(|e| e.kernel.get()?.as_ref().ok())
    }
}

/// Reads `.shared .align 16 .b8 NAME[BYTES];`, with `.extern` before for the dynamic part.
pub fn shared(code: &str) -> Option<Shared> {
    let code = code.trim().trim_end_matches(';');
    let dynamic = code.starts_with(".extern");
    let words: Vec<&str> = code.trim_start_matches(".extern").split_whitespace().collect();
    let [".shared", ".align", align, ".b8", variable] = words[..] else { return None };
    let (name, bytes) = sized(variable)?;
    let align = usize::try_from(number(align)?).ok().filter(|a| a.is_power_of_two())?;
    Some(Shared { name: name.into(), align, bytes, dynamic })
}
