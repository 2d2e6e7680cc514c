/*! Who runs operations. [`reference`] is the oracle (plain loops, f64 or f32), [`cpu`] is the fast one for machines
without a GPU. Backends know neither layers, models nor data, nor each other; only this file knows them all.
*/

pub mod cpu;
pub mod reference;
pub mod wrap;

pub use cpu::Cpu;
pub use reference::Reference;
