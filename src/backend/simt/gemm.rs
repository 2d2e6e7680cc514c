//! Matrix products of the dense layers. The engine is chosen when the backend opens.

use super::{Simt, kernels::*};

/// The operands that are stored transposed. All are row-major and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GemmLayout {
    /// A (M,K), B (N,K).
    Nt,
    /// A (M,K), B (K,N).
    Nn,
    /// A (K,M), B (K,N).
    Tn,
}

/// C (M,N) = or += op(A) op(B) + bias, with f32 sums. A, B and the bias have the type of the activations.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub shape: GemmLayout,
    pub c: Ptr,
    pub a: Ptr,
    pub b: Ptr,
    /// (N), or null.
    pub bias: Ptr,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Whether to add to C.
    pub add: bool,
    /// Whether C is f32 in any precision of A and B.
    pub f32_out: bool,
}

/// A matrix-product engine.
pub trait Gemm: Send {
    /// Returns the name shown by `mipgpu devices`.
    fn name(&self) -> String;

    /// Enqueues the product on the stream of `simt`.
    fn multiply(&mut self, simt: &mut Simt, product: &Product);
}

/// Our own kernels: correct everywhere, optimized for no device.
pub struct Own;

impl Gemm for Own {
    fn name(&self) -> String {
        "mipgpu's own gemm kernels".into()
    }

    fn multiply(&mut self, simt: &mut Simt, p: &Product) {
        own(simt, p);
    }
}

/// Rows and columns per tile of a block.
const TILE: usize = 64;

/// Computes the product with `kernels/gemm.cu`.
pub fn own(simt: &mut Simt, p: &Product) {
    let pair = match p.shape {
        GemmLayout::Nt => GEMM_NT,
        GemmLayout::Nn => GEMM_NN,
        GemmLayout::Tn => GEMM_TN,
    };
    let params = GemmParams {
        c: p.c,
        a: p.a,
        b: p.b,
        bias: p.bias,
        m: p.m as i64,
        n: p.n as i64,
        k: p.k as i64,
        add: p.add as i32,
        f32_out: p.f32_out as i32,
    };
    // Two stages of two tiles, each row padded by 16 bytes.
    let shared = 4 * TILE * (TILE * simt.act_bytes() + 16);
    simt.launch(simt.of(pair), [p.m.div_ceil(TILE), p.n.div_ceil(TILE), 1], shared, params);
}
