//! Runs a warp until it ends, comes to a barrier, or has used its share.

use super::{
    alu::{self, bits_where},
    block::{Block, Timing},
    memory::{Copy, Reach, Result, lanes_of},
    program::*,
    tensor::{load_matrix, mma},
    warp::Warp,
};

/// Why a warp stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Barrier,
    Done,
    Share,
}

impl Warp {
    /// Runs at most `share` instructions.
    ///
    /// # Errors
    /// An instruction does something that is not allowed.
    pub fn run(&mut self, block: &mut Block, share: u64) -> Result<Stop> {
        let (kernel, fast) = (block.launch.kernel, block.fast);
        for _ in 0..share {
            self.join()?;
            let i = &kernel.code[self.at];
            let mut lanes = self.lanes;
            if let Some((predicate, negated)) = i.guard {
                let p = self.registers.predicate(predicate);
                lanes &= if negated { !p } else { p };
            }
            self.counts.instructions += 1;
            if lanes == 0 {
                if matches!(i.op, Op::Branch(_)) {
                    kernel.mark(self.at, RUN | NOT_TAKEN);
                }
                self.at += 1;
                continue;
            }
            self.counts.lanes += lanes.count_ones() as u64;
            kernel.mark(self.at, RUN);
            if alu::compute(&mut self.registers, i, lanes, fast) {
                self.at += 1;
                continue;
            }
            match i.op {
                Op::Branch(target) => {
                    kernel.mark(self.at, if lanes == self.lanes { TAKEN } else { TAKEN | NOT_TAKEN });
                    self.branch(target, lanes)?;
                }
                Op::Exit => {
                    if !self.end(lanes)? {
                        return Ok(Stop::Done);
                    }
                }
                Op::Barrier(_) => {
                    if self.aligned(lanes)? {
                        return Ok(Stop::Barrier);
                    }
                    self.counts.instructions -= 1;
                }
                _ => match self.step(block, i, lanes)? {
                    true => self.at += 1,
                    // The group waits for other lanes and comes here again.
                    false => self.counts.instructions -= 1,
                },
            }
        }
        Ok(Stop::Share)
    }

    /// Carries out an instruction that does not only concern registers. Returns false if the group has to wait.
    fn step(&mut self, block: &mut Block, i: &Instruction, lanes: u32) -> Result<bool> {
        match i.op {
            Op::Load(access, at) => self.load(block, i, access, at, lanes)?,
            Op::Store(access, at) => self.store(block, i, access, at, lanes)?,
            Op::Atomic { space, what, bytes, at } => self.atomic(block, i, (space, what, bytes), at, lanes)?,
            Op::CopyAsync { size, to, from } => self.request_copy(block, i, size as u64, (to, from), lanes)?,
            Op::CopyCommit => lanes_of(lanes).for_each(|l| self.copy_groups[l] += 1),
            Op::CopyWait(keep) => self.wait_for_copies(block, keep, lanes)?,
            Op::Trap => return Err("trap".into()),
            Op::Nop => {}
            Op::FenceAsync => {
                if let Some(proxy) = &mut block.memory.proxy {
                    lanes_of(lanes).for_each(|l| proxy.fence(self.index, l));
                }
            }
            Op::ActiveMask => self.registers.put(i.to, [lanes; 32], lanes),
            Op::WarpBarrier => return Ok(self.members(i.b, lanes)?.is_some()),
            Op::Shuffle(how) => return self.shuffle(i, how, lanes),
            Op::Vote { what, negated } => return self.vote(i, what, negated, lanes),
            Op::Reduce(what) => return self.reduce(i, what, lanes),
            Op::LoadMatrix { count, transposed, at } => {
                if !self.whole(lanes)? {
                    return Ok(false);
                }
                self.counts.memory += 1;
                let addresses = self.registers.addresses(at);
                // The addresses of the upper lanes do not count for two matrices.
                let rows = if count == 4 { lanes } else { 0xffff };
                let reach = Reach { space: Space::Shared, bytes: 16, write: false, atomic: false };
                let mut values = [[0; 32]; 4];
                block.memory.access(&mut [], self.index, reach, &addresses, rows, |bytes, offsets, _| {
                    values = load_matrix(bytes, offsets, count as usize, transposed);
                })?;
                for (to, value) in i.list.iter().zip(values) {
                    self.registers.put(*to, value, lanes);
                }
            }
            Op::Mma => {
                if !self.whole(lanes)? {
                    return Ok(false);
                }
                self.counts.mma += 1;
                mma(&mut self.registers, i, block.launch.sums);
            }
            Op::GroupFence | Op::GroupCommit | Op::GroupWait(_) | Op::GroupMma { .. } => {
                return self.group(block, i, lanes);
            }
            other => return Err(format!("{other:?} is not carried out here")),
        }
        Ok(true)
    }

    fn load(&mut self, block: &mut Block, i: &Instruction, access: Access, at: Address, lanes: u32) -> Result<()> {
        self.counts.memory += 1;
        let addresses = self.registers.addresses(at);
        let size = access.bytes as usize;
        let reach = Reach {
            space: access.space,
            bytes: access.bytes as u32 * access.count as u32,
            write: false,
            atomic: false,
        };
        let registers = &mut self.registers;
        block.memory.access(&mut self.local, self.index, reach, &addresses, lanes, |memory, offsets, lanes| {
            for (element, to) in i.list.iter().enumerate() {
                let at = |l: usize| offsets[l] + element * size;
                match (access.long, size) {
                    (false, 4) => {
                        let to = &mut registers.words[*to as usize];
                        lanes_of(lanes).for_each(|l| to[l] = u32::from_le_bytes(array(memory, at(l))));
                    }
                    (false, _) => {
                        let kept = if access.half { 0xffff } else { u32::MAX };
                        let to = &mut registers.words[*to as usize];
                        lanes_of(lanes).for_each(|l| to[l] = read(memory, at(l), size, access.signed) as u32 & kept);
                    }
                    (true, _) => {
                        let to = &mut registers.longs[*to as usize];
                        lanes_of(lanes).for_each(|l| to[l] = read(memory, at(l), size, access.signed));
                    }
                }
            }
        })
    }

    fn store(&mut self, block: &mut Block, i: &Instruction, access: Access, at: Address, lanes: u32) -> Result<()> {
        self.counts.memory += 1;
        let addresses = self.registers.addresses(at);
        let size = access.bytes as usize;
        let reach =
            Reach { space: access.space, bytes: access.bytes as u32 * access.count as u32, write: true, atomic: false };
        let registers = &self.registers;
        block.memory.access(&mut self.local, self.index, reach, &addresses, lanes, |memory, offsets, lanes| {
            for (element, from) in i.list.iter().enumerate() {
                let at = |l: usize| offsets[l] + element * size;
                if access.long {
                    let from = registers.long(*from);
                    lanes_of(lanes).for_each(|l| write(memory, at(l), size, from[l]));
                } else {
                    let from = registers.word(*from);
                    lanes_of(lanes).for_each(|l| write(memory, at(l), size, from[l] as u64));
                }
            }
        })
    }

    fn atomic(
        &mut self,
        block: &mut Block,
        i: &Instruction,
        (space, what, bytes): (Space, Atomic, u8),
        at: Address,
        lanes: u32,
    ) -> Result<()> {
        self.counts.memory += 1;
        let addresses = self.registers.addresses(at);
        let (size, backward) = (bytes as usize, block.launch.order == super::block::Order::Backward);
        let reach = Reach { space, bytes: bytes as u32, write: true, atomic: true };
        let registers = &mut self.registers;
        block.memory.access(&mut self.local, self.index, reach, &addresses, lanes, |memory, offsets, lanes| {
            for n in 0..32 {
                let l = if backward { 31 - n } else { n };
                if lanes >> l & 1 == 0 {
                    continue;
                }
                let operand = |r: u32| match (r, size) {
                    (NONE, _) => 0,
                    (_, 4) => registers.word(r)[l] as u64,
                    _ => registers.long(r)[l],
                };
                let (x, y) = (operand(i.a), operand(i.b));
                let old = read(memory, offsets[l], size, false);
                let signed = |v: u64| if size == 4 { v as u32 as i32 as i64 } else { v as i64 };
                let new = match what {
                    Atomic::Add => old.wrapping_add(x),
                    Atomic::MinU => old.min(x),
                    Atomic::MaxU => old.max(x),
                    Atomic::MinS => signed(old).min(signed(x)) as u64,
                    Atomic::MaxS => signed(old).max(signed(x)) as u64,
                    Atomic::Or => old | x,
                    Atomic::And => old & x,
                    Atomic::Xor => old ^ x,
                    Atomic::Exchange => x,
                    Atomic::CompareAndSwap if old == x => y,
                    Atomic::CompareAndSwap => old,
                };
                write(memory, offsets[l], size, new);
                match (i.to, size) {
                    (NONE, _) => {}
                    (to, 4) => registers.words[to as usize][l] = old as u32,
                    (to, _) => registers.longs[to as usize][l] = old,
                }
            }
        })
    }

    /// `cp.async`: checks both addresses and moves the bytes now or leaves that to a wait.
    fn request_copy(
        &mut self,
        block: &mut Block,
        i: &Instruction,
        size: u64,
        (to, from): (Address, Address),
        lanes: u32,
    ) -> Result<()> {
        self.counts.memory += 1;
        let (to, from) = (self.registers.addresses(to), self.registers.addresses(from));
        let wanted = *self.registers.word(i.a);
        for l in lanes_of(lanes) {
            if (to[l] | from[l]) & (size - 1) != 0 {
                return Err("cp.async: an address is not aligned".into());
            }
            if wanted[l] as u64 > size {
                return Err(format!("cp.async: {} bytes of {size} are wanted", wanted[l]));
            }
            if to[l].checked_add(size).is_none_or(|end| end > block.memory.shared.len() as u64) {
                return Err(format!("cp.async: a write of {size} bytes at {} of shared memory", to[l]));
            }
            block.memory.global.read(from[l], wanted[l] as usize).map_err(|e| format!("cp.async: lane {l}: {e}"))?;
        }
        for lane in lanes_of(lanes) {
            let copy = Copy {
                lane,
                size: size as usize,
                wanted: wanted[lane] as usize,
                to: to[lane] as usize,
                from: from[lane],
                group: self.copy_groups[lane],
            };
            let now = match block.launch.timing {
                Timing::AtWait => false,
                Timing::AtIssue => true,
                Timing::Random => block.draw() & 1 != 0,
            };
            match now {
                true => block.memory.copy(self.index, &copy)?,
                false => self.copies.push(copy),
            }
        }
        Ok(())
    }

    /// Carries out the copies of `lanes` in all but the `keep` newest of their groups; -1: also what is in no group.
    fn wait_for_copies(&mut self, block: &mut Block, keep: i64, lanes: u32) -> Result<()> {
        let groups = self.copy_groups;
        let due = |c: &Copy| lanes >> c.lane & 1 != 0 && (keep < 0 || (c.group as i64) < groups[c.lane] as i64 - keep);
        for copy in self.copies.iter().filter(|c| due(c)) {
            block.memory.copy(self.index, copy)?;
        }
        self.copies.retain(|c| !due(c));
        Ok(())
    }

    fn shuffle(&mut self, i: &Instruction, how: Shuffle, lanes: u32) -> Result<bool> {
        let Some(named) = self.members(i.b, lanes)? else { return Ok(false) };
        let (values, sources, controls) =
            (self.registers.word(i.a), self.registers.word(i.c), self.registers.word(i.list[0]));
        let (mut result, mut inside) = ([0; 32], 0u32);
        for l in lanes_of(lanes) {
            let (lane, b) = (l as u32, sources[l] & 0x1f);
            let (clamp, segments) = (controls[l] & 0x1f, controls[l] >> 8 & 0x1f);
            let (last, first) = ((lane & segments) | (clamp & !segments), lane & segments);
            let (source, ok) = match how {
                Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
                Shuffle::Down => (lane + b, lane + b <= last),
                Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
                Shuffle::Index => (first | (b & !segments), first | (b & !segments) <= last),
            };
            let source = if ok { source } else { lane };
            inside |= (ok as u32) << l;
            // The value of a lane that takes no part is undefined.
            let takes_part = lanes & named[l] & (1 << source) != 0;
            result[l] = if takes_part { values[source as usize] } else { u32::MAX };
        }
        self.registers.put(i.to, result, lanes);
        if i.list[1] != NONE {
            self.registers.put_predicate(i.list[1], inside, lanes);
        }
        Ok(true)
    }

    fn vote(&mut self, i: &Instruction, what: Vote, negated: bool, lanes: u32) -> Result<bool> {
        let Some(named) = self.members(i.b, lanes)? else { return Ok(false) };
        let p = self.registers.predicate(i.a);
        let p = if negated { !p } else { p };
        match what {
            Vote::Ballot => self.registers.put(i.to, named.map(|n| n & lanes & p), lanes),
            Vote::Any => self.registers.put_predicate(i.to, bits_where(|l| named[l] & lanes & p != 0), lanes),
            Vote::All => self.registers.put_predicate(i.to, bits_where(|l| named[l] & lanes & !p == 0), lanes),
        }
        Ok(true)
    }

    fn reduce(&mut self, i: &Instruction, what: Reduction, lanes: u32) -> Result<bool> {
        let Some(named) = self.members(i.b, lanes)? else { return Ok(false) };
        let values = *self.registers.word(i.a);
        let mut result = [0; 32];
        for l in lanes_of(lanes) {
            let all = lanes_of(named[l] & lanes).map(|l| values[l]);
            let combine = |a: u32, b: u32| match what {
                Reduction::Add => a.wrapping_add(b),
                Reduction::MinU => a.min(b),
                Reduction::MaxU => a.max(b),
                Reduction::MinS => (a as i32).min(b as i32) as u32,
                Reduction::MaxS => (a as i32).max(b as i32) as u32,
            };
            result[l] = all.reduce(combine).unwrap_or(0);
        }
        self.registers.put(i.to, result, lanes);
        Ok(true)
    }
}

/// `N` bytes of memory.
#[inline(always)]
fn array<const N: usize>(memory: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&memory[at..at + N]);
    bytes
}

/// Reads a little-endian number of `size` bytes.
#[inline(always)]
fn read(memory: &[u8], at: usize, size: usize, signed: bool) -> u64 {
    match (size, signed) {
        (1, false) => memory[at] as u64,
        (1, true) => memory[at] as i8 as u64,
        (2, false) => u16::from_le_bytes(array(memory, at)) as u64,
        (2, true) => i16::from_le_bytes(array(memory, at)) as u64,
        (4, false) => u32::from_le_bytes(array(memory, at)) as u64,
        (4, true) => i32::from_le_bytes(array(memory, at)) as u64,
        _ => u64::from_le_bytes(array(memory, at)),
    }
}

/// Writes the low `size` bytes of a number.
#[inline(always)]
fn write(memory: &mut [u8], at: usize, size: usize, value: u64) {
    match size {
        1 => memory[at] = value as u8,
        2 => memory[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
        4 => memory[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
        _ => memory[at..at + 8].copy_from_slice(&value.to_le_bytes()),
    }
}
