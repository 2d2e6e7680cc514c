//! Decodes an entry: its signature, its registers and variables, and the operands of its instructions. What is not
//! known is an error that names the line: nothing is skipped.

use std::collections::HashMap;

use super::{
    module::{Module, Shared, shared},
    program::*,
    text::{Piece, number, operands, pieces, sized},
};

/// The width of a register. Halves are stored in the file of words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Predicate,
    Half,
    Word,
    Long,
}

pub type Result<T> = std::result::Result<T, String>;

/// The names of a function: an entry, or one that it calls.
#[derive(Debug)]
pub struct Names {
    /// Registers declared as `%r<20>`, by their prefix: class, first number, how many.
    prefixes: HashMap<String, (Class, u32, u32)>,
    /// Single registers, by scope.
    scopes: Vec<HashMap<String, (Class, u32)>>,
    labels: HashMap<String, u32>,
    /// Branches to labels that are not resolved yet: instruction and label.
    pub jumps: Vec<(usize, String)>,
}

impl Default for Names {
    fn default() -> Self {
        Names { prefixes: HashMap::new(), scopes: vec![HashMap::new()], labels: HashMap::new(), jumps: Vec::new() }
    }
}

/// The label of the end of a function.
pub const END: &str = "the end";

/// The state of the decoding of one entry.
pub struct Decoder<'a> {
    pub kernel: Kernel,
    pub module: &'a Module,
    pub names: Names,
    /// How many calls are being decoded: 0 in the entry.
    pub depth: usize,
    word_constants: HashMap<u32, u32>,
    long_constants: HashMap<u64, u32>,
    shared: HashMap<String, usize>,
    locals: HashMap<String, usize>,
    /// Arguments and results of calls, which are in local memory and named only by `ld.param` and `st.param`.
    pub arguments: HashMap<String, usize>,
    parameter: String,
    words: u32,
    longs: u32,
    predicates: u32,
}

/// Decodes the text of an entry, which begins at `line` of the module.
///
/// # Errors
/// Something in the text is not known.
pub fn decode(name: &str, text: &str, line: u32, module: &Module) -> Result<Kernel> {
    let open = text.find("\n{").ok_or("the entry has no body")?;
    let (signature, body) = (&text[..open], &text[open + 2..]);
    let mut decoder = Decoder {
        kernel: Kernel { name: name.into(), max_threads: 1024, ..Kernel::default() },
        module,
        names: Names::default(),
        depth: 0,
        word_constants: HashMap::new(),
        long_constants: HashMap::new(),
        shared: HashMap::new(),
        locals: HashMap::new(),
        arguments: HashMap::new(),
        parameter: String::new(),
        words: FIRST_WORD,
        longs: 0,
        predicates: FIRST_PREDICATE,
    };
    decoder.signature(signature)?;
    let own = body.lines().map(str::trim).filter(|l| l.starts_with(".shared") || l.starts_with(".extern .shared"));
    let own: Vec<Shared> = own.map(|l| shared(l).ok_or_else(|| format!("`{l}`"))).collect::<Result<_>>()?;
    decoder.place_shared(body, module.shared().iter().chain(&own));
    decoder.body(body, line + signature.matches('\n').count() as u32 + 1)?;
    decoder.finish()
}
impl Decoder<'_> {
    /// Decodes the body of a function and resolves its branches.
    pub fn body(&mut self, body: &str, line: u32) -> Result<()> {
        let mut source = (0, 0);
        pieces(body, line, |piece, line| {
            match piece {
                Piece::Location(file, of) => source = (file, of),
                Piece::Label(label) => {
                    if self.names.labels.insert(label.into(), self.kernel.code.len() as u32).is_some() {
                        return Err(format!("line {line}: a second label {label}"));
                    }
                }
                Piece::Open => self.names.scopes.push(HashMap::new()),
                Piece::Close => {
                    self.names.scopes.pop();
                }
                Piece::Statement(text) => {
                    self.statement(&text, line).map_err(|e| format!("line {line}: `{text}`: {e}"))?;
                    self.kernel.text.resize(self.kernel.code.len(), text);
                    self.kernel.source.resize(self.kernel.code.len(), source);
                }
            }
            Ok(())
        })?;
        self.names.labels.insert(END.into(), self.kernel.code.len() as u32);
        for (at, label) in std::mem::take(&mut self.names.jumps) {
            let target = self.names.labels.get(&label).ok_or(format!("there is no label {label}"))?;
            self.kernel.code[at].op = Op::Branch(*target);
        }
        Ok(())
    }

    /// Reads the parameter and the launch bounds.
    fn signature(&mut self, text: &str) -> Result<()> {
        for line in text.lines().skip(1) {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix(".param") {
                let rest = rest.trim().trim_end_matches(',');
                let variable = rest.split_whitespace().last().and_then(sized);
                let (Some((name, bytes)), true) = (variable, self.parameter.is_empty()) else {
                    return Err(format!("`{line}`: a kernel has one parameter, a struct"));
                };
                self.parameter = name.into();
                self.kernel.params = bytes;
            } else if let Some(rest) = line.strip_prefix(".maxntid") {
                let sizes: Option<Vec<i64>> = rest.split(',').map(|n| number(n.trim())).collect();
                self.kernel.max_threads = sizes.ok_or(format!("`{line}`"))?.iter().product::<i64>() as u32;
            } else if !(line.is_empty() || line == ")" || line.starts_with(".minnctapersm")) {
                return Err(format!("`{line}`: not part of a signature that is known"));
            }
        }
        if self.parameter.is_empty() { Err("a kernel without a parameter".into()) } else { Ok(()) }
    }

    /// Places the variables in shared memory: the static ones that the body names, then the dynamic part.
    fn place_shared<'a>(&mut self, body: &str, all: impl Iterator<Item = &'a Shared> + Clone) {
        let mut end = 0usize;
        for v in all.clone().filter(|v| !v.dynamic && body.contains(&v.name)) {
            end = end.next_multiple_of(v.align);
            self.shared.insert(v.name.clone(), end);
            end += v.bytes;
        }
        let align = all.clone().filter(|v| v.dynamic).map(|v| v.align).max().unwrap_or(16);
        self.kernel.dynamic_at = end.next_multiple_of(align);
        for v in all.filter(|v| v.dynamic) {
            self.shared.insert(v.name.clone(), self.kernel.dynamic_at);
        }
    }

    /// Appends the end and takes the sizes over.
    fn finish(mut self) -> Result<Kernel> {
        // The end of the body is a return.
        self.emit(Op::Exit, None, 0);
        let kernel = &mut self.kernel;
        kernel.text.resize(kernel.code.len(), "the end of the body".into());
        kernel.source.resize(kernel.code.len(), (0, 0));
        kernel.seen = kernel.code.iter().map(|_| Default::default()).collect();
        kernel.uses_wgmma = kernel.code.iter().any(|i| matches!(i.op, Op::GroupMma { .. }));
        kernel.words = self.words as usize;
        kernel.longs = self.longs as usize;
        kernel.predicates = self.predicates as usize;
        kernel.word_constants = self.word_constants.into_iter().map(|(value, register)| (register, value)).collect();
        kernel.long_constants = self.long_constants.into_iter().map(|(value, register)| (register, value)).collect();
        Ok(self.kernel)
    }

    fn statement(&mut self, text: &str, line: u32) -> Result<()> {
        if text.starts_with('.') {
            return self.directive(text);
        }
        let (guard, text) = match text.strip_prefix('@') {
            Some(rest) => {
                let (predicate, rest) = rest.split_once(char::is_whitespace).ok_or("no instruction")?;
                let (predicate, negated) = predicate.strip_prefix('!').map_or((predicate, false), |p| (p, true));
                (Some((self.predicate(predicate)?, negated)), rest.trim())
            }
            None => (None, text),
        };
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let parts: Vec<&str> = name.split('.').collect();
        self.emit(Op::Nop, guard, line);
        self.instruction(&parts, &operands(rest))
    }

    fn directive(&mut self, text: &str) -> Result<()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [".reg", kind, ..] => {
                let class = match kind {
                    ".pred" => Class::Predicate,
                    ".b16" | ".u16" | ".s16" => Class::Half,
                    ".b32" | ".u32" | ".s32" | ".f32" => Class::Word,
                    ".b64" | ".u64" | ".s64" | ".f64" => Class::Long,
                    _ => return Err("a type of register that is not known".into()),
                };
                words[2..].concat().split(',').try_for_each(|name| self.declare(class, name))
            }
            [".param", ..] => self.declare_parameter(&words),
            [".local", ".align", align, ".b8", variable] => {
                let (name, bytes) = sized(variable).ok_or("no size")?;
                let at = self.place_local(align.parse().map_err(|_| "no alignment")?, bytes);
                self.locals.insert(name.into(), at);
                Ok(())
            }
            // Already placed.
            [".shared", ..] | [".extern", ".shared", ..] => Ok(()),
            // Hints to the assembler.
            [".pragma", "\"nounroll\""] => Ok(()),
            _ => Err("a directive that is not known".into()),
        }
    }

    /// Places a variable in the local memory of a thread.
    pub fn place_local(&mut self, align: usize, bytes: usize) -> usize {
        let start = self.kernel.local.next_multiple_of(align);
        self.kernel.local = start + bytes;
        start
    }

    fn declare(&mut self, class: Class, name: &str) -> Result<()> {
        let next = match class {
            Class::Predicate => &mut self.predicates,
            Class::Half | Class::Word => &mut self.words,
            Class::Long => &mut self.longs,
        };
        let first = *next;
        match name.split_once('<') {
            Some((prefix, count)) => {
                let count = count.trim_end_matches('>').parse().map_err(|_| "no number of registers")?;
                *next += count;
                self.names.prefixes.insert(prefix.into(), (class, first, count));
            }
            None => {
                *next += 1;
                self.names.scopes.last_mut().ok_or("no scope")?.insert(name.into(), (class, first));
            }
        }
        Ok(())
    }

    /// Appends an instruction.
    pub fn emit(&mut self, op: Op, guard: Option<(u32, bool)>, line: u32) {
        self.kernel.code.push(Instruction { op, guard, to: NONE, a: NONE, b: NONE, c: NONE, list: Box::new([]), line });
    }

    /// The instruction being decoded.
    pub fn last(&mut self) -> &mut Instruction {
        self.kernel.code.last_mut().expect("`statement` has appended it")
    }

    pub fn register(&self, text: &str) -> Option<(Class, u32)> {
        if let Some(found) = self.names.scopes.iter().rev().find_map(|scope| scope.get(text)) {
            return Some(*found);
        }
        let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (class, first, count) = *self.names.prefixes.get(&text[..digits])?;
        let number: u32 = text[digits..].parse().ok()?;
        (number < count).then_some((class, first + number))
    }

    /// The register that holds this constant.
    pub fn word_constant(&mut self, value: u32) -> u32 {
        *self.word_constants.entry(value).or_insert_with(|| {
            self.words += 1;
            self.words - 1
        })
    }

    fn long_constant(&mut self, value: u64) -> u32 {
        *self.long_constants.entry(value).or_insert_with(|| {
            self.longs += 1;
            self.longs - 1
        })
    }

    /// The address of a variable in its state space.
    fn symbol(&self, text: &str) -> Option<u64> {
        let place = self.shared.get(text).or_else(|| self.locals.get(text)).copied();
        place.or((text == self.parameter).then_some(0)).map(|at| at as u64)
    }

    /// A source of 32 bits: a register, a special register, a constant, or the address of a variable.
    pub fn word(&mut self, text: &str) -> Result<u32> {
        match self.register(text) {
            Some((Class::Word, register)) => return Ok(register),
            Some(_) => return Err(format!("{text} has not 32 bits")),
            None => {}
        }
        if let Some((vector, axis)) = text.split_once('.') {
            let axis = ["x", "y", "z"].iter().position(|a| *a == axis).ok_or(format!("operand {text}"))? as u32;
            return match vector {
                "%tid" => Ok(TID + axis),
                "%ntid" => Ok(NTID + axis),
                "%ctaid" => Ok(CTAID + axis),
                "%nctaid" => Ok(NCTAID + axis),
                _ => Err(format!("operand {text}")),
            };
        }
        if text == "%laneid" {
            return Ok(LANE);
        }
        let float = text.strip_prefix("0f").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let value = float.or_else(|| number(text).map(|v| v as u32)).or_else(|| self.symbol(text).map(|v| v as u32));
        value.map(|v| self.word_constant(v)).ok_or(format!("operand {text}"))
    }

    /// A source of 16 bits.
    pub fn half(&mut self, text: &str) -> Result<u32> {
        match self.register(text) {
            Some((Class::Half, register)) => Ok(register),
            Some(_) => Err(format!("{text} has not 16 bits")),
            None => {
                let value = number(text).ok_or(format!("operand {text}"))?;
                Ok(self.word_constant(value as u32 & 0xffff))
            }
        }
    }

    /// A source of 64 bits.
    pub fn long(&mut self, text: &str) -> Result<u32> {
        match self.register(text) {
            Some((Class::Long, register)) => Ok(register),
            Some(_) => Err(format!("{text} has not 64 bits")),
            None => {
                let value = number(text).map(|v| v as u64).or_else(|| self.symbol(text));
                value.map(|v| self.long_constant(v)).ok_or(format!("operand {text}"))
            }
        }
    }

    /// A predicate, or a constant in the place of one.
    pub fn predicate(&mut self, text: &str) -> Result<u32> {
        match self.register(text) {
            Some((Class::Predicate, register)) => Ok(register),
            Some(_) => Err(format!("{text} is no predicate")),
            None => number(text).map(|v| (v != 0) as u32).ok_or(format!("operand {text}")),
        }
    }

    /// A destination: a register of this class.
    pub fn to(&mut self, class: Class, text: &str) -> Result<u32> {
        match self.register(text) {
            Some((of, register)) if of == class => Ok(register),
            _ => Err(format!("{text} is not a register of this type")),
        }
    }

    /// `[base+offset]`, where the base is a register, a variable or a number.
    pub fn address(&mut self, text: &str) -> Result<Address> {
        let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(format!("{text} is no address"))?;
        let (base, offset) = match inside.split_once('+') {
            Some((base, offset)) => (base.trim(), number(offset.trim()).ok_or(format!("offset {offset}"))?),
            None => (inside.trim(), 0),
        };
        let (base, start) = match self.register(base) {
            Some((Class::Long, register)) => (Base::Long(register), 0),
            Some((Class::Word, register)) => (Base::Word(register), 0),
            Some(_) => return Err(format!("{base} is no address")),
            None => {
                let argument = self.arguments.get(base).map(|at| *at as i64);
                let start = argument.or_else(|| self.symbol(base).map(|v| v as i64)).or_else(|| number(base));
                (Base::None, start.ok_or(format!("address {text}"))?)
            }
        };
        Ok(Address { base, offset: start + offset })
    }

    /// Whether an address is in an argument or a result of a call.
    pub fn is_argument(&self, text: &str) -> bool {
        let name = text.trim_matches(['[', ']']).split('+').next().unwrap_or("").trim();
        self.arguments.contains_key(name)
    }

    /// Whether an operand is the parameter, which only `ld.param` may name.
    pub fn is_parameter(&self, text: &str) -> bool {
        !self.parameter.is_empty() && text.contains(&self.parameter)
    }
}
