/*
Common parts of the dilated convolution kernels: sequence bounds per row, tiles of shifted rows, and products of 32-row
warp tiles.

A product over taps is an implicit GEMM. The left operand is read once per tap, shifted by `offset` rows, with the same
16-byte cp.async as any tile. Rows with a tap outside of their sequence are filled with zeros during the copy.
*/
#pragma once
#include "rows.cuh"
#include "tile.cuh"

// Taps of a launch: tap w of row t is row t + sign*(w*dilation - lead). sign -1: the rows that read t.
struct Taps {
  int count;
  int dilation;
  int lead;
  int sign;
};
__device__ __forceinline__ int tap_offset(const Taps& t, int w) { return t.sign * (w * t.dilation - t.lead); }

// Tiles of a product with COLS columns per block. Each warp owns 32 rows, so a fragment of the right operand that is
// read once from shared memory feeds two products. Three stages of `kDepth` channels fit into 99 KiB of shared memory,
// the maximum per block on sm_89 and sm_120. Keep in sync with src/backend/simt/dilated_conv.rs.
template <class T, int COLS>
struct ConvTiles {
  static constexpr int kRows = sizeof(T) == 2 ? 128 : 64;
  static constexpr int kDepth = sizeof(T) == 2 ? 32 : 16;
  static constexpr int kStages = 3;
  static constexpr int kAcross = COLS == 256 ? 4 : 2;  // warps along the columns
  static constexpr int kThreads = kRows * kAcross;
  static constexpr int NB = COLS / kAcross / 8;  // accumulator tiles per warp along the columns
};

// ----------------------------------------------------------------------------------------------------------- sequences

// Computes bounds[r] for rows row0 + r, r < ROWS: the range [x, y) of the row's sequence relative to row0; (0, 0) for
// rows in no sequence. All kThreads threads must call it; each warp processes 32 rows at a time. The sequence of the
// first row is found by a search with 32 probes per round (two rounds for 1,000 sequences). The other rows are at most
// a few sequences further. The caller synchronises.
template <int ROWS, int kThreads>
__device__ __forceinline__ void find_bounds(int2* bounds, const u32* cu, int b, i64 row0) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int r = threadIdx.x; r < ROWS; r += kThreads) {
    const i64 row = row0 + r, first = row - lane, all = cu[b];
    if (first < all) {
      int low = 0, high = b;  // cu[low] <= first < cu[high]
      while (high - low > 1) {
        const int step = (high - low + 31) / 32;
        const u32 beyond = __ballot_sync(kAllLanes, cu[min(low + (lane + 1) * step, high)] > first);
        const int before = __ffs((int)beyond) - 1;  // probes at or before `first`; the last probe is always after it
        high = min(low + (before + 1) * step, high);
        low += before * step;
      }
      if (row < all)
        while (cu[low + 1] <= row) low++;
      bounds[r] = row < all ? make_int2((int)(cu[low] - row0), (int)(cu[low + 1] - row0)) : make_int2(0, 0);
    } else {
      bounds[r] = make_int2(0, 0);
    }
  }
}

// Computes the range [first, last] of taps that at least one row of the tile has; first > last if there is none. A row
// has the taps with an offset between its distances to the two ends of its sequence. The union over the rows of a tile
// is one range, so taps that reach past every sequence cost nothing. `shared` holds two ints per 32 rows. All threads
// must call it.
template <int ROWS>
__device__ __forceinline__ void live_taps(const Taps& t, const int2* bounds, int* shared, int& first, int& last) {
  constexpr int kNone = -(1 << 30);
  __syncthreads();  // the bounds are visible
  if (threadIdx.x < ROWS) {
    const int2 at = bounds[threadIdx.x];
    const bool any = at.x < at.y;
    const int back = __reduce_max_sync(kAllLanes, any ? (int)threadIdx.x - at.x : kNone);
    const int ahead = __reduce_max_sync(kAllLanes, any ? at.y - 1 - (int)threadIdx.x : kNone);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 16] = back, shared[threadIdx.x / 16 + 1] = ahead;
  }
  __syncthreads();
  int back = kNone, ahead = kNone;
#pragma unroll
  for (int w = 0; w < ROWS / 32; w++) back = max(back, shared[2 * w]), ahead = max(ahead, shared[2 * w + 1]);
  // For sign -1, w*dilation - lead ranges from -ahead to back.
  const int low = t.lead - (t.sign > 0 ? back : ahead), high = t.lead + (t.sign > 0 ? ahead : back);
  first = (max(low, 0) + t.dilation - 1) / t.dilation;
  last = high < 0 ? -1 : min(high / t.dilation, t.count - 1);
}

// Starts to copy rows [first, first + ROWS) of `x`, each shifted by `offset` rows, and `columns` columns into a shared
// tile (ROWS, COLS). x points at row0 and has `stride` elements per row. Writes zeros for rows without this tap and
// past the columns. bounds: indexed by row - row0. `vec`: width, stride and base allow 16-byte copies.
template <int ROWS, int COLS, int kThreads, class T>
__device__ __forceinline__ void load_shifted(T* tile, const T* x, i64 stride, const int2* bounds, int first, int offset,
                                             int columns, bool vec) {
  constexpr int kLd = tile_ld<T>(COLS), kVec = kChunk<T>, kRow = COLS / kVec, kStep = kThreads / kRow;
  static_assert(kThreads % kRow == 0, "a thread stays in its columns");
  const auto seen = [&](int r) {
    const int2 at = bounds[first + r];
    const int to = first + r + offset;
    return at.x <= to && to < at.y;
  };
  if (vec) {
    const int r0 = threadIdx.x / kRow, c = threadIdx.x % kRow * kVec;
#pragma unroll
    for (int i = 0; i < (ROWS + kStep - 1) / kStep; i++) {
      const int r = r0 + i * kStep;
      if (ROWS % kStep != 0 && r >= ROWS) continue;
      const bool inside = c < columns && seen(r);
      cp_async16(tile + r * kLd + c, inside ? x + (i64)(first + r + offset) * stride + c : x, inside);
    }
  } else {
#pragma unroll 4
    for (int i = 0; i < (ROWS * COLS + kThreads - 1) / kThreads; i++) {
      const int at = i * kThreads + threadIdx.x, r = at / COLS, c = at % COLS;
      if (ROWS * COLS % kThreads != 0 && at >= ROWS * COLS) continue;
      tile[r * kLd + c] = c < columns && seen(r) ? x[(i64)(first + r + offset) * stride + c] : from_f32<T>(0.f);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ products
//
// As in tile.cuh, but with 32 rows per warp: acc[m] is the tile of rows 16*m + 0..15.

template <int NB>
__device__ __forceinline__ void acc_zero2(float (&acc)[2][NB][4]) {
  acc_zero(acc[0]);
  acc_zero(acc[1]);
}

// acc += A (32,K) B (K,8*NB), or with kNt A (32,K) B (8*NB,K)^T.
template <int K, bool kNt, int NB>
__device__ __forceinline__ void gemm_32(float (&acc)[2][NB][4], const bf16* a, int lda, const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
// Not unrolled: fragments loaded ahead would spill accumulators.
#pragma unroll 1
  for (int k = 0; k < K; k += 16) {
    u32 f[2][4];
#pragma unroll
    for (int m = 0; m < 2; m++) ldsm_x4(f[m], a + (m * 16 + lane % 16) * lda + k + lane / 16 * 8);
#pragma unroll
    for (int nb = 0; nb < NB; nb += 2) {
      u32 g[4];
      if (kNt)
        ldsm_x4(g, b + (nb * 8 + lane / 16 * 8 + lane % 8) * ldb + k + lane / 8 % 2 * 8);
      else
        ldsm_x4_t(g, b + (k + lane % 16) * ldb + nb * 8 + lane / 16 * 8);
#pragma unroll
      for (int m = 0; m < 2; m++) {
        mma_bf16(acc[m][nb], f[m], g[0], g[1]);
        mma_bf16(acc[m][nb + 1], f[m], g[2], g[3]);
      }
    }
  }
}

// acc += A (K,32)^T B (K,8*NB): K is the row index of both operands.
template <int K, int NB>
__device__ __forceinline__ void gemm_32_tn(float (&acc)[2][NB][4], const bf16* a, int lda, const bf16* b, int ldb) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int k = 0; k < K; k += 16) {
    u32 f[2][4];
#pragma unroll
    for (int m = 0; m < 2; m++)
      ldsm_x4_t(f[m], a + (k + lane / 16 * 8 + lane % 8) * lda + m * 16 + lane / 8 % 2 * 8);
#pragma unroll
    for (int nb = 0; nb < NB; nb += 2) {
      u32 g[4];
      ldsm_x4_t(g, b + (k + lane % 16) * ldb + nb * 8 + lane / 16 * 8);
#pragma unroll
      for (int m = 0; m < 2; m++) {
        mma_bf16(acc[m][nb], f[m], g[0], g[1]);
        mma_bf16(acc[m][nb + 1], f[m], g[2], g[3]);
      }
    }
  }
}

template <int K, bool kNt, int NB>
__device__ __forceinline__ void gemm_32(float (&acc)[2][NB][4], const float* a, int lda, const float* b, int ldb) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
    if (kNt)
      gemm_nt<K>(acc[m], a + m * 16 * lda, lda, b, ldb);
    else
      gemm_nn<K>(acc[m], a + m * 16 * lda, lda, b, ldb);
  }
}

template <int K, int NB>
__device__ __forceinline__ void gemm_32_tn(float (&acc)[2][NB][4], const float* a, int lda, const float* b, int ldb) {
#pragma unroll
  for (int m = 0; m < 2; m++) gemm_tn<K>(acc[m], a + m * 16, lda, b, ldb);
}

// ------------------------------------------------------------------------------------------- product over shifted rows

// The product of a block: acc (kRows, COLS) = sum_w x_shift(w) (rows, k) B_w, for columns [column0, column0 + COLS) of
// B_w. kNt: B_w is (columns, k) with k contiguous, otherwise (k, columns).
template <class T>
struct ShiftedProduct {
  const T* x;          // (N,k), pointer to the first row of the block
  const T* w;          // (W) consecutive matrices
  const int2* bounds;  // shared memory: find_bounds of the block's rows
  int* shared;         // two ints per 32 rows
  Taps taps;
  int k;        // channels, the reduction length
  int columns;  // total columns of B_w
  int column0;
};

// acc[m][nb][i] of a lane is row conv_row(m, i), column conv_col(nb, i) of the block.
template <class T, int COLS>
__device__ __forceinline__ int conv_row(int m, int i) {
  return threadIdx.x / 32 / ConvTiles<T, COLS>::kAcross * 32 + m * 16 + acc_row(threadIdx.x % 32, i);
}
template <class T, int COLS>
__device__ __forceinline__ int conv_col(int nb, int i) {
  using S = ConvTiles<T, COLS>;
  return threadIdx.x / 32 % S::kAcross * S::NB * 8 + acc_col(threadIdx.x % 32, nb, i);
}

// `smem`: kStages stages of A (kRows, kDepth) and B (kDepth, COLS), or (COLS, kDepth) with kNt.
template <class T, int COLS, bool kNt>
__device__ __forceinline__ void shifted_product(const ShiftedProduct<T>& p, unsigned char* smem,
                                                float (&acc)[2][ConvTiles<T, COLS>::NB][4]) {
  using S = ConvTiles<T, COLS>;
  constexpr int kRows = S::kRows, kDepth = S::kDepth, kThreads = S::kThreads, kStages = S::kStages;
  constexpr int kLdA = tile_ld<T>(kDepth), kLdB = tile_ld<T>(kNt ? kDepth : COLS);
  constexpr int kSizeA = kRows * kLdA, kStage = kSizeA + (kNt ? COLS : kDepth) * kLdB;
  T* stages = (T*)smem;
  acc_zero2(acc);
  int tap, last;
  live_taps<kRows>(p.taps, p.bounds, p.shared, tap, last);
  const int chunks = (p.k + kDepth - 1) / kDepth, steps = max(last - tap + 1, 0) * chunks;
  const bool vec = p.k % kChunk<T> == 0 && aligned16(p.x);
  const int columns = min(COLS, p.columns - p.column0);
  int c0 = 0;  // first channel of the next step to load, for tap `tap`

  const auto load = [&](int stage) {
    const int depth = min(kDepth, p.k - c0);
    T *a = stages + stage * kStage, *b = a + kSizeA;
    load_shifted<kRows, kDepth, kThreads>(a, p.x + c0, p.k, p.bounds, 0, tap_offset(p.taps, tap), depth, vec);
    const T* w = p.w + (i64)tap * p.k * p.columns;
    if (kNt)
      load_tile<COLS, kDepth, kThreads>(b, w + (i64)p.column0 * p.k + c0, p.k, columns, depth);
    else
      load_tile<kDepth, COLS, kThreads>(b, w + (i64)c0 * p.columns + p.column0, p.columns, depth, columns);
    c0 += kDepth;
    if (c0 >= p.k) c0 = 0, tap++;
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (s < steps) load(s);
    cp_async_commit();
  }
  const int warp = threadIdx.x / 32;
  int stage = 0;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage is visible, and the previous one, which is refilled next, is no longer read
    if (step + kStages - 1 < steps) load(stage == 0 ? kStages - 1 : stage - 1);
    cp_async_commit();  // empty at the end, so that the number of groups equals the number of steps
    const T *a = stages + stage * kStage, *b = a + kSizeA;
    const int column = warp % S::kAcross * S::NB * 8;
    gemm_32<kDepth, kNt>(acc, a + warp / S::kAcross * 32 * kLdA, kLdA, kNt ? b + column * kLdB : b + column, kLdB);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
}

// -------------------------------------------------------------------------------------------------------------- stores

__device__ __forceinline__ float2 pair_at(const float* p) { return *(const float2*)p; }
__device__ __forceinline__ float2 pair_at(const bf16* p) {
  const u32 raw = *(const u32*)p;
  return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
}
__device__ __forceinline__ void put_pair(float* p, float x, float y) { *(float2*)p = make_float2(x, y); }
__device__ __forceinline__ void put_pair(bf16* p, float x, float y) { *(u32*)p = pack_bf16(x, y); }

// Two adjacent elements of a row of `width`, at column c. `even`: width and base allow vector access.
template <class T>
__device__ __forceinline__ float2 load_pair(const T* row, int c, int width, bool even) {
  if (even) return c < width ? pair_at(row + c) : make_float2(0.f, 0.f);
  return make_float2(c < width ? to_f32(row[c]) : 0.f, c + 1 < width ? to_f32(row[c + 1]) : 0.f);
}
template <class T>
__device__ __forceinline__ void store_pair(T* row, int c, int width, bool even, float x, float y) {
  if (even) {
    if (c < width) put_pair(row + c, x, y);
    return;
  }
  if (c < width) row[c] = from_f32<T>(x);
  if (c + 1 < width) row[c + 1] = from_f32<T>(y);
}
template <class T>
__device__ __forceinline__ bool even_rows(const T* p, int width) {
  return width % 2 == 0 && (uintptr_t)p % (2 * sizeof(T)) == 0;
}
