//! Decodes calls of functions: the body of the function takes the place of the call, with its own registers and labels.
//! Arguments and results are variables in the local memory of the thread. There is no recursion.

use super::{
    decoder::{Decoder, Result},
    instructions::unknown,
    text::sized,
};

/// Name, alignment and bytes of `.param .align 8 .b8 NAME[24]` or `.param .b64 NAME`.
fn parameter<'a>(words: &[&'a str]) -> Option<(&'a str, usize, usize)> {
    match words {
        [".param", ".align", align, ".b8", variable] => {
            let (name, bytes) = sized(variable)?;
            Some((name, align.parse().ok()?, bytes))
        }
        [".param", kind, name] => {
            let bits: usize = kind.strip_prefix(".b")?.parse().ok().filter(|b| matches!(b, 8 | 16 | 32 | 64))?;
            Some((name, bits / 8, bits / 8))
        }
        _ => None,
    }
}

impl Decoder<'_> {
    /// A variable for an argument or a result.
    pub fn declare_parameter(&mut self, words: &[&str]) -> Result<()> {
        let (name, align, bytes) = parameter(words).ok_or("not a parameter that is known")?;
        let at = self.place_local(align, bytes);
        self.arguments.insert(name.into(), at);
        Ok(())
    }

    /// `call.uni (result), function, (arguments)`.
    pub fn call(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        let (&["call", "uni"], &[result, name, arguments]) = (parts, o) else { return unknown() };
        if self.last().guard.is_some() || self.depth > 8 {
            return Err("a call with a guard, or calls that are nested too deeply".into());
        }
        let (text, line) = self.module.function(name).ok_or(format!("there is no function {name}"))?;
        let open = text.find("\n{").ok_or("a function without a body")?;
        let (signature, body) = (&text[..open], &text[open + 2..]);
        let listed = |s: &str| s.trim_matches(['(', ')']).split(',').map(|x| x.trim().to_string()).collect::<Vec<_>>();
        let given: Vec<String> = [listed(result), listed(arguments)].concat();
        // The declarations stand between parentheses: that of the result first.
        let declared: Vec<&str> = signature.split(['(', ')', ',']).filter(|s| s.trim().starts_with(".param")).collect();
        if declared.len() != given.len() {
            return Err(format!("{} arguments and results, not {}", given.len(), declared.len()));
        }
        for (declaration, given) in declared.iter().zip(&given) {
            let words: Vec<&str> = declaration.split_whitespace().collect();
            let (name, ..) = parameter(&words).ok_or(format!("`{declaration}`"))?;
            let place = *self.arguments.get(given).ok_or(format!("{given} is not a variable"))?;
            self.arguments.insert(name.into(), place);
        }
        let caller = std::mem::take(&mut self.names);
        self.depth += 1;
        let done = self.body(body, line + signature.matches('\n').count() as u32 + 1);
        self.depth -= 1;
        self.names = caller;
        done.map_err(|e| format!("function {name}, {e}"))
    }
}
