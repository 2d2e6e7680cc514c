//! A warp: its registers, and its groups of lanes that stand at different instructions.
//!
//! The group at the lowest address runs; groups join where their addresses are equal. An instruction with `.aligned`
//! waits for all live lanes of the warp, one with `.sync` for the lanes of its member mask. If they cannot come, the
//! launch ends with an error that names the places of all groups.

use super::{
    alu::{FULL, Registers},
    block::{Counts, Launch},
    memory::{Copy, Result},
    program::*,
    wgmma::Products,
};

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    at: u32,
    lanes: u32,
    /// It cannot go on before other lanes come.
    parked: bool,
}

#[derive(Debug)]
pub struct Warp {
    pub registers: Registers,
    /// The instruction of the running group, and its lanes.
    pub at: usize,
    pub lanes: u32,
    /// Lanes that have not ended.
    pub live: u32,
    others: Vec<Group>,
    /// The lowest address above `at` where another group stands.
    next_other: usize,
    pub index: usize,
    pub done: bool,
    pub at_barrier: bool,
    /// Requests of `cp.async`, and the number of each lane's current group.
    pub copies: Vec<Copy>,
    pub copy_groups: [u32; 32],
    pub local: Vec<u8>,
    pub products: Products,
    pub counts: Counts,
}

impl Warp {
    pub fn new(launch: &Launch, index: usize) -> Warp {
        let kernel = launch.kernel;
        let mut registers = Registers {
            words: vec![[FULL; 32]; kernel.words],
            longs: vec![[u64::MAX; 32]; kernel.longs],
            predicates: vec![0; kernel.predicates],
        };
        let [x, y, z] = launch.block;
        for lane in 0..32 {
            let thread = (index * 32 + lane) as u32;
            registers.words[LANE as usize][lane] = lane as u32;
            registers.words[TID as usize][lane] = thread % x;
            registers.words[TID as usize + 1][lane] = thread / x % y;
            registers.words[TID as usize + 2][lane] = thread / x / y % z;
        }
        for axis in 0..3 {
            registers.words[NTID as usize + axis] = [launch.block[axis]; 32];
            registers.words[NCTAID as usize + axis] = [launch.grid[axis]; 32];
        }
        Warp {
            registers,
            at: 0,
            lanes: 0,
            live: 0,
            others: Vec::new(),
            next_other: usize::MAX,
            index,
            done: false,
            at_barrier: false,
            copies: Vec::new(),
            copy_groups: [0; 32],
            local: vec![0xff; kernel.local * 32],
            products: Products::default(),
            counts: Counts::default(),
        }
    }

    /// Begins a block.
    pub fn start(&mut self, launch: &Launch, block: [u32; 3]) {
        let r = &mut self.registers;
        // A register that was never written reads as all bits set.
        r.words[FIRST_WORD as usize..].fill([FULL; 32]);
        r.longs.fill([u64::MAX; 32]);
        r.predicates.fill(0);
        r.predicates[1] = FULL;
        for (register, value) in &launch.kernel.word_constants {
            r.words[*register as usize] = [*value; 32];
        }
        for (register, value) in &launch.kernel.long_constants {
            r.longs[*register as usize] = [*value; 32];
        }
        for (axis, index) in block.iter().enumerate() {
            r.words[CTAID as usize + axis] = [*index; 32];
        }
        let threads = launch.threads() - self.index * 32;
        self.live = if threads >= 32 { FULL } else { (1 << threads) - 1 };
        self.lanes = self.live;
        self.at = 0;
        self.others.clear();
        self.next_other = usize::MAX;
        (self.done, self.at_barrier) = (false, false);
        self.copies.clear();
        self.copy_groups = [0; 32];
        self.local.fill(0xff);
        self.products = Products::default();
    }

    /// Adds where the warp stands to an error.
    pub fn located(&self, kernel: &Kernel, what: String) -> String {
        let i = &kernel.code[self.at];
        let mut text = format!(
            "{what}; warp {}, lanes {:08x} of {:08x}, PTX line {}: `{}`",
            self.index, self.lanes, self.live, i.line, kernel.text[self.at]
        );
        if let (_, line @ 1..) = kernel.source[self.at] {
            text += &format!(" (source line {line})");
        }
        for g in &self.others {
            text += &format!("; lanes {:08x} at PTX line {}", g.lanes, kernel.code[g.at as usize].line);
        }
        text
    }

    /// Joins with the groups that the running one has reached.
    #[inline]
    pub fn join(&mut self) -> Result<()> {
        if self.at == self.next_other { self.settle() } else { Ok(()) }
    }

    /// Chooses the group to run: that at the lowest address that need not wait. Groups at this address join it.
    fn settle(&mut self) -> Result<()> {
        if self.lanes != 0 {
            self.others.push(Group { at: self.at as u32, lanes: self.lanes, parked: false });
            self.lanes = 0;
        }
        let Some(best) = self.others.iter().filter(|g| !g.parked).map(|g| g.at).min() else {
            return Err("lanes wait for each other at different instructions".into());
        };
        let mut lanes = 0;
        self.others.retain(|g| {
            if g.at == best {
                lanes |= g.lanes;
            }
            g.at != best
        });
        (self.at, self.lanes) = (best as usize, lanes);
        self.next_other = self.others.iter().filter(|g| g.at > best).map(|g| g.at as usize).min().unwrap_or(usize::MAX);
        Ok(())
    }

    /// The running group waits at its instruction for other lanes.
    fn park(&mut self) -> Result<()> {
        if self.others.iter().all(|g| g.parked) {
            return Err("not all lanes that the instruction needs can come to it".into());
        }
        self.others.push(Group { at: self.at as u32, lanes: self.lanes, parked: true });
        self.lanes = 0;
        self.settle()
    }

    /// The lanes of `lanes` branch, the other ones of the group go on.
    pub fn branch(&mut self, target: u32, lanes: u32) -> Result<()> {
        let stay = self.lanes & !lanes;
        if stay != 0 {
            self.counts.splits += 1;
            self.others.push(Group { at: self.at as u32 + 1, lanes: stay, parked: false });
        }
        (self.at, self.lanes) = (target as usize, lanes);
        if self.others.is_empty() { Ok(()) } else { self.settle() }
    }

    /// The lanes of `lanes` end. Returns whether others are left.
    pub fn end(&mut self, lanes: u32) -> Result<bool> {
        if self.copies.iter().any(|c| lanes >> c.lane & 1 != 0) {
            return Err("a thread ends with copies that it has not waited for".into());
        }
        if self.products.are_pending() {
            return Err("a thread ends with products of wgmma that it has not waited for".into());
        }
        self.live &= !lanes;
        self.lanes &= !lanes;
        if self.live == 0 {
            return Ok(false);
        }
        // Those that wait need no longer wait for these lanes.
        self.others.iter_mut().for_each(|g| g.parked = false);
        self.at += 1;
        self.settle()?;
        Ok(true)
    }

    /// Returns whether all live lanes have come to an instruction with `.aligned`; else the group waits for them.
    pub fn aligned(&mut self, lanes: u32) -> Result<bool> {
        if lanes != self.lanes {
            return Err("a guard splits the lanes of an instruction that all must carry out".into());
        }
        if lanes == self.live {
            return Ok(true);
        }
        self.park()?;
        Ok(false)
    }

    /// As [`Warp::aligned`], for instructions that need 32 lanes.
    pub fn whole(&mut self, lanes: u32) -> Result<bool> {
        let come = self.aligned(lanes)?;
        if come && lanes != FULL {
            return Err("an instruction of 32 lanes in a warp that has fewer".into());
        }
        Ok(come)
    }

    /// Returns the member masks of an instruction with `.sync` if all lanes that they name have come; else the group
    /// waits for them.
    pub fn members(&mut self, masks: u32, lanes: u32) -> Result<Option<[u32; 32]>> {
        let masks = *self.registers.word(masks);
        let mut left = lanes;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let named = masks[lane];
            if named >> lane & 1 == 0 {
                return Err(format!("lane {lane} is not in its own member mask {named:08x}"));
            }
            if named & self.live & !lanes != 0 {
                if lanes != self.lanes {
                    return Err("a guard splits the lanes of a member mask".into());
                }
                self.park()?;
                return Ok(None);
            }
            if let Some(other) = (0..32).find(|l| (named & lanes) >> l & 1 != 0 && masks[*l] != named) {
                return Err(format!("member masks differ: {named:08x} and {:08x}", masks[other]));
            }
            left &= !named;
        }
        Ok(Some(masks))
    }
}
