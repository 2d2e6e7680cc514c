//! Rewrites the errors of the command-line parser: what is wrong and what to write instead.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{base::Error, train::Settings};

/// Converts an error of the parser: what it rejects, and what it accepts.
pub fn worded(e: &clap::Error) -> Error {
    let context = Context(e);
    context.worded().unwrap_or_else(|| {
        let text = e.render().to_string();
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Error::user(first.trim_start_matches("error: "))
    })
}

/// Access to the context of a parser error.
struct Context<'a>(&'a clap::Error);

impl Context<'_> {
    fn text(&self, kind: ContextKind) -> Option<&str> {
        match self.0.get(kind)? {
            ContextValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns one or several texts as a list.
    fn texts(&self, kind: ContextKind) -> Vec<&str> {
        match self.0.get(kind) {
            Some(ContextValue::String(text)) => vec![text],
            Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn number(&self, kind: ContextKind) -> Option<isize> {
        match self.0.get(kind)? {
            ContextValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the flag, or the name of a positional argument: `--lr` for `--lr <LR>`, `DATA` for `[DATA]`.
    fn argument(&self) -> Option<&str> {
        name_of(self.text(ContextKind::InvalidArg)?)
    }

    /// Returns the usage line: `mipgpu train [OPTIONS] [DATA]`.
    fn usage(&self) -> Option<String> {
        let Some(ContextValue::StyledStr(usage)) = self.0.get(ContextKind::Usage) else { return None };
        let usage = usage.to_string();
        let line = usage.lines().map(str::trim).find(|line| !line.is_empty())?;
        let line = line.trim_start_matches("Usage:").trim();
        line.starts_with("mipgpu").then(|| line.to_string())
    }

    /// Returns the command: `mipgpu train`.
    fn command(&self) -> Option<String> {
        let usage = self.usage()?;
        let words = usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        Some(words.collect::<Vec<_>>().join(" "))
    }

    fn with_usage(&self, e: Error) -> Error {
        match self.usage() {
            Some(usage) => e.hint(format!("write {usage}")),
            None => e,
        }
    }

    fn worded(&self) -> Option<Error> {
        match self.0.kind() {
            ErrorKind::UnknownArgument => self.unknown(),
            ErrorKind::InvalidValue => self.invalid_value(),
            ErrorKind::ValueValidation => self.refused_value(),
            ErrorKind::MissingRequiredArgument => {
                let missing: Vec<String> = self.texts(ContextKind::InvalidArg).into_iter().map(alternatives).collect();
                let what = match missing.len() {
                    0 => return None,
                    1 => format!("a required argument is missing: {}", missing[0]),
                    _ => format!("required arguments are missing: {}", missing.join(", ")),
                };
                Some(self.with_usage(Error::user(what)))
            }
            ErrorKind::ArgumentConflict => self.conflict(),
            ErrorKind::InvalidSubcommand => {
                let typed = self.text(ContextKind::InvalidSubcommand)?;
                let e = Error::user(format!("there is no command '{typed}'"));
                let command = self.command().unwrap_or_else(|| "mipgpu".into());
                Some(match self.texts(ContextKind::SuggestedSubcommand).last() {
                    Some(near) => e.hint(format!("did you mean `{command} {near}`?")),
                    None => e.hint(format!("`{command} --help` lists the commands")),
                })
            }
            ErrorKind::MissingSubcommand => {
                let command = self.text(ContextKind::InvalidSubcommand)?;
                let e = Error::user(format!("`{command}` requires a command"));
                let commands = self.texts(ContextKind::ValidSubcommand);
                Some(e.hint(format!("choose one of: {}", commands.join(", "))))
            }
            ErrorKind::NoEquals => {
                let flag = self.argument()?;
                Some(Error::user(format!("{flag} requires an equals sign")).hint(format!("write {flag}=VALUE")))
            }
            ErrorKind::TooManyValues => {
                let (name, value) = (self.argument()?, self.text(ContextKind::InvalidValue)?);
                Some(self.with_usage(Error::user(format!("{name}: '{value}' is one value too many"))))
            }
            ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
                let name = self.argument()?;
                let given = self.number(ContextKind::ActualNumValues)?;
                let least = self.number(ContextKind::MinValues).map(|n| format!("at least {n}"));
                let wanted = least.or_else(|| self.number(ContextKind::ExpectedNumValues).map(|n| n.to_string()))?;
                let values = if given == 1 { "value is" } else { "values are" };
                Some(self.with_usage(Error::user(format!("{name}: {given} {values} given, {wanted} are required"))))
            }
            ErrorKind::InvalidUtf8 => {
                Some(Error::user("an argument is not UTF-8 text").hint("write it in a UTF-8 locale"))
            }
            _ => None,
        }
    }

    fn unknown(&self) -> Option<Error> {
        let word = self.text(ContextKind::InvalidArg)?;
        let (usage, command) = (self.usage(), self.command());
        if !word.starts_with('-') {
            return Some(self.with_usage(Error::user(format!("'{word}' is one argument too many"))));
        }
        let e = Error::user(match &command {
            Some(command) if command != "mipgpu" => format!("`{command}` has no flag '{word}'"),
            _ => format!("there is no flag '{word}'"),
        });
        Some(match (self.text(ContextKind::SuggestedArg), command) {
            (Some(near), _) => e.hint(format!("did you mean '{near}'?")),
            (None, Some(command)) if command != "mipgpu" => e.hint(format!("`{command} --help-all` lists its flags")),
            (None, Some(_)) if usage.is_some_and(|usage| usage.contains("<COMMAND>")) => {
                e.hint("flags follow the command: mipgpu COMMAND --flag; `mipgpu --help` lists the commands")
            }
            // Settings that are not parsed from a command line.
            (None, _) => e,
        })
    }

    fn invalid_value(&self) -> Option<Error> {
        let (name, value) = (self.argument()?, self.text(ContextKind::InvalidValue)?);
        let accepted = self.texts(ContextKind::ValidValue);
        let what = match value {
            "" => format!("{name} requires a value"),
            value => format!("{name} does not accept '{value}'"),
        };
        let near =
            self.text(ContextKind::SuggestedValue).map_or(String::new(), |near| format!("did you mean '{near}'? "));
        let e = Error::user(what);
        Some(if accepted.contains(&"true") {
            e.hint(format!("write {name} true, or {name} false"))
        } else if !accepted.is_empty() {
            e.hint(format!("{near}{name} accepts: {}", accepted.join(", ")))
        } else if let Some(usual) = usual(name) {
            e.hint(format!("write a value after it, such as {name} {usual}"))
        } else {
            e.hint(format!("write a value after it: {}", self.text(ContextKind::InvalidArg)?))
        })
    }

    /// Converts the error for a value that its type does not accept.
    fn refused_value(&self) -> Option<Error> {
        let (name, value) = (self.argument()?, self.text(ContextKind::InvalidValue)?);
        let why = self.0.source()?.to_string();
        let such_as = |usual: Option<String>, otherwise: &str| {
            format!(", such as {name} {}", usual.as_deref().unwrap_or(otherwise))
        };
        let shown = if value.is_empty() { "''" } else { value };
        Some(match why.as_str() {
            "invalid float literal" | "cannot parse float from empty string" => {
                Error::user(format!("{name} {shown} is not a number"))
                    .hint(format!("a number is expected{}", such_as(usual(name), "0.001")))
            }
            "invalid digit found in string" | "cannot parse integer from empty string" => {
                Error::user(format!("{name} {shown} is not a whole number from 0 up"))
                    .hint(format!("a whole number from 0 up is expected{}", such_as(usual(name), "10")))
            }
            "number too large to fit in target type" => Error::user(format!("{name} {shown} is too large"))
                .hint(format!("a smaller whole number is expected{}", such_as(usual(name), "10"))),
            why => match (limits(why), why.split_once("\n  hint: ")) {
                (Some(limits), _) => Error::user(format!("{name} {shown} is out of range")).hint(limits),
                (None, Some((what, hint))) => Error::user(format!("{name} {shown}: {what}")).hint(hint),
                (None, None) => Error::user(format!("{name} does not accept '{value}'")).hint(why),
            },
        })
    }

    fn conflict(&self) -> Option<Error> {
        let one = self.text(ContextKind::InvalidArg).or_else(|| self.text(ContextKind::InvalidSubcommand))?;
        let others = self.texts(ContextKind::PriorArg);
        let name = |text: &str| name_of(text).unwrap_or_default().to_string();
        if others == [one] {
            return Some(Error::user(format!("{} is given more than once", name(one))).hint("give it once"));
        }
        let e = Error::user(match others.len() {
            0 => format!("{} cannot be used with the other flags", name(one)),
            _ => {
                let others: Vec<String> = others.iter().map(|other| name(other)).collect();
                format!("{} cannot be used with {}", name(one), others.join(", "))
            }
        });
        Some(e.hint("omit one of them"))
    }
}

/// Returns the flag of `--lr <LR>`, or the name of `[DATA]`.
fn name_of(argument: &str) -> Option<&str> {
    let first = argument.split_whitespace().next()?;
    let open = |c: char| "<[]>.".contains(c);
    Some(if first.starts_with('-') { first } else { first.trim_matches(open) })
}

/// Describes a group of which one is required, such as `<--users <KEY>|--all-users>`.
fn alternatives(argument: &str) -> String {
    let inner = argument.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    match inner.filter(|inner| inner.contains('|')) {
        Some(inner) => {
            let names: Vec<&str> = inner.split('|').filter_map(name_of).collect();
            format!("one of {}", names.join(", "))
        }
        None => argument.to_string(),
    }
}

/// Returns the default of a setting, to be used as an example.
fn usual(flag: &str) -> Option<String> {
    let settings = serde_json::json!(Settings::default());
    let value = settings.get(flag.strip_prefix("--")?)?;
    match value.as_u64() {
        Some(whole) => Some(whole.to_string()),
        // Print the digits of an f32.
        None => value.as_f64().map(|x| (x as f32).to_string()),
    }
}

/// Describes the range that the parser's "0 is not in 1..=9" accepts.
fn limits(why: &str) -> Option<String> {
    let (_, range) = why.split_once(" is not in ")?;
    let (least, most) = range.split_once("..")?;
    let most: Option<i128> = most.trim_start_matches('=').parse().ok();
    // The maximum of the widest type is not worth printing.
    let most = most.filter(|most| *most < i128::from(i64::MAX));
    Some(match most {
        Some(most) => format!("a whole number from {least} to {most} is expected"),
        None => format!("a whole number from {least} up is expected"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn what_is_wrong_and_what_is_right_are_said() {
        for (words, what, right) in [
            ("train data --lr abc", "--lr abc is not a number", "a number is expected, such as --lr 0.0015"),
            (
                "train data --dropout 0,1",
                "--dropout 0,1 is not a number",
                "a number is expected, such as --dropout 0.1",
            ),
            (
                "train data --width 6.5",
                "--width 6.5 is not a whole number from 0 up",
                "a whole number from 0 up is expected, such as --width 128",
            ),
            (
                "train data --epochs ten",
                "--epochs ten is not a whole number from 0 up",
                "a whole number from 0 up is expected, such as --epochs 100",
            ),
            ("train data --lr", "--lr requires a value", "write a value after it, such as --lr 0.0015"),
            (
                "eval run --negatives x",
                "--negatives x is not a whole number from 0 up",
                "a whole number from 0 up is expected, such as --negatives 512",
            ),
            ("check --seeds 0", "--seeds 0 is out of range", "a whole number from 1 up is expected"),
            ("train data --norm mid", "--norm does not accept 'mid'", "--norm accepts: post, pre"),
            ("train data --widht 3", "`mipgpu train` has no flag '--widht'", "did you mean '--width'?"),
            ("train data --zzz 3", "`mipgpu train` has no flag '--zzz'", "`mipgpu train --help-all` lists its flags"),
            ("train data more", "'more' is one argument too many", "write mipgpu train "),
            ("evaluate data", "there is no command 'evaluate'", "did you mean `mipgpu eval`?"),
            ("zzz data", "there is no command 'zzz'", "`mipgpu --help` lists the commands"),
            ("train data --lr 1 --lr 2", "--lr is given more than once", "give it once"),
            ("train data --resume run", "DATA cannot be used with --resume", "omit one of them"),
            ("recommend run --all-users --stdin", "--all-users cannot be used with --stdin", "omit one of them"),
            (
                "recommend run",
                "a required argument is missing: one of --users, --users-file, ",
                "write mipgpu recommend ",
            ),
            ("search --out s --seed 1 --over lr=1 -- train", "a required argument is missing: --random <N>", "write "),
            ("eval", "a required argument is missing: <RUN>", "write mipgpu eval "),
            ("compare one", "RUN: 1 value is given, at least 2 are required", "write mipgpu compare "),
            ("train data --device gpu", "--device does not accept 'gpu'", "valid devices are auto, cpu, cuda, "),
        ] {
            let words = std::iter::once("mipgpu").chain(words.split_whitespace());
            let said = worded(&Cli::try_parse_from(words.clone()).unwrap_err());
            let hint = said.hint.as_deref().unwrap_or_default();
            assert!(said.what.starts_with(what), "{words:?}: {said}");
            assert!(hint.starts_with(right), "{words:?}: {said}");
        }
    }

    #[test]
    fn ranges_are_told_in_words() {
        assert_eq!(limits("0 is not in 1..").unwrap(), "a whole number from 1 up is expected");
        assert_eq!(limits("9 is not in 1..=8").unwrap(), "a whole number from 1 to 8 is expected");
        assert_eq!(
            limits("5000000000 is not in 0..=4294967295").unwrap(),
            "a whole number from 0 to 4294967295 is expected"
        );
        assert_eq!(limits("anything else"), None);
    }
}
