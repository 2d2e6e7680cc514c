/*! Transfers between host and device during a run. They use pinned memory, so that copies overlap with the host and the
kernels. Small writes pass through one ring ([`Uploads`]). The ids of a streamed batch pass through two slots on a
separate stream ([`Ahead`]), so that the next batch is copied while the current one is trained on. Results return into
slots that the host reads later ([`Results`]).
*/

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError,
    result::{self},
    sys,
};

use super::{driver::Loaded, kernels::Ptr};
use crate::ops::MARKS;

type Done = Result<(), DriverError>;

/// Host memory that the device accesses directly.
struct Pinned {
    at: *mut u8,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: flags 0 request plain pinned memory; freed in `drop`.
        let at = unsafe { result::malloc_host(len, 0) }?.cast();
        Ok(Pinned { at, len, context: context.clone() })
    }

    /// Returns the `len` bytes from `start` on. The device does not access them: the caller has waited.
    fn bytes(&mut self, start: usize, len: usize) -> &mut [u8] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside the block, which this value owns.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(start), len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated in `new`, freed once.
        let _ = unsafe { result::free_host(self.at.cast::<c_void>()) };
    }
}

/// Records an event on a stream for the host or another stream to wait for.
fn mark(slot: &mut Option<CudaEvent>, stream: &Arc<CudaStream>) -> Done {
    if slot.is_none() {
        *slot = Some(stream.context().new_event(None)?);
    }
    slot.as_ref().expect("made above").record(stream)
}

fn wait_for(slot: &Option<CudaEvent>) -> Done {
    slot.as_ref().map_or(Ok(()), CudaEvent::synchronize)
}

/// Bytes of one half of the ring.
const HALF: usize = 1 << 20;

/// A ring in two halves: one is filled while the copies from the other run.
pub(super) struct Uploads {
    memory: Pinned,
    half: usize,
    used: usize,
    copied: [Option<CudaEvent>; 2],
}

impl Uploads {
    /// The largest write that passes through the ring. Larger ones go directly, and the host waits for them.
    pub const MOST: usize = HALF / 4;

    pub fn new(device: &Loaded) -> Result<Self, DriverError> {
        Ok(Uploads { memory: Pinned::new(&device.context, 2 * HALF)?, half: 0, used: 0, copied: [None, None] })
    }

    /// Copies `values` to `to` in the order of the stream. The host may change them immediately.
    pub fn copy(&mut self, stream: &Arc<CudaStream>, to: Ptr, values: &[u8]) -> Done {
        if self.used + values.len() > HALF {
            mark(&mut self.copied[self.half], stream)?;
            self.half ^= 1;
            self.used = 0;
            wait_for(&self.copied[self.half])?;
        }
        let from = self.memory.bytes(self.half * HALF + self.used, values.len());
        from.copy_from_slice(values);
        self.used += values.len().next_multiple_of(64);
        // SAFETY: the caller has checked `to`; the half is not written again before its copies are done.
        unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }
    }
}

/// Two slots, in pinned and in device memory, and a stream that fills them.
pub(super) struct Ahead {
    stream: Arc<CudaStream>,
    pinned: Pinned,
    device: CudaSlice<u8>,
    /// Bytes per slot.
    room: usize,
    next: usize,
    /// The slot has arrived on the device.
    arrived: [Option<CudaEvent>; 2],
    /// The main stream has read the slot.
    taken: [Option<CudaEvent>; 2],
}

impl Ahead {
    pub fn new(device: &Loaded, room: usize) -> Result<Self, DriverError> {
        let room = room.next_multiple_of(64);
        let stream = device.context.new_stream()?;
        Ok(Ahead {
            pinned: Pinned::new(&device.context, 2 * room)?,
            device: stream.alloc_zeros(2 * room)?,
            stream,
            room,
            next: 0,
            arrived: [None, None],
            taken: [None, None],
        })
    }

    pub fn room(&self) -> usize {
        self.room
    }

    /// Copies `values` to `to`: to the device on this stream in parallel with `main`, then into place in the order of
    /// `main`.
    pub fn copy(&mut self, main: &Arc<CudaStream>, to: Ptr, values: &[u8]) -> Done {
        let slot = self.next;
        self.next ^= 1;
        wait_for(&self.arrived[slot])?;
        let from = self.pinned.bytes(slot * self.room, values.len());
        from.copy_from_slice(values);
        if let Some(taken) = &self.taken[slot] {
            self.stream.wait(taken)?;
        }
        let staged = self.device.device_ptr(&self.stream).0 + (slot * self.room) as Ptr;
        // SAFETY: both slots have `room` bytes. The pinned slot is not written before `arrived`, the device slot not
        // before `taken`.
        unsafe { result::memcpy_htod_async(staged, from, self.stream.cu_stream()) }?;
        mark(&mut self.arrived[slot], &self.stream)?;
        main.wait(self.arrived[slot].as_ref().expect("marked above"))?;
        // SAFETY: the caller has checked `to`.
        unsafe { result::memcpy_dtod_async(to, staged, values.len(), main.cu_stream()) }?;
        mark(&mut self.taken[slot], main)
    }
}

/// Numbers per result, and results in flight.
pub(super) const NUMBERS: usize = 4;
const SLOTS: usize = 4;

/// Slots for returning results.
pub(super) struct Results {
    memory: Pinned,
    arrived: [Option<CudaEvent>; SLOTS],
    next: usize,
}

impl Results {
    pub fn new(device: &Loaded) -> Result<Self, DriverError> {
        Ok(Results {
            memory: Pinned::new(&device.context, SLOTS * NUMBERS * 4)?,
            arrived: [const { None }; SLOTS],
            next: 0,
        })
    }

    /// Starts to read `NUMBERS` floats. Returns the slot.
    ///
    /// # Errors
    /// The driver fails.
    pub fn begin(&mut self, stream: &Arc<CudaStream>, from: Ptr) -> Result<usize, DriverError> {
        let slot = self.next;
        self.next = (slot + 1) % SLOTS;
        let to = self.memory.bytes(slot * NUMBERS * 4, NUMBERS * 4);
        // SAFETY: the caller has checked `from`; readers of the slot wait for the event.
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }?;
        mark(&mut self.arrived[slot], stream)?;
        Ok(slot)
    }

    /// Waits for a slot and returns its numbers.
    ///
    /// # Errors
    /// The driver fails.
    pub fn end(&mut self, slot: usize) -> Result<[f32; NUMBERS], DriverError> {
        wait_for(&self.arrived[slot])?;
        let mut values = [0.0; NUMBERS];
        bytemuck::cast_slice_mut::<f32, u8>(&mut values)
            .copy_from_slice(self.memory.bytes(slot * NUMBERS * 4, NUMBERS * 4));
        Ok(values)
    }
}

/// Timing marks of a stream, in a ring of events that are created on demand and reused.
#[derive(Default)]
pub(super) struct Moments {
    events: Vec<CudaEvent>,
    next: u64,
}

impl Moments {
    /// Marks the work enqueued on the stream so far.
    ///
    /// # Errors
    /// The driver fails.
    pub fn mark(&mut self, stream: &Arc<CudaStream>) -> Result<u64, DriverError> {
        let at = (self.next % MARKS as u64) as usize;
        if self.events.len() <= at {
            // An event with timing. All other events here have none, which costs less.
            self.events.push(stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?);
        }
        self.events[at].record(stream)?;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Returns the event of a mark that is still in the ring.
    fn event(&self, mark: u64) -> Option<&CudaEvent> {
        let remembered = mark < self.next && self.next - mark <= MARKS as u64;
        remembered.then(|| &self.events[(mark % MARKS as u64) as usize])
    }

    /// Returns the seconds between two marks, waiting for them.
    ///
    /// # Errors
    /// The driver fails.
    pub fn between(&self, from: u64, to: u64) -> Result<f64, DriverError> {
        let (Some(from), Some(to)) = (self.event(from), self.event(to)) else { return Ok(f64::NAN) };
        from.elapsed_ms(to).map(|ms| ms as f64 * 1e-3)
    }
}
