//! Decodes loads, stores, atomics, asynchronous copies and conversions of addresses.

use super::{
    decoder::{Class, Decoder, Result},
    instructions::{Shape, unknown},
    program::*,
    text::{members, number},
};

/// Bytes of a type, and whether it is signed.
fn bytes_of(kind: &str) -> Result<(u8, bool)> {
    Ok(match kind {
        "b8" | "u8" => (1, false),
        "s8" => (1, true),
        "b16" | "u16" => (2, false),
        "s16" => (2, true),
        "b32" | "u32" | "f32" => (4, false),
        "s32" => (4, true),
        "b64" | "u64" | "s64" => (8, false),
        _ => return Err(format!("type {kind}")),
    })
}

impl Decoder<'_> {
    pub fn movement(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        match parts {
            ["ld" | "st", middle @ .., kind] => self.access(parts[0] == "ld", middle, kind, o),
            ["atom" | "red", middle @ .., kind] => self.atomic(parts[0] == "red", middle, kind, o),
            ["cvta", "to", "global", "u64"] | ["cvta", "global", "u64"] => self.set(Op::Mov64, Shape::L1, o),
            ["cvta", "to", "shared", "u64"] => self.set(Op::FromGeneric(Space::Shared), Shape::L1, o),
            ["cvta", "to", "local", "u64"] => self.set(Op::FromGeneric(Space::Local), Shape::L1, o),
            ["cvta", "shared", "u64"] => self.set(Op::ToGeneric(Space::Shared), Shape::L1, o),
            ["cvta", "local", "u64"] => self.set(Op::ToGeneric(Space::Local), Shape::L1, o),
            ["cvta", "param", "u64"] => self.set(Op::ToGeneric(Space::Param), Shape::L1, o),
            ["cp", "async", rest @ ..] => self.copy(rest, o),
            _ => unknown(),
        }
    }

    fn access(&mut self, load: bool, middle: &[&str], kind: &str, o: &[&str]) -> Result<()> {
        let &[first, second] = o else { return unknown() };
        let (mut space, mut count) = (Space::Generic, 1);
        for word in middle {
            match *word {
                "global" => space = Space::Global,
                "shared" => space = Space::Shared,
                "local" => space = Space::Local,
                "param" => space = Space::Param,
                "v2" => count = 2,
                "v4" => count = 4,
                // How the access is ordered or cached: the interpreter carries out accesses one after the other.
                "volatile" | "nc" => {}
                _ => return unknown(),
            }
        }
        let (bytes, signed) = bytes_of(kind)?;
        let (registers, address) = if load { (first, second) } else { (second, first) };
        if self.is_parameter(address) && space != Space::Param {
            return Err("the parameter in another state space".into());
        }
        if self.is_argument(address) {
            if space != Space::Param {
                return Err("an argument in another state space".into());
            }
            space = Space::Local;
        } else if space == Space::Param && !load {
            return Err("a write to the parameter".into());
        }
        let registers = members(registers);
        if registers.len() != count {
            return Err(format!("{} registers, not {count}", registers.len()));
        }
        // Registers may be wider than the type. A load extends the value, a store takes the low part.
        let class = self.register(registers[0]).map(|r| r.0).unwrap_or(match bytes {
            8 => Class::Long,
            4 => Class::Word,
            _ => Class::Half,
        });
        let width = match class {
            Class::Predicate => return Err("a predicate in memory".into()),
            Class::Half => 2,
            Class::Word => 4,
            Class::Long => 8,
        };
        if width < bytes {
            return Err("a register that is too narrow".into());
        }
        let mut list = Vec::new();
        for r in &registers {
            list.push(if load { self.to(class, r)? } else { self.source(class, r)? });
        }
        let at = self.address(address)?;
        let access =
            Access { space, bytes, count: count as u8, signed, half: class == Class::Half, long: class == Class::Long };
        let i = self.last();
        i.op = if load { Op::Load(access, at) } else { Op::Store(access, at) };
        i.list = list.into();
        Ok(())
    }

    fn atomic(&mut self, no_result: bool, middle: &[&str], kind: &str, o: &[&str]) -> Result<()> {
        let (mut space, mut name) = (Space::Generic, None);
        for word in middle {
            match *word {
                "global" => space = Space::Global,
                "shared" => space = Space::Shared,
                "relaxed" | "gpu" | "cta" => {}
                other if name.is_none() => name = Some(other),
                _ => return unknown(),
            }
        }
        let (bytes, _) = bytes_of(kind)?;
        let what = match (name, &kind[..1]) {
            (Some("add"), "u" | "s") => Atomic::Add,
            (Some("min"), "u") => Atomic::MinU,
            (Some("max"), "u") => Atomic::MaxU,
            (Some("min"), "s") => Atomic::MinS,
            (Some("max"), "s") => Atomic::MaxS,
            (Some("or"), "b") => Atomic::Or,
            (Some("and"), "b") => Atomic::And,
            (Some("xor"), "b") => Atomic::Xor,
            (Some("exch"), "b") => Atomic::Exchange,
            (Some("cas"), "b") => Atomic::CompareAndSwap,
            _ => return unknown(),
        };
        let class = match bytes {
            4 => Class::Word,
            8 => Class::Long,
            _ => return unknown(),
        };
        let first = !no_result as usize;
        let values = if what == Atomic::CompareAndSwap { 2 } else { 1 };
        if o.len() != first + 1 + values {
            return unknown();
        }
        let at = self.address(o[first])?;
        let a = self.source(class, o[first + 1])?;
        let b = if values == 2 { self.source(class, o[first + 2])? } else { NONE };
        let to = if no_result { NONE } else { self.to(class, o[0])? };
        let i = self.last();
        i.op = Op::Atomic { space, what, bytes, at };
        (i.to, i.a, i.b) = (to, a, b);
        Ok(())
    }

    fn copy(&mut self, rest: &[&str], o: &[&str]) -> Result<()> {
        let op = match (rest, o) {
            (["commit_group"], []) => Op::CopyCommit,
            (["wait_all"], []) => Op::CopyWait(-1),
            (["wait_group"], [groups]) => {
                Op::CopyWait(number(groups).filter(|n| *n >= 0).ok_or("no number of groups")?)
            }
            (["cg" | "ca", "shared", "global"], [to, from, size, bytes @ ..]) => {
                let size = number(size).ok_or("no size")? as u8;
                if !matches!((rest[0], size), ("cg", 16) | ("ca", 4 | 8 | 16)) {
                    return Err("a size that is not allowed".into());
                }
                let bytes = match bytes {
                    [] => self.word_constant(size as u32),
                    [bytes] => self.word(bytes)?,
                    _ => return unknown(),
                };
                self.last().a = bytes;
                Op::CopyAsync { size, to: self.address(to)?, from: self.address(from)? }
            }
            _ => return unknown(),
        };
        self.last().op = op;
        Ok(())
    }
}
