/*! What goes between the host and the device while a run goes on: pinned memory, so that copies run beside the host and
the kernels. Small writes pass through one ring ([`Uploads`]); the ids of a batch that is streamed pass through two slots
on a stream of their own ([`Ahead`]), so that the next batch crosses while this one is trained on; results come back into
slots that the host looks at later ([`Results`]).
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

/// Host memory that the device reads and writes by itself.
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
        // SAFETY: flags 0 ask for plain pinned memory; freed in `drop`.
        let at = unsafe { result::malloc_host(len, 0) }?.cast();
        Ok(Pinned { at, len, context: context.clone() })
    }

    /// The `len` bytes from `start` on. The device does not touch them: the caller has waited.
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

/// Marks a moment of a stream for the host or another stream to wait for.
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

/// A ring in two halves: one is filled while the copies out of the other run.
pub(super) struct Uploads {
    memory: Pinned,
    half: usize,
    used: usize,
    copied: [Option<CudaEvent>; 2],
}

impl Uploads {
    /// The largest write that passes through the ring; larger ones go straight, and the host waits for them.
    pub const MOST: usize = HALF / 4;

    pub fn new(device: &Loaded) -> Result<Self, DriverError> {
        Ok(Uploads { memory: Pinned::new(&device.context, 2 * HALF)?, half: 0, used: 0, copied: [None, None] })
    }

    /// Copies `values` to `to` in the order of the stream; the host may change them at once.
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
    /// Bytes of a slot.
    room: usize,
    next: usize,
    /// The slot stands on the device.
    arrived: [Option<CudaEvent>; 2],
    /// The slot has been read by the main stream.
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

    /// Brings `values` to `to`: across on this stream, whatever `main` is doing; into place in the order of `main`.
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
        // SAFETY: both slots have `room` bytes; the pinned one is not written before `arrived`, the one on the device not
        // before `taken`.
        unsafe { result::memcpy_htod_async(staged, from, self.stream.cu_stream()) }?;
        mark(&mut self.arrived[slot], &self.stream)?;
        main.wait(self.arrived[slot].as_ref().expect("marked above"))?;
        // SAFETY: the caller has checked `to`.
        unsafe { result::memcpy_dtod_async(to, staged, values.len(), main.cu_stream()) }?;
        mark(&mut self.taken[slot], main)
    }
}

/// Numbers of one result, and results that may be on their way.
pub(super) const NUMBERS: usize = 4;
const SLOTS: usize = 4;

/// Slots that results come back into.
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

    /// Begins to read `NUMBERS` floats; gives the slot.
    pub fn begin(&mut self, stream: &Arc<CudaStream>, from: Ptr) -> Result<usize, DriverError> {
        let slot = self.next;
        self.next = (slot + 1) % SLOTS;
        let to = self.memory.bytes(slot * NUMBERS * 4, NUMBERS * 4);
        // SAFETY: the caller has checked `from`; whoever reads the slot waits for the mark.
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }?;
        mark(&mut self.arrived[slot], stream)?;
        Ok(slot)
    }

    /// Waits for a slot.
    pub fn end(&mut self, slot: usize) -> Result<[f32; NUMBERS], DriverError> {
        wait_for(&self.arrived[slot])?;
        let mut values = [0.0; NUMBERS];
        bytemuck::cast_slice_mut::<f32, u8>(&mut values)
            .copy_from_slice(self.memory.bytes(slot * NUMBERS * 4, NUMBERS * 4));
        Ok(values)
    }
}

/// Moments of a stream, in a ring of events that are made as they are needed and used again and again.
#[derive(Default)]
pub(super) struct Moments {
    events: Vec<CudaEvent>,
    next: u64,
}

impl Moments {
    /// Marks what stands on the stream so far.
    pub fn mark(&mut self, stream: &Arc<CudaStream>) -> Result<u64, DriverError> {
        let at = (self.next % MARKS as u64) as usize;
        if self.events.len() <= at {
            // An event that takes the time: all others here do not, which costs less.
            self.events.push(stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?);
        }
        self.events[at].record(stream)?;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// The event of a mark that is still remembered.
    fn event(&self, mark: u64) -> Option<&CudaEvent> {
        let remembered = mark < self.next && self.next - mark <= MARKS as u64;
        remembered.then(|| &self.events[(mark % MARKS as u64) as usize])
    }

    /// Seconds between two marks, waiting for them.
    pub fn between(&self, from: u64, to: u64) -> Result<f64, DriverError> {
        let (Some(from), Some(to)) = (self.event(from), self.event(to)) else { return Ok(f64::NAN) };
        from.elapsed_ms(to).map(|ms| ms as f64 * 1e-3)
    }
}
