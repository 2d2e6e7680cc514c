//! Decodes arithmetic and conversions. The other instructions are in `movement.rs` and `collectives.rs`.

use super::{
    decoder::{Class, Decoder, Result},
    program::*,
    text::members,
};

/// The register file of each operand of an instruction, destination first.
#[derive(Clone, Copy)]
pub enum Shape {
    /// One, two or three words to a word.
    W1,
    W2,
    W3,
    H1,
    H2,
    /// Two halves to a word.
    HalvesToWord,
    /// A half to a half, shifted by a word.
    HalfShift,
    L1,
    L2,
    L3,
    /// A long to a long, shifted by a word.
    LongShift,
    /// Two words to a long; two words and a long.
    WordsToLong,
    WordsLongToLong,
    WordToLong,
    LongToWord,
    LongToHalf,
    WordToHalf,
    HalfToWord,
    HalfToLong,
    P1,
    P2,
}

pub fn unknown<T>() -> Result<T> {
    Err("an instruction that is not known".into())
}

impl Decoder<'_> {
    /// Sets the operation and the operands of the instruction being decoded.
    pub fn set(&mut self, op: Op, shape: Shape, o: &[&str]) -> Result<()> {
        use Class::{Half as H, Long as L, Predicate as P, Word as W};
        let (to, sources): (Class, &[Class]) = match shape {
            Shape::W1 => (W, &[W]),
            Shape::W2 => (W, &[W, W]),
            Shape::W3 => (W, &[W, W, W]),
            Shape::H1 => (H, &[H]),
            Shape::H2 => (H, &[H, H]),
            Shape::HalvesToWord => (W, &[H, H]),
            Shape::HalfShift => (H, &[H, W]),
            Shape::L1 => (L, &[L]),
            Shape::L2 => (L, &[L, L]),
            Shape::L3 => (L, &[L, L, L]),
            Shape::LongShift => (L, &[L, W]),
            Shape::WordsToLong => (L, &[W, W]),
            Shape::WordsLongToLong => (L, &[W, W, L]),
            Shape::WordToLong => (L, &[W]),
            Shape::LongToWord => (W, &[L]),
            Shape::LongToHalf => (H, &[L]),
            Shape::WordToHalf => (H, &[W]),
            Shape::HalfToWord => (W, &[H]),
            Shape::HalfToLong => (L, &[H]),
            Shape::P1 => (P, &[P]),
            Shape::P2 => (P, &[P, P]),
        };
        if o.len() != sources.len() + 1 {
            return Err(format!("{} operands, not {}", o.len(), sources.len() + 1));
        }
        let to = self.to(to, o[0])?;
        let mut found = [NONE; 3];
        for (i, class) in sources.iter().enumerate() {
            found[i] = self.source(*class, o[i + 1])?;
        }
        let i = self.last();
        (i.op, i.to, i.a, i.b, i.c) = (op, to, found[0], found[1], found[2]);
        Ok(())
    }

    pub fn source(&mut self, class: Class, text: &str) -> Result<u32> {
        match class {
            Class::Predicate => self.predicate(text),
            Class::Half => self.half(text),
            Class::Word => self.word(text),
            Class::Long => self.long(text),
        }
    }

    /// Decodes the instruction `parts[0].parts[1]...` with operands `o`.
    pub fn instruction(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        if o.iter().any(|x| self.is_parameter(x)) && !matches!(parts[..], ["ld", "param", ..] | ["mov", "b64" | "u64"])
        {
            return Err("the parameter in an instruction other than ld.param and mov".into());
        }
        match parts[0] {
            "cvt" => self.conversion(parts, o),
            "setp" => self.comparison(parts, o),
            "mov" | "selp" => self.choice(parts, o),
            "bfi" => self.insertion(parts, o),
            "ld" | "st" | "atom" | "red" | "cp" | "cvta" => self.movement(parts, o),
            "bra" | "ret" | "exit" | "trap" | "bar" | "barrier" | "membar" | "fence" | "activemask" | "shfl"
            | "vote" | "redux" | "ldmatrix" | "mma" | "wgmma" => self.collective(parts, o),
            "call" => self.call(parts, o),
            _ => {
                let (op, shape) =
                    arithmetic(parts).or_else(|| bits(parts)).ok_or("an instruction that is not known")?;
                self.set(op, shape, o)
            }
        }
    }

    fn comparison(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        let (&["setp", how, kind], &[to, a, b]) = (parts, o) else { return unknown() };
        let how = match how {
            "eq" => Comparison::Eq,
            "ne" => Comparison::Ne,
            "lt" => Comparison::Lt,
            "le" => Comparison::Le,
            "gt" => Comparison::Gt,
            "ge" => Comparison::Ge,
            "equ" => Comparison::Equ,
            "neu" => Comparison::Neu,
            "ltu" => Comparison::Ltu,
            "leu" => Comparison::Leu,
            "gtu" => Comparison::Gtu,
            "geu" => Comparison::Geu,
            "num" => Comparison::Num,
            "nan" => Comparison::Nan,
            _ => return unknown(),
        };
        let equality = matches!(how, Comparison::Eq | Comparison::Ne);
        let ordered = equality || matches!(how, Comparison::Lt | Comparison::Le | Comparison::Gt | Comparison::Ge);
        let (op, class) = match kind {
            "f32" => (Op::CompareF(how), Class::Word),
            "u32" if ordered => (Op::CompareU32(how), Class::Word),
            "b32" if equality => (Op::CompareU32(how), Class::Word),
            "s32" if ordered => (Op::CompareS32(how), Class::Word),
            "u16" if ordered => (Op::CompareU32(how), Class::Half),
            "b16" if equality => (Op::CompareU32(how), Class::Half),
            "s16" if ordered => (Op::CompareS16(how), Class::Half),
            "u64" if ordered => (Op::CompareU64(how), Class::Long),
            "b64" if equality => (Op::CompareU64(how), Class::Long),
            "s64" if ordered => (Op::CompareS64(how), Class::Long),
            _ => return unknown(),
        };
        let (to, a, b) = (self.to(Class::Predicate, to)?, self.source(class, a)?, self.source(class, b)?);
        let i = self.last();
        (i.op, i.to, i.a, i.b) = (op, to, a, b);
        Ok(())
    }

    /// `mov`, also of parts of a register, and `selp`.
    fn choice(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        let &[name, kind] = parts else { return unknown() };
        let class = match kind {
            "pred" => Class::Predicate,
            "b16" | "u16" | "s16" => Class::Half,
            "b32" | "u32" | "s32" | "f32" => Class::Word,
            "b64" | "u64" | "s64" => Class::Long,
            _ => return unknown(),
        };
        if let ("selp", &[to, a, b, c]) = (name, o) {
            let op = match class {
                Class::Predicate => return unknown(),
                Class::Long => Op::Select64,
                _ => Op::Select32,
            };
            let to = self.to(class, to)?;
            let (a, b, c) = (self.source(class, a)?, self.source(class, b)?, self.predicate(c)?);
            let i = self.last();
            (i.op, i.to, i.a, i.b, i.c) = (op, to, a, b, c);
            return Ok(());
        }
        let ("mov", &[to, from]) = (name, o) else { return unknown() };
        let part = match (class, kind) {
            (Class::Word, "b32") => Class::Half,
            (Class::Long, "b64") => Class::Word,
            _ if to.starts_with('{') || from.starts_with('{') => return unknown(),
            _ => Class::Predicate,
        };
        if to.starts_with('{') {
            let [low, high] = members(to)[..] else { return unknown() };
            let list = Box::new([self.to(part, low)?, self.to(part, high)?]);
            let a = self.source(class, from)?;
            let i = self.last();
            (i.op, i.a, i.list) = (if part == Class::Half { Op::Unpack16 } else { Op::Unpack32 }, a, list);
            return Ok(());
        }
        if from.starts_with('{') {
            let [low, high] = members(from)[..] else { return unknown() };
            let (to, a, b) = (self.to(class, to)?, self.source(part, low)?, self.source(part, high)?);
            let i = self.last();
            (i.op, i.to, i.a, i.b) = (if part == Class::Half { Op::Pack16 } else { Op::Pack32 }, to, a, b);
            return Ok(());
        }
        match class {
            Class::Predicate => self.set(Op::MovP, Shape::P1, o),
            Class::Half => self.set(Op::Mov32, Shape::H1, o),
            Class::Word => self.set(Op::Mov32, Shape::W1, o),
            Class::Long => self.set(Op::Mov64, Shape::L1, o),
        }
    }

    fn insertion(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        let (&["bfi", kind], &[to, a, b, position, bits]) = (parts, o) else { return unknown() };
        let (op, class) = match kind {
            "b32" => (Op::Bfi32, Class::Word),
            "b64" => (Op::Bfi64, Class::Long),
            _ => return unknown(),
        };
        let (to, a, b) = (self.to(class, to)?, self.source(class, a)?, self.source(class, b)?);
        let list = Box::new([self.word(position)?, self.word(bits)?]);
        let i = self.last();
        (i.op, i.to, i.a, i.b, i.list) = (op, to, a, b, list);
        Ok(())
    }

    fn conversion(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        // A source may be wider than its type; then its low part counts.
        let wide = o.get(1).and_then(|x| self.register(x)).map(|r| r.0);
        let (op, shape) = match parts[1..] {
            ["s64", "s32"] if wide == Some(Class::Long) => (Op::SignExtendLow, Shape::L1),
            ["u64", "u32"] if wide == Some(Class::Long) => (Op::ZeroExtendLow, Shape::L1),
            ["s64", "s32"] => (Op::SignExtend, Shape::WordToLong),
            ["u64", "u32"] => (Op::ZeroExtend, Shape::WordToLong),
            ["u64", "u16"] => (Op::ZeroExtend, Shape::HalfToLong),
            ["u32", "u64"] | ["s32", "s64"] | ["s32", "u64"] | ["u32", "s64"] => (Op::Low32, Shape::LongToWord),
            ["u16", "u32"] | ["s16", "s32"] => (Op::Low16, Shape::WordToHalf),
            ["u16", "u64"] => (Op::Low16Of64, Shape::LongToHalf),
            ["u32", "u16"] => (Op::Mov32, Shape::HalfToWord),
            ["s32", "s16"] => (Op::SignExtend16, Shape::HalfToWord),
            ["f32", "bf16"] => (Op::FloatOfBf16, Shape::HalfToWord),
            ["rn", "bf16", "f32"] => (Op::Bf16OfFloat, Shape::WordToHalf),
            ["rn", "bf16x2", "f32"] => (Op::Bf16PairOfFloats, Shape::W2),
            ["rn", "f32", "s32"] => (Op::FloatOfS32, Shape::W1),
            ["rn", "f32", "u32"] => (Op::FloatOfU32, Shape::W1),
            ["rn", "f32", "s64"] => (Op::FloatOfS64, Shape::LongToWord),
            ["rn", "f32", "u64"] => (Op::FloatOfU64, Shape::LongToWord),
            ["rn", "f64", "u64"] => (Op::DoubleOfU64, Shape::L1),
            ["rn", "f64", "s64"] => (Op::DoubleOfS64, Shape::L1),
            ["rn", "f32", "f64"] => (Op::FloatOfDouble, Shape::LongToWord),
            ["sat", "f32", "f32"] => (Op::Saturate, Shape::W1),
            ["rzi", "u32", "f32"] => (Op::ToU32, Shape::W1),
            ["rzi", "s32", "f32"] => (Op::ToS32, Shape::W1),
            ["rni", "f32", "f32"] => (Op::RoundEven, Shape::W1),
            _ => return unknown(),
        };
        self.set(op, shape, o)
    }
}

/// Integer and f32 arithmetic.
fn arithmetic(parts: &[&str]) -> Option<(Op, Shape)> {
    use Shape::*;
    Some(match parts {
        ["add", "s32" | "u32"] => (Op::Add32, W2),
        ["add", "s64" | "u64"] => (Op::Add64, L2),
        ["add", "s16" | "u16"] => (Op::Add16, H2),
        ["add", "f32"] | ["add", "rn", "f32"] => (Op::AddF, W2),
        ["add", "rz", "f32"] => (Op::AddRz, W2),
        ["sub", "s32" | "u32"] => (Op::Sub32, W2),
        ["sub", "s64" | "u64"] => (Op::Sub64, L2),
        ["sub", "s16" | "u16"] => (Op::Sub16, H2),
        ["sub", "f32"] | ["sub", "rn", "f32"] => (Op::SubF, W2),
        ["mul", "lo", "s32" | "u32"] => (Op::Mul32, W2),
        ["mul", "lo", "s64" | "u64"] => (Op::Mul64, L2),
        ["mul", "lo", "s16" | "u16"] => (Op::Mul16, H2),
        ["mul", "hi", "u32"] => (Op::MulHiU32, W2),
        ["mul", "hi", "s32"] => (Op::MulHiS32, W2),
        ["mul", "hi", "u64"] => (Op::MulHiU64, L2),
        ["mul", "wide", "u32"] => (Op::MulWideU32, WordsToLong),
        ["mul", "wide", "s32"] => (Op::MulWideS32, WordsToLong),
        ["mul", "wide", "u16"] => (Op::MulWideU16, HalvesToWord),
        ["mul", "wide", "s16"] => (Op::MulWideS16, HalvesToWord),
        ["mul", "f32"] | ["mul", "rn", "f32"] => (Op::MulF, W2),
        ["mad", "lo", "s32" | "u32"] => (Op::Mad32, W3),
        ["mad", "lo", "s64" | "u64"] => (Op::Mad64, L3),
        ["mad", "wide", "u32"] => (Op::MadWideU32, WordsLongToLong),
        ["mad", "wide", "s32"] => (Op::MadWideS32, WordsLongToLong),
        ["fma", "rn", "f32"] => (Op::FmaF, W3),
        ["fma", "rm", "f32"] => (Op::FmaRm, W3),
        ["div", "s32"] => (Op::DivS32, W2),
        ["div", "u32"] => (Op::DivU32, W2),
        ["div", "s64"] => (Op::DivS64, L2),
        ["div", "u64"] => (Op::DivU64, L2),
        ["div", "rn", "f32"] => (Op::DivF, W2),
        ["div", "rn", "f64"] => (Op::DivD, L2),
        ["rem", "s32"] => (Op::RemS32, W2),
        ["rem", "u32"] => (Op::RemU32, W2),
        ["rem", "s64"] => (Op::RemS64, L2),
        ["rem", "u64"] => (Op::RemU64, L2),
        ["min", "s32"] => (Op::MinS32, W2),
        ["min", "u32"] => (Op::MinU32, W2),
        ["min", "s64"] => (Op::MinS64, L2),
        ["min", "u64"] => (Op::MinU64, L2),
        ["min", "f32"] => (Op::MinF, W2),
        ["max", "s32"] => (Op::MaxS32, W2),
        ["max", "u32"] => (Op::MaxU32, W2),
        ["max", "s64"] => (Op::MaxS64, L2),
        ["max", "u64"] => (Op::MaxU64, L2),
        ["max", "f32"] => (Op::MaxF, W2),
        ["rcp", "rn", "f32"] => (Op::RcpF, W1),
        ["rcp", "approx", "ftz", "f32"] => (Op::RcpFtz, W1),
        ["sqrt", "rn", "f32"] => (Op::SqrtF, W1),
        ["ex2", "approx", "f32"] => (Op::Exp2, W1),
        ["ex2", "approx", "ftz", "f32"] => (Op::Exp2Ftz, W1),
        ["lg2", "approx", "f32"] => (Op::Log2, W1),
        ["tanh", "approx", "f32"] => (Op::TanhF, W1),
        ["abs", "f32"] => (Op::AbsF, W1),
        ["abs", "s32"] => (Op::Abs32, W1),
        ["neg", "f32"] => (Op::NegF, W1),
        ["neg", "s32"] => (Op::Neg32, W1),
        ["neg", "s64"] => (Op::Neg64, L1),
        ["copysign", "f32"] => (Op::CopySign, W2),
        _ => return None,
    })
}

/// Logic, shifts and bit fields.
fn bits(parts: &[&str]) -> Option<(Op, Shape)> {
    use Shape::*;
    Some(match parts {
        ["and", "pred"] => (Op::AndP, P2),
        ["or", "pred"] => (Op::OrP, P2),
        ["xor", "pred"] => (Op::XorP, P2),
        ["not", "pred"] => (Op::NotP, P1),
        ["and", "b32"] => (Op::And32, W2),
        ["or", "b32"] => (Op::Or32, W2),
        ["xor", "b32"] => (Op::Xor32, W2),
        ["not", "b32"] => (Op::Not32, W1),
        ["and", "b16"] => (Op::And32, H2),
        ["or", "b16"] => (Op::Or32, H2),
        ["xor", "b16"] => (Op::Xor32, H2),
        ["not", "b16"] => (Op::Not16, H1),
        ["and", "b64"] => (Op::And64, L2),
        ["or", "b64"] => (Op::Or64, L2),
        ["xor", "b64"] => (Op::Xor64, L2),
        ["not", "b64"] => (Op::Not64, L1),
        ["shl", "b32"] => (Op::Shl32, W2),
        ["shr", "u32" | "b32"] => (Op::ShrU32, W2),
        ["shr", "s32"] => (Op::ShrS32, W2),
        ["shl", "b16"] => (Op::Shl16, HalfShift),
        ["shr", "u16" | "b16"] => (Op::ShrU16, HalfShift),
        ["shr", "s16"] => (Op::ShrS16, HalfShift),
        ["shl", "b64"] => (Op::Shl64, LongShift),
        ["shr", "u64" | "b64"] => (Op::ShrU64, LongShift),
        ["shr", "s64"] => (Op::ShrS64, LongShift),
        ["bfe", "u32"] => (Op::BfeU32, W3),
        ["bfind", "shiftamt", "u32"] => (Op::BfindShift, W1),
        ["brev", "b32"] => (Op::Brev32, W1),
        ["brev", "b64"] => (Op::Brev64, L1),
        ["popc", "b32"] => (Op::Popc32, W1),
        ["popc", "b64"] => (Op::Popc64, LongToWord),
        ["clz", "b32"] => (Op::Clz32, W1),
        ["clz", "b64"] => (Op::Clz64, LongToWord),
        ["prmt", "b32"] => (Op::Prmt, W3),
        _ => return None,
    })
}
