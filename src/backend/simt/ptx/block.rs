//! Runs a grid: its blocks one after the other, the warps of a block in some order, and the barriers between them.

use super::{
    alu::{FULL, is_fast},
    fences::Proxy,
    memory::{Allocation, BlockMemory, Global, Result},
    program::*,
    races::Races,
    run::Stop,
    tensor::Sums,
    warp::Warp,
};

/// Which of the runnable warps is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Forward,
    Backward,
    /// Any, and it is interrupted at any instruction.
    Random,
}

/// When asynchronous copies and products happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timing {
    AtWait,
    AtIssue,
    Random,
}

/// A launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory, and the most that a block may have in all.
    pub dynamic: usize,
    pub shared_limit: usize,
    pub params: &'a [u8],
    pub order: Order,
    pub timing: Timing,
    pub seed: u64,
    /// Whether shared memory starts as NaN instead of 0.
    pub poison: bool,
    /// Whether to look for races in shared memory.
    pub races: bool,
    pub sums: Sums,
}

impl Launch<'_> {
    pub fn threads(&self) -> usize {
        self.block.iter().product::<u32>() as usize
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub blocks: u64,
    /// Instructions of warps, and of their lanes.
    pub instructions: u64,
    pub lanes: u64,
    pub mma: u64,
    pub wgmma: u64,
    pub memory: u64,
    /// Branches that lanes of a warp take differently.
    pub splits: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.blocks += other.blocks;
        self.instructions += other.instructions;
        self.lanes += other.lanes;
        self.mma += other.mma;
        self.wgmma += other.wgmma;
        self.memory += other.memory;
        self.splits += other.splits;
    }
}

/// The block that runs.
pub struct Block<'a> {
    pub launch: &'a Launch<'a>,
    pub memory: BlockMemory<'a>,
    pub fast: bool,
    random: u64,
}

/// Runs a launch on the device's memory.
///
/// # Errors
/// A thread does something that is not allowed; the text names the kernel, the block and the place.
pub fn launch(launch: &Launch, allocations: Vec<Allocation>) -> Result<Counts> {
    let kernel = launch.kernel;
    let bytes = kernel.dynamic_at + launch.dynamic;
    if bytes > launch.shared_limit {
        let limit = launch.shared_limit;
        return Err(format!("{bytes} bytes of shared memory, a block can have {limit}: kernel {}", kernel.name));
    }
    if launch.params.len() != kernel.params {
        let (given, wanted) = (launch.params.len(), kernel.params);
        return Err(format!("{given} bytes of parameters instead of {wanted}: kernel {}", kernel.name));
    }
    let mut warps: Vec<Warp> = (0..launch.threads().div_ceil(32)).map(|i| Warp::new(launch, i)).collect();
    let memory = BlockMemory {
        shared: vec![0; bytes],
        global: Global::new(allocations),
        params: launch.params.to_vec(),
        races: launch.races.then(|| Races::new(bytes)),
        proxy: kernel.uses_wgmma.then(|| Proxy::new(bytes, warps.len() * 32)),
    };
    let mut block = Block { launch, memory, fast: is_fast(), random: 1 };
    let [x, y, z] = launch.grid.map(u64::from);
    for number in 0..x * y * z {
        let index = [number % x, number / x % y, number / x / y].map(|i| i as u32);
        block.start(number);
        warps.iter_mut().for_each(|w| w.start(launch, index));
        block
            .run(&mut warps)
            .map_err(|e| format!("{e}: kernel {}, block ({},{},{})", kernel.name, index[0], index[1], index[2]))?;
    }
    let mut counts = Counts { blocks: x * y * z, ..Counts::default() };
    warps.iter().for_each(|w| counts.add(&w.counts));
    Ok(counts)
}

impl Block<'_> {
    fn start(&mut self, number: u64) {
        let launch = self.launch;
        self.memory.shared.fill(if launch.poison { 0xff } else { 0 });
        // The models are reused: nothing of an earlier block concerns this one.
        if let Some(races) = &mut self.memory.races {
            races.barrier();
        }
        if let Some(proxy) = &mut self.memory.proxy {
            proxy.begin();
        }
        let seeds = [launch.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), (number + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9)];
        self.random = (seeds[0] ^ seeds[1]) | 1;
        for _ in 0..4 {
            self.draw();
        }
    }

    /// A random number (xorshift).
    pub fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn run(&mut self, warps: &mut [Warp]) -> Result<()> {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            ready.extend((0..warps.len()).filter(|i| !warps[*i].done && !warps[*i].at_barrier));
            let (Some(first), Some(last)) = (ready.first(), ready.last()) else {
                if warps.iter().all(|w| w.done) {
                    return Ok(());
                }
                self.release(warps)?;
                continue;
            };
            let (chosen, share) = match self.launch.order {
                Order::Forward => (*first, u64::MAX),
                Order::Backward => (*last, u64::MAX),
                Order::Random => {
                    let r = self.draw();
                    (ready[(r % ready.len() as u64) as usize], 1 + (r >> 32) % 300)
                }
            };
            let warp = &mut warps[chosen];
            match warp.run(self, share).map_err(|e| warp.located(self.launch.kernel, e))? {
                Stop::Barrier => warp.at_barrier = true,
                Stop::Done => warp.done = true,
                Stop::Share => {}
            }
        }
    }

    /// All live warps stand at a barrier, which must be the same for all.
    fn release(&mut self, warps: &mut [Warp]) -> Result<()> {
        let kernel = self.launch.kernel;
        let mut live: Vec<&mut Warp> = warps.iter_mut().filter(|w| !w.done).collect();
        let at = live[0].at;
        if let Some(other) = live.iter().find(|w| w.at != at) {
            let lines = [at, other.at].map(|at| kernel.code[at].line);
            return Err(format!("a barrier reached from two places: PTX lines {} and {}", lines[0], lines[1]));
        }
        let i = &kernel.code[at];
        if let Op::Barrier(how @ (Combine::Or | Combine::And | Combine::Count)) = i.op {
            let (mut count, mut threads) = (0, 0);
            for w in &live {
                count += (w.registers.predicate(i.a) & w.live).count_ones();
                threads += w.live.count_ones();
            }
            for w in &mut live {
                match how {
                    Combine::Or => w.registers.put_predicate(i.to, if count > 0 { FULL } else { 0 }, FULL),
                    Combine::And => w.registers.put_predicate(i.to, if count == threads { FULL } else { 0 }, FULL),
                    _ => w.registers.put(i.to, [count; 32], FULL),
                }
            }
        }
        for w in live {
            w.at_barrier = false;
            w.at += 1;
        }
        self.memory.barrier();
        Ok(())
    }
}
