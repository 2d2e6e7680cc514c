//! Splits PTX text: statements with their lines, operands, numbers.

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Label(&'a str),
    /// Opens or closes a scope of registers.
    Open,
    Close,
    /// An instruction or a directive, without the semicolon.
    Statement(String),
    /// `.loc`: file and line of the source.
    Location(u32, u32),
}

/// Calls `visit` for each piece of a body, with its line. `line` is that of the body's first line.
///
/// # Errors
/// Those of `visit`, and text without an end.
pub fn pieces(body: &str, line: u32, mut visit: impl FnMut(Piece, u32) -> Result<(), String>) -> Result<(), String> {
    let (mut pending, mut begun) = (String::new(), line);
    for (i, text) in body.lines().enumerate() {
        let here = line + i as u32;
        let text = text.split("//").next().unwrap_or("");
        if let Some(rest) = text.trim_start().strip_prefix(".loc") {
            let mut numbers = rest.split([' ', '\t', ',']).filter(|w| !w.is_empty()).map_while(|w| w.parse().ok());
            let (Some(file), Some(line)) = (numbers.next(), numbers.next()) else {
                return Err(format!("line {here}: `{}` is not .loc FILE LINE", text.trim()));
            };
            visit(Piece::Location(file, line), here)?;
            continue;
        }
        for c in text.chars() {
            let blank = pending.trim().is_empty();
            if blank {
                begun = here;
            }
            let piece = match c {
                ':' if pending.trim().starts_with('$') => Piece::Label(pending.trim()),
                '{' if blank => Piece::Open,
                '}' if blank => Piece::Close,
                ';' if blank => continue,
                ';' => Piece::Statement(pending.trim().to_string()),
                _ => {
                    pending.push(c);
                    continue;
                }
            };
            visit(piece, begun)?;
            pending.clear();
        }
        pending.push(' ');
    }
    match pending.trim() {
        "" => Ok(()),
        rest => Err(format!("line {begun}: `{rest}` has no end")),
    }
}

/// Splits operands at the commas outside of braces, brackets and parentheses.
pub fn operands(text: &str) -> Vec<&str> {
    let (mut all, mut depth, mut from) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                all.push(text[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        all.push(text[from..].trim());
    }
    all
}

/// Returns the members of `{a, b}`, or the operand itself.
pub fn members(operand: &str) -> Vec<&str> {
    match operand.strip_prefix('{').and_then(|o| o.strip_suffix('}')) {
        Some(inside) => inside.split(',').map(str::trim).collect(),
        None => vec![operand],
    }
}

/// Returns an integer constant, decimal or hexadecimal.
pub fn number(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok()?,
        None => return None,
    } as i64;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// Returns the name and the number in `NAME[NUMBER]`; nothing between the brackets is 0.
pub fn sized(text: &str) -> Option<(&str, usize)> {
    let (name, size) = text.strip_suffix(']')?.split_once('[')?;
    Some((name, if size.is_empty() { 0 } else { size.parse().ok()? }))
}

/// Returns where the braces that open first after `from` close.
pub fn closing(text: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text[from..].bytes().enumerate() {
        match c {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(from + i),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}
