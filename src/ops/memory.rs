/*! What a backend provides apart from ops: memory ([`Memory`]), ordering and repetition of work ([`Schedule`]),
and timing ([`Clock`]).

No method has a default, so a wrapper that does not forward one does not compile. Wrappers forward whole traits
with `forward_memory!`, `forward_schedule!` and `forward_clock!`. A backend that has finished its work when a
call returns implements the other two traits with [`at_once!`](crate::at_once).
*/

use std::time::Instant;

use super::{Backend, Invalid};
use crate::{
    base,
    mem::{F32, Planner, Precision, RawSpan, Span, U32},
};

/// Copies values between the host and the arenas of a backend. On the host side, real arenas have f32 values,
/// whatever type they store.
pub trait Memory {
    /// The element type of [`Act`](crate::mem::Act) arenas.
    fn precision(&self) -> Precision;
    /// The precision of the factors of products. Sums are f32.
    fn products(&self) -> Precision;

    /// Puts the backend into a permanent error state because an op is not valid. It runs nothing from here on
    /// and reports the error at the next [`Memory::sync`].
    fn refuse(&mut self, why: &Invalid);
    /// Whether an error is pending.
    fn failed(&self) -> bool;

    fn write(&mut self, span: RawSpan, values: &[f32]);
    fn read(&mut self, span: RawSpan, values: &mut [f32]);
    fn write_ids(&mut self, span: Span<U32>, values: &[u32]);
    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]);

    /// Returns the bytes that a plan takes on this backend, without scratch memory.
    fn bytes(&self, plan: &Planner) -> usize;

    /// Reserves scratch memory in advance, so that a step allocates none.
    ///
    /// # Errors
    /// There is not enough memory.
    fn reserve(&mut self, bytes: usize) -> base::Result<()>;

    /// Returns the largest scratch memory, in bytes, that an op has used since the last call; 0 if ops use
    /// none.
    fn scratch_taken(&mut self) -> usize;

    /// Waits until all work is done.
    ///
    /// # Errors
    /// The device has failed since the backend was opened, or an op was rejected. Values read since then are
    /// undefined.
    fn sync(&mut self) -> base::Result<()>;

    /// Allocates `len` interactions in the device's own memory, in addition to everything planned. `None` if
    /// there is no such memory or not enough.
    fn resident(&mut self, len: usize) -> Option<Span<U32>>;
}

/// The order of work: what may overlap with the host, and what is repeated.
pub trait Schedule: Memory {
    /// As [`Memory::write_ids`], for values that change with every step. The copy may overlap with earlier
    /// work.
    fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]);

    /// Starts to read the first four numbers of `span`, as they are after the work so far;
    /// [`Schedule::collect`] returns them. At most four reads may be pending.
    fn read_later(&mut self, span: Span<F32>) -> Later;

    /// Returns the numbers of [`Schedule::read_later`], waiting if necessary; NaN if the device has failed.
    fn collect(&mut self, later: Later) -> [f32; 4];

    /// Sets the phase of the following work. Only a wrapper that records calls uses it.
    fn enter(&mut self, phase: Phase);

    /// Whether [`Schedule::replay`] speeds up repeated work. If so, it is worth rounding sizes up.
    fn replays(&self) -> bool;

    /// Runs `body`, or replays what it did when it was last run with this `key`. The key must determine the ops
    /// of `body`, their spans and their sizes, and `body` must not read or write memory from the host.
    fn replay(&mut self, key: u64, body: &mut dyn FnMut(&mut dyn Backend));
}

/// Timing of work.
pub trait Clock {
    /// Returns a mark in the order of the work, for [`Clock::seconds_between`]: the time when the work so far
    /// is done, not the time of this call. A backend keeps at least the last [`MARKS`] marks.
    fn mark(&mut self) -> Mark;

    /// Returns the seconds between two marks, after waiting for the work before the later one. NaN if the
    /// device has failed or a mark is no longer kept.
    fn seconds_between(&mut self, from: &Mark, to: &Mark) -> f64;
}

/// Parts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Building the batch: gathering, masking, drawing negatives.
    #[default]
    Batch,
    Forward,
    /// Scores, loss, and the gradients of the scored rows.
    Loss,
    Backward,
    /// Gradient norm and optimiser.
    Update,
}

impl Phase {
    pub const ALL: [Phase; 5] = [Phase::Batch, Phase::Forward, Phase::Loss, Phase::Backward, Phase::Update];

    pub fn word(self) -> &'static str {
        match self {
            Phase::Batch => "batch",
            Phase::Forward => "forward",
            Phase::Loss => "loss",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

/// A point in the order of a backend's work.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// On a backend that has finished its work when a call returns.
    Now(Instant),
    /// The number of the mark on a device.
    Device(u64),
}

/// Minimum number of marks that a backend keeps.
pub const MARKS: usize = 1 << 14;

/// Numbers that are being read from a device.
#[derive(Clone, Copy, Debug)]
pub enum Later {
    /// The numbers have been read.
    Now([f32; 4]),
    /// The slot in which the backend receives them.
    Slot(usize),
    /// The device has failed.
    Lost,
}

impl Mark {
    /// Returns the seconds from one mark of the host's clock to a later one; NaN for marks of a device.
    pub fn seconds_to(&self, to: &Mark) -> f64 {
        match (self, to) {
            (Mark::Now(from), Mark::Now(to)) => to.saturating_duration_since(*from).as_secs_f64(),
            _ => f64::NAN,
        }
    }
}

/// Implements [`Schedule`] and [`Clock`] for a backend that has finished its work when a call returns: it reads
/// immediately, replays nothing and uses the host's clock.
#[macro_export]
#[doc(hidden)]
macro_rules! at_once {
    ($backend:ty $(, for $($generics:tt)+)?) => {
        impl $(<$($generics)+>)? $crate::ops::Schedule for $backend {
            fn write_ids_ahead(&mut self, span: $crate::mem::Span<$crate::mem::U32>, values: &[u32]) {
                $crate::ops::Memory::write_ids(self, span, values);
            }
            fn read_later(&mut self, span: $crate::mem::Span<$crate::mem::F32>) -> $crate::ops::Later {
                if $crate::ops::Memory::failed(self) {
                    return $crate::ops::Later::Lost;
                }
                let mut values = [0.0; 4];
                $crate::ops::Memory::read(self, span.first(4).raw(), &mut values);
                $crate::ops::Later::Now(values)
            }
            fn collect(&mut self, later: $crate::ops::Later) -> [f32; 4] {
                match later {
                    $crate::ops::Later::Now(values) => values,
                    $crate::ops::Later::Slot(_) | $crate::ops::Later::Lost => [f32::NAN; 4],
                }
            }
            fn enter(&mut self, _: $crate::ops::Phase) {}
            fn replays(&self) -> bool {
                false
            }
            fn replay(&mut self, _: u64, body: &mut dyn FnMut(&mut dyn $crate::ops::Backend)) {
                body(self);
            }
        }

        impl $(<$($generics)+>)? $crate::ops::Clock for $backend {
            fn mark(&mut self) -> $crate::ops::Mark {
                $crate::ops::Mark::Now(std::time::Instant::now())
            }
            fn seconds_between(&mut self, from: &$crate::ops::Mark, to: &$crate::ops::Mark) -> f64 {
                from.seconds_to(to)
            }
        }
    };
}

/// Forwards the methods of [`Memory`] to the backend `$inner`.
#[macro_export]
#[doc(hidden)]
macro_rules! forward_memory {
    ($self:ident => $inner:expr) => {
        fn precision(&$self) -> $crate::mem::Precision {
            $inner.precision()
        }
        fn products(&$self) -> $crate::mem::Precision {
            $inner.products()
        }
        fn refuse(&mut $self, why: &$crate::ops::Invalid) {
            $inner.refuse(why);
        }
        fn failed(&$self) -> bool {
            $inner.failed()
        }
        fn write(&mut $self, span: $crate::mem::RawSpan, values: &[f32]) {
            $inner.write(span, values);
        }
        fn read(&mut $self, span: $crate::mem::RawSpan, values: &mut [f32]) {
            $inner.read(span, values);
        }
        fn write_ids(&mut $self, span: $crate::mem::Span<$crate::mem::U32>, values: &[u32]) {
            $inner.write_ids(span, values);
        }
        fn read_ids(&mut $self, span: $crate::mem::Span<$crate::mem::U32>, values: &mut [u32]) {
            $inner.read_ids(span, values);
        }
        fn bytes(&$self, plan: &$crate::mem::Planner) -> usize {
            $inner.bytes(plan)
        }
        fn reserve(&mut $self, bytes: usize) -> $crate::base::Result<()> {
            $inner.reserve(bytes)
        }
        fn scratch_taken(&mut $self) -> usize {
            $inner.scratch_taken()
        }
        fn sync(&mut $self) -> $crate::base::Result<()> {
            $inner.sync()
        }
        fn resident(&mut $self, len: usize) -> Option<$crate::mem::Span<$crate::mem::U32>> {
            $inner.resident(len)
        }
    };
}

/// Forwards the methods of [`Schedule`] to the backend `$inner`, except [`Schedule::replay`].
#[macro_export]
#[doc(hidden)]
macro_rules! forward_schedule {
    ($self:ident => $inner:expr) => {
        fn write_ids_ahead(&mut $self, span: $crate::mem::Span<$crate::mem::U32>, values: &[u32]) {
            $inner.write_ids_ahead(span, values);
        }
        fn read_later(&mut $self, span: $crate::mem::Span<$crate::mem::F32>) -> $crate::ops::Later {
            $inner.read_later(span)
        }
        fn collect(&mut $self, later: $crate::ops::Later) -> [f32; 4] {
            $inner.collect(later)
        }
        fn enter(&mut $self, phase: $crate::ops::Phase) {
            $inner.enter(phase);
        }
        fn replays(&$self) -> bool {
            $inner.replays()
        }
    };
}

/// Forwards the methods of [`Clock`] to the backend `$inner`.
#[macro_export]
#[doc(hidden)]
macro_rules! forward_clock {
    ($self:ident => $inner:expr) => {
        fn mark(&mut $self) -> $crate::ops::Mark {
            $inner.mark()
        }
        fn seconds_between(&mut $self, from: &$crate::ops::Mark, to: &$crate::ops::Mark) -> f64 {
            $inner.seconds_between(from, to)
        }
    };
}
