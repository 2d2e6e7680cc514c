/*! What a backend is besides its ops: memory ([`Memory`]), work that is ordered and repeated ([`Schedule`]), and time
([`Clock`]).

No method has a default: a wrapper that forgets to forward one does not compile. Wrappers forward whole traits with
`forward_memory!`, `forward_schedule!` and `forward_clock!`; a backend that has finished its work when a call returns
takes both other traits from [`at_once!`](crate::at_once).
*/

use std::time::Instant;

use super::Invalid;
use crate::{
    base,
    mem::{F32, Planner, Precision, RawSpan, Span, U32},
};

/// Moving values between the host and a backend's arenas. Real arenas hold f32 values for the host, whatever they
/// store.
pub trait Memory {
    /// The element type of [`Act`](crate::mem::Act) arenas.
    fn precision(&self) -> Precision;
    /// The type of the factors of products; their sums are f32.
    fn products(&self) -> Precision;

    /// Fails for good, because an op is not valid: runs nothing from here on, and says why at the next
    /// [`Memory::sync`].
    fn refuse(&mut self, why: &Invalid);
    /// Whether a failure is waiting to be reported.
    fn failed(&self) -> bool;

    fn write(&mut self, span: RawSpan, values: &[f32]);
    fn read(&mut self, span: RawSpan, values: &mut [f32]);
    fn write_ids(&mut self, span: Span<U32>, values: &[u32]);
    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]);

    /// Bytes of memory that a plan takes on this backend, without scratch.
    fn bytes(&self, plan: &Planner) -> usize;

    /// Takes scratch memory for what is to come, so that a step takes none.
    ///
    /// # Errors
    /// There is not enough.
    fn reserve(&mut self, bytes: usize) -> base::Result<()>;

    /// The most scratch memory in bytes that an op has taken since this was called last; 0 where ops take none.
    fn scratch_taken(&mut self) -> usize;

    /// Waits until all work is done.
    ///
    /// # Errors
    /// The device has failed since the backend was opened, or an op was refused; what was read since then is worth
    /// nothing.
    fn sync(&mut self) -> base::Result<()>;

    /// Room for `len` interactions in the device's own memory, in addition to everything planned; `None` where there is
    /// no such memory, or not enough of it is left.
    fn resident(&mut self, len: usize) -> Option<Span<U32>>;
}

/// Work in an order of its own: what may run ahead of the host, and what is repeated.
pub trait Schedule: Memory {
    /// As [`Memory::write_ids`], for what comes new with every step: may cross while the work before it goes on.
    fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]);

    /// Begins to read the first four numbers of `span` as the work so far leaves them; [`Schedule::collect`] gives
    /// them. At most four readings may be under way.
    fn read_later(&mut self, span: Span<F32>) -> Later;

    /// What [`Schedule::read_later`] read, waiting for it if need be; NaN once the device has failed.
    fn collect(&mut self, later: Later) -> [f32; 4];

    /// Says what the work that follows is part of; only a wrapper that records calls uses it.
    fn enter(&mut self, phase: Phase);

    /// Whether [`Schedule::replay`] gains from work that comes again: then sizes are worth rounding up.
    fn replays(&self) -> bool;

    /// Runs `body`, or repeats what it did when it was run under this `key` before: the ops it runs, and with which
    /// spans and sizes, must follow from the key alone, and it must neither write nor read.
    fn replay(&mut self, key: u64, body: impl FnOnce(&mut Self))
    where
        Self: Sized;
}

/// When work is done.
pub trait Clock {
    /// A moment in the order of the work, for [`Clock::seconds_between`]: when the work so far is done, not when this
    /// call is. At least the last [`MARKS`] are remembered.
    fn mark(&mut self) -> Mark;

    /// Seconds from one mark to a later one, waiting until the work before it is done; NaN once the device has failed
    /// or a mark is forgotten.
    fn seconds_between(&mut self, from: &Mark, to: &Mark) -> f64;
}

/// Parts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Making the batch: gathering, hiding, drawing negatives.
    #[default]
    Batch,
    Forward,
    /// Scores, loss, and its way back to the scored rows.
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

/// A moment in the order of a backend's work.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// Of a backend whose work is done when it returns.
    Now(Instant),
    /// The so many-th of a device.
    Device(u64),
}

/// Marks that a backend remembers at least.
pub const MARKS: usize = 1 << 14;

/// Numbers on their way from a device.
#[derive(Clone, Copy, Debug)]
pub enum Later {
    /// They are here.
    Now([f32; 4]),
    /// Where the backend finds them.
    Slot(usize),
    /// The device has failed.
    Lost,
}

impl Mark {
    /// Seconds from one moment of the host's clock to a later one; NaN for marks of a device.
    pub fn seconds_to(&self, to: &Mark) -> f64 {
        match (self, to) {
            (Mark::Now(from), Mark::Now(to)) => to.saturating_duration_since(*from).as_secs_f64(),
            _ => f64::NAN,
        }
    }
}

/// [`Schedule`] and [`Clock`] of a backend that has finished its work when a call returns: it reads at once, repeats
/// nothing, and its clock is the host's.
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
            fn replay(&mut self, _: u64, body: impl FnOnce(&mut Self)) {
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

/// The methods of [`Memory`], each forwarded to the backend `$inner`.
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

/// The methods of [`Schedule`], each forwarded to the backend `$inner`. Repeated work stays with the wrapper, which
/// runs it each time and sees every op of it.
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
        fn replay(&mut $self, _: u64, body: impl FnOnce(&mut Self))
        where
            Self: Sized,
        {
            body($self);
        }
    };
}

/// The methods of [`Clock`], each forwarded to the backend `$inner`.
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
