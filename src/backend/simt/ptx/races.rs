//! Finds accesses of shared memory by two warps that no barrier orders, one of them a write.
//!
//! Lanes of a warp run in lockstep between branches: a race within a warp is the emulator's to find.

use super::memory::{Reach, Result};

/// Who touched a granule of shared memory last, and in which interval between barriers.
#[derive(Clone, Copy, Debug, Default)]
struct Touch {
    written_in: u32,
    read_in: u32,
    /// The warps that read it in `read_in`.
    readers: u32,
    writer: u8,
    atomic: bool,
}

/// Bytes of a granule: no kernel shares the bytes of a 16-bit number between warps.
const GRANULE: usize = 2;

#[derive(Debug)]
pub struct Races {
    touches: Vec<Touch>,
    /// Number of the current interval, from 1.
    interval: u32,
}

impl Races {
    pub fn new(bytes: usize) -> Self {
        Races { touches: vec![Touch::default(); bytes.div_ceil(GRANULE)], interval: 1 }
    }

    pub fn barrier(&mut self) {
        self.interval += 1;
    }

    /// # Errors
    /// Another warp touched the same bytes since the last barrier.
    pub fn touch(&mut self, warp: usize, at: usize, reach: Reach) -> Result<()> {
        let what = if reach.write { "a write" } else { "a read" };
        let end = (at + reach.bytes as usize).div_ceil(GRANULE);
        for touch in &mut self.touches[at / GRANULE..end] {
            let both_atomic = reach.atomic && touch.atomic;
            if touch.written_in == self.interval && touch.writer as usize != warp && !both_atomic {
                let writer = touch.writer;
                return Err(format!(
                    "a race: {what} of shared memory at {at}, which warp {writer} wrote since the last barrier"
                ));
            }
            if !reach.write {
                if touch.read_in != self.interval {
                    (touch.read_in, touch.readers) = (self.interval, 0);
                }
                touch.readers |= 1 << warp;
                continue;
            }
            let others = touch.readers & !(1 << warp);
            if touch.read_in == self.interval && others != 0 {
                return Err(format!(
                    "a race: {what} of shared memory at {at}, which warp {} read since the last barrier",
                    others.trailing_zeros()
                ));
            }
            (touch.written_in, touch.writer, touch.atomic) = (self.interval, warp as u8, reach.atomic);
        }
        Ok(())
    }
}
