//! Memory that is planned before the first step: handles ([`Span`]), the [`Planner`] that lays them out, and the host
//! [`Arena`]s that hold them.

mod arena;
mod planner;
mod scalar;
mod span;
mod traced;
mod uses;

pub use arena::{HostArenas, Lent};
pub use planner::{Init, Kept, Owners, Param, Planner, Var};
pub use scalar::{Bf16Products, Precision, Scalar, round_bf16};
pub use span::{Act, Arena, Dst, Element, F32, Mode, RawSpan, Span, U32};
pub use traced::{Numerics, Traced};
pub use uses::{Access, Uses};
