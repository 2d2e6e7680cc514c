//! The model of proxies: wgmma reads shared memory through the async proxy, everything else writes it through the
//! generic one. A written value is visible to wgmma once its thread has executed `fence.proxy.async` after the write
//! and, for the wgmma of another warp, a barrier has followed the fence. A copy of `cp.async` is a write of its thread
//! at the time when it lands.

use super::memory::Result;

/// The last write to a granule: its thread and its time.
#[derive(Clone, Copy, Debug, Default)]
struct Write {
    time: u64,
    thread: u16,
}

const GRANULE: usize = 2;

#[derive(Debug)]
pub struct Proxy {
    writes: Vec<Write>,
    /// Of each thread: the time of its last fence, and of its last fence before the last barrier.
    fenced: Vec<u64>,
    visible: Vec<u64>,
    now: u64,
}

impl Proxy {
    pub fn new(bytes: usize, threads: usize) -> Self {
        Proxy {
            writes: vec![Write::default(); bytes.div_ceil(GRANULE)],
            fenced: vec![0; threads],
            visible: vec![0; threads],
            now: 1,
        }
    }

    /// Begins a block: everything before it is visible.
    pub fn begin(&mut self) {
        self.now += 1;
        self.fenced.fill(self.now);
        self.visible.fill(self.now);
    }

    pub fn write(&mut self, warp: usize, lane: usize, at: usize, bytes: usize) {
        let write = Write { time: self.now, thread: (warp * 32 + lane) as u16 };
        self.writes[at / GRANULE..(at + bytes).div_ceil(GRANULE)].fill(write);
    }

    pub fn fence(&mut self, warp: usize, lane: usize) {
        self.now += 1;
        self.fenced[warp * 32 + lane] = self.now;
    }

    pub fn barrier(&mut self) {
        self.visible.copy_from_slice(&self.fenced);
        self.now += 1;
    }

    /// wgmma of a warp reads the granule at `at`.
    ///
    /// # Errors
    /// Its value may not be visible to wgmma.
    pub fn read(&self, warp: usize, at: usize) -> Result<()> {
        let Write { time, thread } = self.writes[at / GRANULE];
        let thread = thread as usize;
        if self.visible[thread] > time || (thread / 32 == warp && self.fenced[thread] > time) {
            return Ok(());
        }
        let missing = match self.fenced[thread] > time {
            true => "without a barrier after fence.proxy.async",
            false => "without fence.proxy.async after the write",
        };
        Err(format!("wgmma reads shared memory at {at}, which thread {thread} wrote, {missing}"))
    }
}
