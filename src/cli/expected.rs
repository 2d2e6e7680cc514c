//! What a flag expects, where it was given something else: the parser says what is wrong, this says what would be
//! right.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::train::Settings;

/// What to write instead; `None` where the parser has said it.
pub fn expected(e: &clap::Error) -> Option<String> {
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // "--lr <LR>"
    let flag = text(ContextKind::InvalidArg)?.split_whitespace().next()?;
    let usual = serde_json::json!(Settings::default());
    let usual = usual.get(flag.trim_start_matches('-')).and_then(|value| match value.as_u64() {
        Some(whole) => Some(whole.to_string()),
        // With the digits that an f32 has.
        None => value.as_f64().map(|x| (x as f32).to_string()),
    });
    match e.kind() {
        ErrorKind::InvalidValue => match e.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) if values.iter().any(|v| v == "true") => {
                Some(format!("write {flag} true, or {flag} false"))
            }
            Some(ContextValue::Strings(values)) if !values.is_empty() => None,
            _ => usual.map(|usual| format!("write a value behind it, such as {flag} {usual}")),
        },
        ErrorKind::ValueValidation => {
            let why = e.source()?.to_string();
            let kind = match why.as_str() {
                "invalid float literal" | "cannot parse float from empty string" => "a number is expected",
                "invalid digit found in string" | "cannot parse integer from empty string" => {
                    "a whole number from 0 up is expected"
                }
                _ => return None,
            };
            Some(usual.map_or(kind.to_string(), |usual| format!("{kind}, such as {flag} {usual}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn what_would_be_right_is_said() {
        let says = |words: &str| expected(&Cli::try_parse_from(words.split_whitespace()).unwrap_err());
        for (words, right) in [
            ("mipgpu train data --exclude-seen", "write --exclude-seen true, or --exclude-seen false"),
            ("mipgpu train --exclude-seen data", "write --exclude-seen true, or --exclude-seen false"),
            ("mipgpu train data --projection --seed 3", "write --projection true, or --projection false"),
            ("mipgpu train data --lr abc", "a number is expected, such as --lr 0.0015"),
            ("mipgpu train data --dropout 0,1", "a number is expected, such as --dropout 0.1"),
            ("mipgpu train data --width 6.5", "a whole number from 0 up is expected, such as --width 128"),
            ("mipgpu train data --epochs ten", "a whole number from 0 up is expected, such as --epochs 100"),
            ("mipgpu train data --lr", "write a value behind it, such as --lr 0.0015"),
            ("mipgpu eval run --negatives x", "a whole number from 0 up is expected"),
        ] {
            let said = says(words);
            assert!(said.as_deref().is_some_and(|said| said.starts_with(right)), "{words}: {said:?}");
        }
        // The parser names what there is.
        assert_eq!(says("mipgpu train data --norm mid"), None);
        assert_eq!(says("mipgpu train data --widht 3"), None);
    }
}
