//! Decodes branches, barriers, and the instructions that lanes of a warp carry out together.

use super::{
    decoder::{Class, Decoder, END, Result},
    instructions::unknown,
    program::*,
    text::{members, number},
};

impl Decoder<'_> {
    pub fn collective(&mut self, parts: &[&str], o: &[&str]) -> Result<()> {
        let op = match (parts, o) {
            (["bra"] | ["bra", "uni"], [label]) => {
                self.names.jumps.push((self.kernel.code.len() - 1, label.to_string()));
                Op::Branch(0)
            }
            // In a function that was called, back to the caller.
            (["ret"], []) if self.depth > 0 => {
                self.names.jumps.push((self.kernel.code.len() - 1, END.into()));
                Op::Branch(0)
            }
            (["ret"] | ["exit"], []) => Op::Exit,
            (["trap"], []) => Op::Trap,
            (["bar", "sync"] | ["barrier", "sync", "aligned"], ["0"]) => Op::Barrier(Combine::Nothing),
            (["bar", "red", how, kind], [to, "0", from]) => {
                let (how, class) = match (*how, *kind) {
                    ("or", "pred") => (Combine::Or, Class::Predicate),
                    ("and", "pred") => (Combine::And, Class::Predicate),
                    ("popc", "u32") => (Combine::Count, Class::Word),
                    _ => return unknown(),
                };
                let (to, a) = (self.to(class, to)?, self.predicate(from)?);
                (self.last().to, self.last().a) = (to, a);
                Op::Barrier(how)
            }
            (["bar", "warp", "sync"], [mask]) => {
                self.last().b = self.word(mask)?;
                Op::WarpBarrier
            }
            // Accesses are carried out one after the other, so that fences of the generic proxy have nothing to order.
            (["membar", "gl" | "cta"] | ["fence", "sc" | "acq_rel", "gpu" | "cta"], []) => Op::Nop,
            (["fence", "proxy", "async", "shared::cta"], []) => Op::FenceAsync,
            (["activemask", "b32"], [to]) => {
                self.last().to = self.to(Class::Word, to)?;
                Op::ActiveMask
            }
            (["shfl", "sync", how, "b32"], &[to, from, b, c, mask]) => self.shuffle(how, to, [from, b, c, mask])?,
            (["vote", "sync", how, kind], &[to, from, mask]) => {
                let (what, class) = match (*how, *kind) {
                    ("ballot", "b32") => (Vote::Ballot, Class::Word),
                    ("any", "pred") => (Vote::Any, Class::Predicate),
                    ("all", "pred") => (Vote::All, Class::Predicate),
                    _ => return unknown(),
                };
                let (from, negated) = from.strip_prefix('!').map_or((from, false), |p| (p, true));
                let (to, a, b) = (self.to(class, to)?, self.predicate(from)?, self.word(mask)?);
                let i = self.last();
                (i.to, i.a, i.b) = (to, a, b);
                Op::Vote { what, negated }
            }
            (["redux", "sync", how, kind], [to, from, mask]) => {
                let what = match (*how, *kind) {
                    ("add", "u32" | "s32") => Reduction::Add,
                    ("min", "u32") => Reduction::MinU,
                    ("min", "s32") => Reduction::MinS,
                    ("max", "u32") => Reduction::MaxU,
                    ("max", "s32") => Reduction::MaxS,
                    _ => return unknown(),
                };
                let (to, a, b) = (self.to(Class::Word, to)?, self.word(from)?, self.word(mask)?);
                let i = self.last();
                (i.to, i.a, i.b) = (to, a, b);
                Op::Reduce(what)
            }
            (["ldmatrix", "sync", "aligned", "m8n8", count, rest @ ..], [to, address]) => {
                let transposed = match rest {
                    ["shared", "b16"] => false,
                    ["trans", "shared", "b16"] => true,
                    _ => return unknown(),
                };
                let count = match *count {
                    "x2" => 2,
                    "x4" => 4,
                    _ => return unknown(),
                };
                let list = self.registers(to, count, true)?;
                self.last().list = list.into();
                Op::LoadMatrix { count: count as u8, transposed, at: self.address(address)? }
            }
            (["mma", "sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"], [d, a, b, c]) => {
                let mut list = self.registers(d, 4, true)?;
                for (operand, count) in [(a, 4), (b, 2), (c, 4)] {
                    list.extend(self.registers(operand, count, false)?);
                }
                self.last().list = list.into();
                Op::Mma
            }
            (["wgmma", rest @ ..], _) => self.wgmma(rest, o)?,
            _ => return unknown(),
        };
        self.last().op = op;
        Ok(())
    }

    /// The words of a vector operand.
    fn registers(&mut self, operand: &str, count: usize, destination: bool) -> Result<Vec<u32>> {
        let all = members(operand);
        if all.len() != count {
            return Err(format!("{} registers, not {count}", all.len()));
        }
        all.iter().map(|r| if destination { self.to(Class::Word, r) } else { self.word(r) }).collect()
    }

    fn shuffle(&mut self, how: &str, to: &str, [from, b, c, mask]: [&str; 4]) -> Result<Op> {
        let how = match how {
            "idx" => Shuffle::Index,
            "bfly" => Shuffle::Butterfly,
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            _ => return unknown(),
        };
        let (to, predicate) = match to.split_once('|') {
            Some((to, predicate)) => (to, self.to(Class::Predicate, predicate)?),
            None => (to, NONE),
        };
        let to = self.to(Class::Word, to)?;
        let list = [self.word(from)?, self.word(c)?, predicate];
        let (a, b, mask) = (list[0], self.word(b)?, self.word(mask)?);
        let i = self.last();
        (i.to, i.a, i.b, i.c, i.list) = (to, a, mask, b, Box::new([list[1], list[2]]));
        Ok(Op::Shuffle(how))
    }

    fn wgmma(&mut self, rest: &[&str], o: &[&str]) -> Result<Op> {
        match (rest, o) {
            (["fence", "sync", "aligned"], []) => Ok(Op::GroupFence),
            (["commit_group", "sync", "aligned"], []) => Ok(Op::GroupCommit),
            (["wait_group", "sync", "aligned"], [groups]) => {
                Ok(Op::GroupWait(number(groups).filter(|n| *n >= 0).ok_or("no number of groups")?))
            }
            (
                ["mma_async", "sync", "aligned", "m64n64k16", "f32", "bf16", "bf16"],
                [d, left, right, scale, rest @ ..],
            ) => {
                let mut list = self.registers(d, 32, true)?;
                let left_in_registers = left.starts_with('{');
                let a = if left_in_registers {
                    list.extend(self.registers(left, 4, false)?);
                    NONE
                } else {
                    self.long(left)?
                };
                // The scales of a and b; where a is in shared memory, whether it is transposed; whether b is.
                let right_transposed = match (left_in_registers, rest) {
                    (true, ["1", "1", right @ ("0" | "1")]) => *right == "1",
                    (false, ["1", "1", "0", right @ ("0" | "1")]) => *right == "1",
                    _ => return unknown(),
                };
                let (b, c) = (self.long(right)?, self.predicate(scale)?);
                let i = self.last();
                (i.a, i.b, i.c, i.list) = (a, b, c, list.into());
                Ok(Op::GroupMma { left_in_registers, right_transposed })
            }
            _ => unknown(),
        }
    }
}
