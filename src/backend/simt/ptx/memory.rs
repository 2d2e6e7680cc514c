//! Memory: the device's allocations, shared and local memory of a block, and the checks of every access.

use super::{
    alu::{Long, window},
    fences::Proxy,
    program::Space,
    races::Races,
};

/// Receives the bytes of an allocation, the offsets of the lanes in them, and the lanes that access them.
type Visit<'v> = dyn FnMut(&mut [u8], &[usize; 32], u32) + 'v;

pub type Result<T> = std::result::Result<T, String>;

/// A piece of device memory.
#[derive(Debug)]
pub struct Allocation<'a> {
    /// Its address on the device.
    pub start: u64,
    pub bytes: &'a mut [u8],
}

impl Allocation<'_> {
    fn holds(&self, from: u64, to: u64) -> bool {
        from >= self.start && to <= self.start + self.bytes.len() as u64
    }
}

/// The device's memory.
#[derive(Debug)]
pub struct Global<'a> {
    /// By address.
    allocations: Vec<Allocation<'a>>,
    /// That of the latest access, which the next one often falls into.
    last: usize,
}

impl<'a> Global<'a> {
    pub fn new(mut allocations: Vec<Allocation<'a>>) -> Self {
        allocations.sort_by_key(|a| a.start);
        Global { allocations, last: 0 }
    }

    /// The allocation that holds these addresses.
    fn find(&mut self, from: u64, to: u64) -> Option<usize> {
        if self.allocations.get(self.last).is_some_and(|a| a.holds(from, to)) {
            return Some(self.last);
        }
        let i = self.allocations.partition_point(|a| a.start <= from).checked_sub(1)?;
        self.allocations[i].holds(from, to).then(|| {
            self.last = i;
            i
        })
    }

    /// Says where an address is that no allocation holds.
    fn place(&self, address: u64) -> String {
        match self.allocations.partition_point(|a| a.start <= address).checked_sub(1) {
            Some(i) => {
                let a = &self.allocations[i];
                format!("{} bytes into an allocation of {}", address - a.start, a.bytes.len())
            }
            None => "before all allocations".into(),
        }
    }

    /// Bytes that are read later, by an asynchronous copy.
    ///
    /// # Errors
    /// They are outside of memory.
    pub fn read(&mut self, from: u64, bytes: usize) -> Result<&[u8]> {
        match from.checked_add(bytes as u64).and_then(|to| self.find(from, to)) {
            Some(i) => {
                let at = (from - self.allocations[i].start) as usize;
                Ok(&self.allocations[i].bytes[at..at + bytes])
            }
            None => Err(format!("a read of {bytes} bytes outside of memory: {from:#x}, {}", self.place(from))),
        }
    }
}

/// An access of a warp.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    pub space: Space,
    /// Bytes a lane.
    pub bytes: u32,
    pub write: bool,
    pub atomic: bool,
}

/// The memory that a block sees.
#[derive(Debug)]
pub struct BlockMemory<'a> {
    pub shared: Vec<u8>,
    pub global: Global<'a>,
    pub params: Vec<u8>,
    pub races: Option<Races>,
    pub proxy: Option<Proxy>,
}

/// The lanes of `lanes`.
pub fn lanes_of(mut lanes: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = (lanes != 0).then(|| lanes.trailing_zeros() as usize)?;
        lanes &= lanes - 1;
        Some(lane)
    })
}

impl BlockMemory<'_> {
    /// Checks an access of `lanes` and calls `visit` with each piece of memory that they reach: its bytes, the offset
    /// of each lane in it, and its lanes. `local` is the warp's local memory, that of lane 0 first.
    ///
    /// # Errors
    /// A lane's address is not aligned or is outside of memory, or the access is in a race.
    pub fn access(
        &mut self,
        local: &mut [u8],
        warp: usize,
        reach: Reach,
        addresses: &Long,
        lanes: u32,
        mut visit: impl FnMut(&mut [u8], &[usize; 32], u32),
    ) -> Result<()> {
        let (bytes, what) = (reach.bytes as u64, if reach.write { "a write" } else { "a read" });
        let all = lanes_of(lanes).fold(0, |bits, l| bits | addresses[l]);
        if all & (bytes - 1) != 0 {
            return Err(format!("{what} of {bytes} bytes at an address that is not a multiple of it"));
        }
        let mut offsets = [0; 32];
        match reach.space {
            Space::Global => return self.access_global(reach, addresses, lanes, visit),
            Space::Generic => return self.access_generic(local, warp, reach, addresses, lanes, &mut visit),
            Space::Shared => {
                let size = self.shared.len() as u64;
                for l in lanes_of(lanes) {
                    if addresses[l].checked_add(bytes).is_none_or(|end| end > size) {
                        let at = addresses[l];
                        return Err(format!("{what} of {bytes} bytes at {at} of {size} of shared memory by lane {l}"));
                    }
                    offsets[l] = addresses[l] as usize;
                }
                self.watch(warp, reach, &offsets, lanes)?;
                visit(&mut self.shared, &offsets, lanes);
            }
            Space::Local => {
                let size = local.len() as u64 / 32;
                for l in lanes_of(lanes) {
                    if addresses[l].checked_add(bytes).is_none_or(|end| end > size) {
                        return Err(format!("{what} of {bytes} bytes at {} of {size} of local memory", addresses[l]));
                    }
                    offsets[l] = l * size as usize + addresses[l] as usize;
                }
                visit(local, &offsets, lanes);
            }
            Space::Param => {
                let size = self.params.len() as u64;
                for l in lanes_of(lanes) {
                    if reach.write || addresses[l].checked_add(bytes).is_none_or(|end| end > size) {
                        return Err(format!("{what} of {bytes} bytes at {} of {size} of parameters", addresses[l]));
                    }
                    offsets[l] = addresses[l] as usize;
                }
                visit(&mut self.params, &offsets, lanes);
            }
        }
        Ok(())
    }

    fn access_global(
        &mut self,
        reach: Reach,
        addresses: &Long,
        lanes: u32,
        mut visit: impl FnMut(&mut [u8], &[usize; 32], u32),
    ) -> Result<()> {
        let bytes = reach.bytes as u64;
        let mut offsets = [0; 32];
        let first = lanes_of(lanes).fold(u64::MAX, |a, l| a.min(addresses[l]));
        let last = lanes_of(lanes).fold(0, |a, l| a.max(addresses[l]));
        if let Some(i) = last.checked_add(bytes).and_then(|end| self.global.find(first, end)) {
            let a = &mut self.global.allocations[i];
            for (to, address) in offsets.iter_mut().zip(addresses) {
                *to = address.wrapping_sub(a.start) as usize;
            }
            visit(a.bytes, &offsets, lanes);
            return Ok(());
        }
        // All lanes are checked before the first one writes.
        let mut found = [0; 32];
        for l in lanes_of(lanes) {
            let address = addresses[l];
            found[l] = address.checked_add(bytes).and_then(|end| self.global.find(address, end)).ok_or_else(|| {
                let what = if reach.write { "a write" } else { "a read" };
                let place = self.global.place(address);
                format!("{what} of {bytes} bytes outside of memory by lane {l}: address {address:#x}, {place}")
            })?;
        }
        for l in lanes_of(lanes) {
            let a = &mut self.global.allocations[found[l]];
            offsets[l] = (addresses[l] - a.start) as usize;
            visit(a.bytes, &offsets, 1 << l);
        }
        Ok(())
    }

    fn access_generic(
        &mut self,
        local: &mut [u8],
        warp: usize,
        reach: Reach,
        addresses: &Long,
        lanes: u32,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let space_of = |address: u64| {
            let windows = [Space::Param, Space::Local, Space::Shared];
            windows.into_iter().find(|s| address >= window(*s)).unwrap_or(Space::Global)
        };
        for space in [Space::Global, Space::Shared, Space::Local, Space::Param] {
            let here = lanes_of(lanes).filter(|l| space_of(addresses[*l]) == space).fold(0, |m, l| m | 1 << l);
            if here != 0 {
                let inside = addresses.map(|a| a.wrapping_sub(window(space)));
                self.access(local, warp, Reach { space, ..reach }, &inside, here, &mut *visit)?;
            }
        }
        Ok(())
    }

    /// Tells the models of races and of proxies about an access of shared memory.
    pub fn watch(&mut self, warp: usize, reach: Reach, offsets: &[usize; 32], lanes: u32) -> Result<()> {
        if let Some(races) = &mut self.races {
            for l in lanes_of(lanes) {
                races.touch(warp, offsets[l], reach)?;
            }
        }
        if let (Some(proxy), true) = (&mut self.proxy, reach.write) {
            for l in lanes_of(lanes) {
                proxy.write(warp, l, offsets[l], reach.bytes as usize);
            }
        }
        Ok(())
    }

    /// A barrier of the block is complete.
    pub fn barrier(&mut self) {
        if let Some(races) = &mut self.races {
            races.barrier();
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.barrier();
        }
    }
}

/// A request of `cp.async` that has not been carried out.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub lane: usize,
    /// Bytes to write; the first `wanted` of them are copied, the rest are zeros.
    pub size: usize,
    pub wanted: usize,
    pub to: usize,
    pub from: u64,
    /// The group of its thread, by number.
    pub group: u32,
}

impl BlockMemory<'_> {
    /// Carries out a copy. Its destination was checked when it was requested.
    pub fn copy(&mut self, warp: usize, copy: &Copy) -> Result<()> {
        let reach = Reach { space: Space::Shared, bytes: copy.size as u32, write: true, atomic: false };
        let mut offsets = [0; 32];
        offsets[copy.lane] = copy.to;
        self.watch(warp, reach, &offsets, 1 << copy.lane)?;
        let to = &mut self.shared[copy.to..copy.to + copy.size];
        to.fill(0);
        if copy.wanted > 0 {
            let from = self.global.read(copy.from, copy.wanted).map_err(|e| format!("cp.async: {e}"))?;
            to[..copy.wanted].copy_from_slice(from);
        }
        Ok(())
    }
}

/// Whether all lanes of a value agree, and on what.
pub fn uniform(value: &Long, what: &str) -> Result<u64> {
    match value.iter().all(|x| *x == value[0]) {
        true => Ok(value[0]),
        false => Err(format!("{what} differs within the warp")),
    }
}
