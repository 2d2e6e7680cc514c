//! `wgmma`: products that a warp requests and that happen at some time up to the wait for them.
//!
//! Each warp computes its sixteen of the 64 rows. A product happens at its request, at the wait, or at random, as
//! copies of `cp.async` do; products happen in order. While one is pending, its accumulators hold NaN, and a left
//! operand in registers is read when the product happens. The layout of operands in shared memory is read from the same
//! document as the emulator's model, so the two are not independent.

use super::{
    alu::{FULL, Registers, Word},
    arithmetic::{NAN, float},
    block::{Block, Timing},
    memory::{BlockMemory, Reach, Result, uniform},
    program::*,
    tensor::{Sums, left_operand, multiply, sum_place},
    warp::Warp,
};

/// A product that was requested.
#[derive(Clone, Debug)]
struct Product {
    /// Index of its instruction.
    at: usize,
    /// The descriptors of the operands in shared memory.
    left: Option<u64>,
    right: u64,
    /// The lanes that add to their accumulators; the others start from 0.
    adds: u32,
    committed: bool,
    /// Accumulators that hold NaN because of this product, with their values before.
    held: Vec<(u32, Word)>,
}

/// The products of a warp that have not happened.
#[derive(Debug, Default)]
pub struct Products {
    pending: Vec<Product>,
    /// Groups: how many pending products each has, the oldest first.
    groups: Vec<usize>,
    /// `wgmma.fence` has ordered the registers.
    fenced: bool,
}

impl Products {
    pub fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Puts NaN into the accumulators of the pending products, once each.
fn hold(registers: &mut Registers, kernel: &Kernel, pending: &mut [Product]) {
    for n in 0..pending.len() {
        for to in &kernel.code[pending[n].at].list[..32] {
            if !pending[..=n].iter().any(|p| p.held.iter().any(|(r, _)| r == to)) {
                let before = *registers.word(*to);
                pending[n].held.push((*to, before));
                registers.put(*to, [NAN; 32], FULL);
            }
        }
    }
}

impl Warp {
    /// Carries out an instruction of wgmma. Returns false if the group has to wait for other lanes.
    pub fn group(&mut self, block: &mut Block, i: &Instruction, lanes: u32) -> Result<bool> {
        if !self.whole(lanes)? {
            return Ok(false);
        }
        match i.op {
            Op::GroupFence => self.products.fenced = true,
            Op::GroupCommit => {
                let new = self.products.pending.iter_mut().filter(|p| !p.committed);
                self.products.groups.push(new.map(|p| p.committed = true).count());
            }
            Op::GroupWait(keep) => {
                let due = self.products.groups.len().saturating_sub(keep as usize);
                let count: usize = self.products.groups.drain(..due).sum();
                for product in self.products.pending.drain(..count).collect::<Vec<_>>() {
                    self.happen(block, product)?;
                }
                hold(&mut self.registers, block.launch.kernel, &mut self.products.pending);
                // The accumulators may be used from here on, and need a fence before the next product.
                self.products.fenced = false;
            }
            _ => self.request(block, i)?,
        }
        Ok(true)
    }

    fn request(&mut self, block: &mut Block, i: &Instruction) -> Result<()> {
        self.counts.wgmma += 1;
        if !block.launch.threads().is_multiple_of(128) {
            return Err("wgmma in a block with an incomplete warpgroup".into());
        }
        if !self.products.fenced {
            return Err("wgmma without wgmma.fence after a use of its registers".into());
        }
        let descriptor = |r: u32| uniform(self.registers.long(r), "a descriptor of wgmma");
        let product = Product {
            at: self.at,
            left: if i.a == NONE { None } else { Some(descriptor(i.a)?) },
            right: descriptor(i.b)?,
            adds: self.registers.predicate(i.c),
            committed: false,
            held: Vec::new(),
        };
        let now = match block.launch.timing {
            Timing::AtWait => false,
            Timing::AtIssue => true,
            Timing::Random => block.draw() & 1 != 0,
        };
        if now && !self.products.are_pending() {
            return self.happen(block, product);
        }
        self.products.pending.push(product);
        hold(&mut self.registers, block.launch.kernel, &mut self.products.pending);
        Ok(())
    }

    /// Computes this warp's rows of a 64 x 64 x 16 product.
    fn happen(&mut self, block: &mut Block, product: Product) -> Result<()> {
        for (register, before) in product.held {
            self.registers.put(register, before, FULL);
        }
        let i = &block.launch.kernel.code[product.at];
        let Op::GroupMma { right_transposed, .. } = i.op else { return Err("not a product".into()) };
        let first_row = self.index % 4 * 16;
        let a = match product.left {
            None => left_operand(&self.registers, &i.list[32..]),
            Some(descriptor) => {
                let mut a = [[0.0; 16]; 16];
                for (row, to) in a.iter_mut().enumerate() {
                    for (k, to) in to.iter_mut().enumerate() {
                        *to = element(&mut block.memory, self.index, descriptor, false, first_row + row, k)?;
                    }
                }
                a
            }
        };
        let (mut b, mut sums) = ([[0.0; 64]; 16], [[0.0; 64]; 16]);
        for (k, to) in b.iter_mut().enumerate() {
            for (column, to) in to.iter_mut().enumerate() {
                *to = element(&mut block.memory, self.index, product.right, right_transposed, column, k)?;
            }
        }
        let accumulators = &i.list[..32];
        for lane in (0..32).filter(|l| product.adds >> l & 1 != 0) {
            for (e, register) in accumulators.iter().enumerate() {
                let (row, column) = sum_place(lane, e);
                sums[row][column] = float(self.registers.word(*register)[lane]);
            }
        }
        // What is reported of the sums of sm_80 does not hold for wgmma.
        multiply(&mut sums, &a, &b, Sums::InOrder);
        for (e, register) in accumulators.iter().enumerate() {
            let value: Word = std::array::from_fn(|lane| {
                let (row, column) = sum_place(lane, e);
                sums[row][column].to_bits()
            });
            self.registers.put(*register, value, FULL);
        }
        Ok(())
    }
}

/// An element of an operand in shared memory, with the swizzle of 128 bytes: row `mn` of the left operand or column
/// `mn` of the right one. `mn_major`: elements adjacent in mn are adjacent in memory, otherwise those adjacent in k.
fn element(memory: &mut BlockMemory, warp: usize, descriptor: u64, mn_major: bool, mn: usize, k: usize) -> Result<f32> {
    let field = |bit: u32| ((descriptor >> bit & 0x3fff) << 4) as usize;
    let (start, leading, stride) = (field(0), field(16), field(32));
    if descriptor >> 62 != 1 {
        return Err("wgmma: a layout other than the swizzle of 128 bytes".into());
    }
    if descriptor >> 49 & 7 != 0 {
        return Err("wgmma: a base offset".into());
    }
    let at = start
        + match mn_major {
            true => mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2,
            false => mn / 8 * stride + mn % 8 * 128 + k * 2,
        };
    // The 16-byte pieces of each row of 128 bytes are exchanged by the number of the row within 1024 bytes.
    let at = at ^ (at >> 7 & 7) << 4;
    let Some(bytes) = memory.shared.get(at..at + 2) else {
        return Err(format!("wgmma: an operand at {at} of {} bytes of shared memory", memory.shared.len()));
    };
    let value = float((u16::from_le_bytes([bytes[0], bytes[1]]) as u32) << 16);
    let reach = Reach { space: Space::Shared, bytes: 2, write: false, atomic: false };
    if let Some(races) = &mut memory.races {
        races.touch(warp, at, reach)?;
    }
    if let Some(proxy) = &memory.proxy {
        proxy.read(warp, at)?;
    }
    Ok(value)
}
