//! Reads a module: the directives outside of functions, and where its entries are. An entry is decoded when it is first
//! asked for.

use std::{collections::HashMap, ops::Range, sync::OnceLock};

use super::{
    decoder,
    program::Kernel,
    text::{closing, number, sized},
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

/// A function that kernels call: its text and the line where that begins.
pub type Function<'a> = (&'a str, u32);

/// The text of a module and its entries.
#[derive(Debug)]
pub struct Module {
    text: String,
    /// `sm_80` of the directive `.target`.
    pub target: String,
    shared: Vec<Shared>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    functions: HashMap<String, (Range<usize>, u32)>,
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
            functions: HashMap::new(),
            files: HashMap::new(),
        };
        let (mut at, mut line) = (0, 1);
        while at < text.len() {
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
                [".visible", ".entry", ..] | [".func", ..] => {
                    let end = closing(text, at).ok_or_else(|| said("no end"))?;
                    match words[0] {
                        ".func" => {
                            let name = function_name(code).ok_or_else(|| said("not NAME( after .func (RESULT)"))?;
                            module.functions.insert(name.into(), (at..end, line));
                        }
                        _ => module.add(words[2].split('(').next().unwrap_or(""), at..end).map_err(said)?,
                    }
                    line += text[at..end].matches('\n').count() as u32;
                    at = end + 1;
                    continue;
                }
                [".section", ..] => {
                    // Names of inlined functions for debuggers.
                    if !words[1].starts_with(".debug") {
                        return Err(said("a section other than .debug"));
                    }
                    let end = closing(text, at).ok_or_else(|| said("no end"))?;
                    line += text[at..end].matches('\n').count() as u32;
                    at = end + 1;
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
            line += 1;
        }
        if module.target.is_empty() {
            return Err("no .target".into());
        }
        Ok(module)
    }

    fn add(&mut self, name: &str, text: Range<usize>) -> Result<(), &'static str> {
        if name.is_empty() || self.index.insert(name.into(), self.entries.len()).is_some() {
            return Err("no name, or a second entry of this name");
        }
        self.entries.push(Entry { name: name.into(), text, kernel: OnceLock::new() });
        Ok(())
    }

    /// Returns the function of this name.
    pub fn function(&self, name: &str) -> Option<Function<'_>> {
        let (range, line) = self.functions.get(name)?;
        Some((&self.text[range.clone()], *line))
    }

    /// The variables in shared memory outside of functions.
    pub fn shared(&self) -> &[Shared] {
        &self.shared
    }

    /// Returns the kernel of this name, decoded.
    pub fn kernel(&self, name: &str) -> Option<Result<&Kernel, String>> {
        let entry = &self.entries[*self.index.get(name)?];
        let decoded = entry.kernel.get_or_init(|| {
            let line = self.text[..entry.text.start].matches('\n').count() as u32 + 1;
            decoder::decode(name, &self.text[entry.text.clone()], line, self).map_err(|e| format!("kernel {name}, {e}"))
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

/// Returns the name in `.func (.param .b32 RESULT) NAME(`.
fn function_name(code: &str) -> Option<&str> {
    let rest = code.strip_prefix(".func")?.trim_start();
    let rest = if rest.starts_with('(') { rest.split_once(')')?.1.trim_start() } else { rest };
    rest.split_once('(').map(|(name, _)| name.trim()).filter(|name| !name.is_empty())
}
