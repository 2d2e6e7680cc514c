//! Matrix products of the emulator, computed by the CPU engine. Emulator addresses are addresses of this process, and
//! products are the only part that the GPU takes from a library.

use std::sync::{Arc, Mutex};

use half::bf16;

use super::{
    cpu::{
        gemm::{self, View},
        products,
    },
    simt::{
        Simt,
        gemm::{Gemm, GemmLayout, Product},
    },
};
use crate::{mem::Precision, ops::Memory};

/// Matrix products on the host.
#[derive(Default)]
pub struct HostGemm(Arc<Mutex<Work>>);

#[derive(Default)]
struct Work {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    bias: Vec<f32>,
    packed: Vec<f32>,
}

/// Reads `n` elements of device memory that is host memory.
///
/// # Safety
/// `at` is the address of `n` elements (bf16 where `narrow`, else f32) that nothing writes to meanwhile.
unsafe fn read(to: &mut Vec<f32>, at: u64, n: usize, narrow: bool) {
    to.clear();
    if narrow {
        // SAFETY: guaranteed by the caller.
        let from = unsafe { std::slice::from_raw_parts(at as *const bf16, n) };
        to.extend(from.iter().map(|x| x.to_f32()));
    } else {
        // SAFETY: guaranteed by the caller.
        to.extend_from_slice(unsafe { std::slice::from_raw_parts(at as *const f32, n) });
    }
}

/// Writes to device memory that is host memory.
///
/// # Safety
/// `at` is the address of as many elements (bf16 where `narrow`, else f32) that nothing else uses meanwhile.
unsafe fn write(from: &[f32], at: u64, narrow: bool) {
    if narrow {
        // SAFETY: guaranteed by the caller.
        let to = unsafe { std::slice::from_raw_parts_mut(at as *mut bf16, from.len()) };
        to.iter_mut().zip(from).for_each(|(t, f)| *t = bf16::from_f32(*f));
    } else {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(at as *mut f32, from.len()) }.copy_from_slice(from);
    }
}

impl Gemm for HostGemm {
    fn name(&self) -> String {
        "the CPU engine's products".into()
    }

    fn multiply(&mut self, simt: &mut Simt, p: &Product) {
        let narrow = simt.precision() == Precision::Bf16;
        let (work, p) = (self.0.clone(), *p);
        let multiply = move || work.lock().unwrap_or_else(|e| e.into_inner()).multiply(narrow, &p);
        // Runs immediately where nothing is recorded: the emulator's stream never lags.
        if simt.is_recording() { simt.on_host(multiply) } else { multiply() }
    }
}

impl Work {
    fn multiply(&mut self, narrow: bool, p: &Product) {
        let (m, n, k) = (p.m, p.n, p.k);
        if m == 0 || n == 0 {
            return;
        }
        // SAFETY: the addresses are those of an op's spans of these sizes, which `Simt` has checked. The stream is
        // idle, since the emulator works synchronously.
        unsafe {
            read(&mut self.a, p.a, m * k, narrow);
            read(&mut self.b, p.b, k * n, narrow);
        }
        self.c.clear();
        self.c.resize(m * n, 0.0);
        let b = match p.shape {
            GemmLayout::Nt => View::dense(&self.b, n, k).t(),
            _ => View::dense(&self.b, k, n),
        };
        match p.shape {
            GemmLayout::Tn => {
                products::product_t::<gemm::F32Operand>(&mut self.c, View::dense(&self.a, k, m), b, false)
            }
            _ => {
                self.packed.resize(gemm::packed_len(k, n), 0.0);
                let b = gemm::pack::<gemm::F32Operand>(&mut self.packed, b);
                products::product(&mut self.c, View::dense(&self.a, m, k), b, 1.0, false);
            }
        }
        if p.bias != 0 {
            // SAFETY: as above.
            unsafe { read(&mut self.bias, p.bias, n, narrow) };
            self.c.chunks_mut(n).for_each(|row| row.iter_mut().zip(&self.bias).for_each(|(c, b)| *c += b));
        }
        let narrow = narrow && !p.f32_out;
        if p.add {
            // SAFETY: as above.
            unsafe { read(&mut self.a, p.c, m * n, narrow) };
            self.c.iter_mut().zip(&self.a).for_each(|(c, old)| *c += old);
        }
        // SAFETY: as above, and an op's destination overlaps none of its sources.
        unsafe { write(&self.c, p.c, narrow) };
    }
}
