/*
Warp-level matrix products of shared-memory tiles, 16 rows per warp, with f32 accumulators: tensor cores (mma.m16n8k16)
for bf16, fused multiply-adds for float. Both have one interface and one accumulator layout, so that a kernel is
written once for both types.

acc[nb][i] of a lane is row acc_row(lane, i), column acc_col(lane, nb, i) of the warp's (16, 8*NB) tile. NB is even.
Shared tiles are row-major with leading dimension tile_ld<T>(columns). The padding shifts each row by four banks, so
that the eight 16-byte rows of an ldmatrix (or the float4 of eight rows) are free of bank conflicts.
K (the reduction length) is a multiple of 16. Elements past the valid part of a tile must be zero in both operands.

  gemm_nt   acc += A (16,K) B (8*NB,K)^T       K contiguous in both: scores, q k^T
  gemm_nn   acc += A (16,K) B (K,8*NB)         columns of B contiguous: p v
  gemm_tn   acc += A (K,16)^T B (K,8*NB)       K is the row index of both: p^T do
  gemm_rn   acc += P (16,K) B (K,8*NB)         P in registers: the accumulators of an earlier product
*/
#pragma once
#include "types.cuh"

__device__ __forceinline__ int acc_row(int lane, int i) { return lane / 4 + i / 2 * 8; }
__device__ __forceinline__ int acc_col(int lane, int nb, int i) { return nb * 8 + lane % 4 * 2 + i % 2; }

// Elements per 16 bytes: the unit of cp.async and the row padding.
template <class T>
constexpr int kChunk = 16 / (int)sizeof(T);

template <class T>
constexpr __host__ __device__ int tile_ld(int columns) {
  return columns + kChunk<T>;
}

template <int NB>
__device__ __forceinline__ void acc_zero(float (&acc)[NB][4]) {
#pragma unroll
  for (int nb = 0; nb < NB; nb++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[nb][i] = 0.f;
}

// ---------------------------------------------------------------------------------------------------------------- bf16

template <int NB>
__device__ __forceinline__ void mma_nt_step(float (&acc)[NB][4], const u32 (&a)[4], const bf16* b, int ldb, int lane) {
#pragma unroll
  for (int nb = 0; nb < NB; nb += 2) {
    u32 f[4];
    ldsm_x4(f, b + (nb * 8 + lane / 16 * 8 + lane % 8) * ldb + lane / 8 % 2 * 8);
    mma_bf16(acc[nb], a, f[0], f[1]);
    mma_bf16(acc[nb + 1], a, f[2], f[3]);
  }
}

template <int NB>
__device__ __forceinline__ void mma_nn_step(float (&acc)[NB][4], const u32 (&a)[4], const bf16* b, int ldb, int lane) {
#pragma unroll
  for (int nb = 0; nb < NB; nb += 2) {
    u32 f[4];
    ldsm_x4_t(f, b + lane % 16 * ldb + nb * 8 + lane / 16 * 8);
    mma_bf16(acc[nb], a, f[0], f[1]);
    mma_bf16(acc[nb + 1], a, f[2], f[3]);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_nt(float (&acc)[NB][4], const bf16* a, int lda, const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
// Partial unroll: fragments loaded too far ahead would spill the accumulators of wide kernels.
#pragma unroll 4
  for (int k = 0; k < K; k += 16) {
    u32 f[4];
    ldsm_x4(f, a + lane % 16 * lda + k + lane / 16 * 8);
    mma_nt_step(acc, f, b + k, ldb, lane);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_nn(float (&acc)[NB][4], const bf16* a, int lda, const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    u32 f[4];
    ldsm_x4(f, a + lane % 16 * lda + k + lane / 16 * 8);
    mma_nn_step(acc, f, b + k * ldb, ldb, lane);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_tn(float (&acc)[NB][4], const bf16* a, int lda, const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    u32 f[4];
    ldsm_x4_t(f, a + (k + lane / 16 * 8 + lane % 8) * lda + lane / 8 % 2 * 8);
    mma_nn_step(acc, f, b + k * ldb, ldb, lane);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_rn(float (&acc)[NB][4], const float (&p)[K / 8][4], const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    // Two adjacent accumulator tiles have the layout of the left operand of the next product.
    const u32 f[4] = {pack_bf16(p[k / 8][0], p[k / 8][1]), pack_bf16(p[k / 8][2], p[k / 8][3]),
                      pack_bf16(p[k / 8 + 1][0], p[k / 8 + 1][1]), pack_bf16(p[k / 8 + 1][2], p[k / 8 + 1][3])};
    mma_nn_step(acc, f, b + k * ldb, ldb, lane);
  }
}

// --------------------------------------------------------------------------------------------------------------- float

template <int K, int NB>
__device__ __forceinline__ void gemm_nt(float (&acc)[NB][4], const float* a, int lda, const float* b, int ldb) {
  const int lane = threadIdx.x % 32;
  const float *a0 = a + lane / 4 * lda, *a1 = a0 + 8 * lda, *b0 = b + lane % 4 * 2 * ldb;
#pragma unroll 2
  for (int k = 0; k < K; k += 4) {
    const float4 x = *(const float4*)(a0 + k), y = *(const float4*)(a1 + k);
#pragma unroll
    for (int nb = 0; nb < NB; nb++) {
      const float4 u = *(const float4*)(b0 + nb * 8 * ldb + k), v = *(const float4*)(b0 + (nb * 8 + 1) * ldb + k);
      acc[nb][0] = fmaf(x.w, u.w, fmaf(x.z, u.z, fmaf(x.y, u.y, fmaf(x.x, u.x, acc[nb][0]))));
      acc[nb][1] = fmaf(x.w, v.w, fmaf(x.z, v.z, fmaf(x.y, v.y, fmaf(x.x, v.x, acc[nb][1]))));
      acc[nb][2] = fmaf(y.w, u.w, fmaf(y.z, u.z, fmaf(y.y, u.y, fmaf(y.x, u.x, acc[nb][2]))));
      acc[nb][3] = fmaf(y.w, v.w, fmaf(y.z, v.z, fmaf(y.y, v.y, fmaf(y.x, v.x, acc[nb][3]))));
    }
  }
}

// acc += (x0, x1)^T (b[col], b[col+1]): one step of the reduction; x0 for the lane's upper row, x1 for its lower row.
template <int NB>
__device__ __forceinline__ void fma_row(float (&acc)[NB][4], float x0, float x1, const float* b, int lane) {
#pragma unroll
  for (int nb = 0; nb < NB; nb++) {
    const float2 y = *(const float2*)(b + nb * 8 + lane % 4 * 2);
    acc[nb][0] = fmaf(x0, y.x, acc[nb][0]);
    acc[nb][1] = fmaf(x0, y.y, acc[nb][1]);
    acc[nb][2] = fmaf(x1, y.x, acc[nb][2]);
    acc[nb][3] = fmaf(x1, y.y, acc[nb][3]);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_nn(float (&acc)[NB][4], const float* a, int lda, const float* b, int ldb) {
  const int lane = threadIdx.x % 32;
  const float* a0 = a + lane / 4 * lda;
#pragma unroll 4
  for (int k = 0; k < K; k++) fma_row(acc, a0[k], a0[8 * lda + k], b + k * ldb, lane);
}

template <int K, int NB>
__device__ __forceinline__ void gemm_tn(float (&acc)[NB][4], const float* a, int lda, const float* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int k = 0; k < K; k++) fma_row(acc, a[k * lda + lane / 4], a[k * lda + lane / 4 + 8], b + k * ldb, lane);
}

template <int K, int NB>
__device__ __forceinline__ void gemm_rn(float (&acc)[NB][4], const float (&p)[K / 8][4], const float* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K; k++) {
    // Column k of P is held by lane k%8/2 of each quad.
    const int owner = (lane & ~3) + k % 8 / 2;
    const float x0 = __shfl_sync(kAllLanes, p[k / 8][k % 2], owner);
    const float x1 = __shfl_sync(kAllLanes, p[k / 8][2 + k % 2], owner);
    fma_row(acc, x0, x1, b + k * ldb, lane);
  }
}

// --------------------------------------------------------------------------------------------------------------- loads

// Starts to copy the upper left (rows, columns) part of a global matrix with row stride `stride` into the shared tile
// (ROWS, COLS), with zeros in the rest. All kThreads threads of the block must call it. The caller then issues
// cp_async_commit, cp_async_wait and __syncthreads. Copies 16 bytes at a time if width, stride and base are aligned,
// otherwise single elements.
template <int ROWS, int COLS, int kThreads, class T>
__device__ __forceinline__ void load_tile(T* tile, const T* global, i64 stride, int rows, int columns) {
  constexpr int kLd = tile_ld<T>(COLS), kVec = kChunk<T>, kRow = COLS / kVec, kStep = kThreads / kRow;
  static_assert(kThreads % kRow == 0, "a thread stays in its columns");
  const bool aligned = columns % kVec == 0 && stride % kVec == 0 && (uintptr_t)global % 16 == 0;
  // Both loops have compile-time trip counts. A loop from threadIdx.x to ROWS*COLS would get a remainder loop and keep
  // its addresses in registers that the caller needs for accumulators.
  if (aligned) {
    const int r0 = threadIdx.x / kRow, c = threadIdx.x % kRow * kVec;
    const T* from = global + r0 * stride + c;
#pragma unroll
    for (int i = 0; i < (ROWS + kStep - 1) / kStep; i++, from += kStep * stride) {
      const int r = r0 + i * kStep;
      if (ROWS % kStep != 0 && r >= ROWS) continue;
      const bool inside = r < rows && c < columns;
      cp_async16(tile + r * kLd + c, inside ? from : global, inside);
    }
  } else {
#pragma unroll 4
    for (int i = 0; i < (ROWS * COLS + kThreads - 1) / kThreads; i++) {
      const int at = i * kThreads + threadIdx.x, r = at / COLS, c = at % COLS;
      if (ROWS * COLS % kThreads != 0 && at >= ROWS * COLS) continue;
      tile[r * kLd + c] = r < rows && c < columns ? global[r * stride + c] : from_f32<T>(0.f);
    }
  }
}
