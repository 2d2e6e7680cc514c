//! Running an operation on a backend, by value, reference or box.

use super::{Backend, Clock, Memory, Op, Schedule, Valid};
use crate::{forward_clock, forward_memory, forward_schedule};

/// A backend that can run `O`. Errors are kept and reported by [`Memory::sync`].
pub trait Run<O: Op>: Memory {
    /// Runs a checked op.
    fn execute(&mut self, op: &Valid<'_, O>);

    /// Checks an op and runs it. If the check fails, neither this op nor any later one is run: see
    /// [`Memory::refuse`].
    fn run(&mut self, op: &O) {
        if self.failed() {
            return;
        }
        match Valid::of(op) {
            Ok(op) => self.execute(&op),
            Err(why) => self.refuse(&why),
        }
    }

    /// Returns the bytes of scratch memory that `op` needs.
    ///
    /// # Errors
    /// No implementation supports these sizes; the error names the supported ones.
    fn need(&self, op: &O) -> Result<usize, String> {
        let _ = op;
        Ok(0)
    }
}

/// Implements the traits for pointers to a backend.
macro_rules! pointer_to_backend {
    ($pointer:ty) => {
        impl<O: Op, B: Run<O> + ?Sized> Run<O> for $pointer {
            fn execute(&mut self, op: &Valid<'_, O>) {
                (**self).execute(op);
            }
            fn need(&self, op: &O) -> Result<usize, String> {
                (**self).need(op)
            }
        }

        impl<B: Memory + ?Sized> Memory for $pointer {
            forward_memory!(self => (**self));
        }

        impl<B: Schedule + ?Sized> Schedule for $pointer {
            forward_schedule!(self => (**self));
            fn replay(&mut self, key: u64, body: &mut dyn FnMut(&mut dyn Backend)) {
                (**self).replay(key, body);
            }
        }

        impl<B: Clock + ?Sized> Clock for $pointer {
            forward_clock!(self => (**self));
        }
    };
}
pointer_to_backend!(&mut B);
pointer_to_backend!(Box<B>);
