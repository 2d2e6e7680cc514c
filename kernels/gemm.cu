/*
gemm: plain matrix products, for shapes that cuBLASLt rejects and for machines without cuBLASLt.
C (M,N) = or += op(A) op(B) + bias          A,B act   C act or f32   bias (N) act
  nt: A (M,K) B (N,K)^T      nn: A (M,K) B (K,N)      tn: A (K,M)^T B (K,N)
Launch: grid (ceil(M/64), ceil(N/64)), block (128). Each block computes a 64x64 tile of C. It iterates over K in steps
of 64 with two cp.async stages in shared memory.
Limits: any sizes.   Numerics: f32 sums in a fixed order.   Cost: 2MNK flop; not tuned, cuBLASLt is faster.
*/
#include "common/tile.cuh"

struct GemmParams {
  void* c;           // (M,N) act, or f32 if f32_out
  const void* a;     // act
  const void* b;     // act
  const void* bias;  // (N) act, may be null
  i64 m;
  i64 n;
  i64 k;
  int add;      // 1: accumulate into C
  int f32_out;  // 1: C is f32
};

constexpr int kTile = 64;

template <class T, bool kTransA, bool kTransB>
__device__ __forceinline__ void gemm(const GemmParams& p) {
  constexpr int kLd = tile_ld<T>(kTile), kSize = kTile * kLd;
  DYN_SMEM(smem);
  T* tiles = (T*)smem;  // two stages of A and B
  const i64 m0 = (i64)blockIdx.x * kTile, n0 = (i64)blockIdx.y * kTile;
  const int rows = (int)min((i64)kTile, p.m - m0), columns = (int)min((i64)kTile, p.n - n0);
  const T *a = (const T*)p.a, *b = (const T*)p.b;
  auto load = [&](int stage, i64 k0) {
    const int depth = (int)min((i64)kTile, p.k - k0);
    T *ta = tiles + stage * 2 * kSize, *tb = ta + kSize;
    if (kTransA)
      load_tile<kTile, kTile, 128>(ta, a + k0 * p.m + m0, p.m, depth, rows);
    else
      load_tile<kTile, kTile, 128>(ta, a + m0 * p.k + k0, p.k, rows, depth);
    if (kTransB)
      load_tile<kTile, kTile, 128>(tb, b + n0 * p.k + k0, p.k, columns, depth);
    else
      load_tile<kTile, kTile, 128>(tb, b + k0 * p.n + n0, p.n, depth, columns);
    cp_async_commit();
  };
  float acc[8][4];
  acc_zero(acc);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (p.k > 0) load(0, 0);
  int stage = 0;
  for (i64 k0 = 0; k0 < p.k; k0 += kTile, stage ^= 1) {
    if (k0 + kTile < p.k) {
      load(stage ^ 1, k0 + kTile);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const T *ta = tiles + stage * 2 * kSize, *tb = ta + kSize;
    if (kTransA)
      gemm_tn<kTile>(acc, ta + warp * 16, kLd, tb, kLd);
    else if (kTransB)
      gemm_nt<kTile>(acc, ta + warp * 16 * kLd, kLd, tb, kLd);
    else
      gemm_nn<kTile>(acc, ta + warp * 16 * kLd, kLd, tb, kLd);
    __syncthreads();  // the stage is overwritten in the next iteration
  }
#pragma unroll
  for (int nb = 0; nb < 8; nb++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int r = warp * 16 + acc_row(lane, i), c = acc_col(lane, nb, i);
      if (r >= rows || c >= columns) continue;
      const i64 at = (m0 + r) * p.n + n0 + c;
      float x = acc[nb][i];
      if (p.bias) x += to_f32(((const T*)p.bias)[n0 + c]);
      if (p.f32_out) {
        float* out = (float*)p.c + at;
        *out = p.add ? *out + x : x;
      } else {
        T* out = (T*)p.c + at;
        *out = from_f32<T>(p.add ? to_f32(*out) + x : x);
      }
    }
}

KERNEL(gemm_nt_bf16, GemmParams, 128) { gemm<bf16, false, true>(p); }
KERNEL(gemm_nn_bf16, GemmParams, 128) { gemm<bf16, false, false>(p); }
KERNEL(gemm_tn_bf16, GemmParams, 128) { gemm<bf16, true, false>(p); }

// Launch bounds: by default the compiler spills a few registers to fit one more block.
KERNEL(gemm_nt_f32, GemmParams, 128, 2) { gemm<float, false, true>(p); }
KERNEL(gemm_nn_f32, GemmParams, 128, 2) { gemm<float, false, false>(p); }
KERNEL(gemm_tn_f32, GemmParams, 128, 2) { gemm<float, true, false>(p); }
