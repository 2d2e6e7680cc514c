/*
sequence_rows: broadcasts one row per sequence to the rows of the sequence, and sums the rows of each sequence.
spread_rows: y_n = w_n x_b, n in cu_b..cu_b+1 (or accumulated), zeros after the last sequence   x (B,D)  y (N,D) act
pool_rows:   y_b = sum of w_n x_n over the same rows (or accumulated)                           x (N,D)  y (B,D) act
cu (B+1)   w (N) f32, null for ones; weights and rows after the last sequence are not read
Each is the backward pass of the other: SpreadFwd and PoolBwd are spread_rows, PoolFwd and SpreadBwd are pool_rows.
Writes: y (overwritten or accumulated).   Saves for bwd: nothing.
Work: spread: one block (or several, for few sequences) per sequence keeps x_b in registers and iterates over the rows
      with `lanes` threads per row, eight elements each. No row searches for its sequence. One more block writes the
      rows after the last sequence.
      pool: each block sums a sequence for 64 columns. Its eight warps share the rows, and their sums are added in
      order: bitwise reproducible.
Limits: any B, N, D; N*D may exceed 2^31.   Numerics: f32 sums and products.
Cost: reads or writes N*D elements, and writes or reads B*D. Memory bound.
*/
#include "common/columns.cuh"

struct SpreadRowsParams {
  void* y;         // (N,D) act
  const void* x;   // (B,D) act
  const float* w;  // (N), may be null
  const u32* cu;   // (B+1)
  i64 n;
  int b;
  int d;
  int lanes;
  int add;
};

struct PoolRowsParams {
  void* y;         // (B,D) act
  const void* x;   // (N,D) act
  const float* w;  // (N), may be null
  const u32* cu;   // (B+1)
  int d;
  int add;
};

// Stores columns c and c+1 of a row, each rounded once.
template <class T>
__device__ __forceinline__ void put2(T* row, float2 x, bool second) {
  row[0] = from_f32<T>(x.x);
  if (second) row[1] = from_f32<T>(x.y);
}

// Launch: grid (B+1, parts), block (256). Block B writes the rows after the last sequence.
template <class T>
__device__ __forceinline__ void spread_rows(const SpreadRowsParams& p) {
  const int s = blockIdx.x;
  const bool none = s == p.b;
  if (none && p.add) return;
  const i64 end = none ? p.n : p.cu[s + 1], groups = blockDim.x / p.lanes;
  const i64 first = p.cu[s] + blockIdx.y * groups + threadIdx.x / p.lanes;
  const bool vec = rows_aligned(p.x, p.d) && aligned16(p.y);
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8] = {};
    if (!none) load_row(x, (const T*)p.x + (i64)s * p.d, c, p.d, vec);
    for (i64 i = first; i < end; i += groups * gridDim.y) {
      const float by = p.w && !none ? p.w[i] : 1.f;
      T* const row = (T*)p.y + i * p.d;
      float y[8] = {};
      if (p.add) load_row(y, row, c, p.d, vec);
#pragma unroll
      for (int k = 0; k < 8; k++) y[k] += by * x[k];
      store_row(row, y, c, p.d, vec);
    }
  }
}

// Launch: grid (B, ceil(D/64)), block (256).
template <class T>
__device__ __forceinline__ void pool_rows(const PoolRowsParams& p) {
  STATIC_SMEM(float2, shared, 256);
  const int lane = threadIdx.x % 32, c = blockIdx.y * 64 + lane * 2;
  const bool mine = c < p.d, second = c + 1 < p.d, both = second && p.d % 2 == 0 && aligned16(p.x);
  const u32 end = p.cu[blockIdx.x + 1];
  float2 sum = make_float2(0.f, 0.f);
  if (mine) {
#pragma unroll 4
    for (u32 i = p.cu[blockIdx.x] + threadIdx.x / 32; i < end; i += 8) {
      const float by = p.w ? p.w[i] : 1.f;
      const float2 x = load2((const T*)p.x + (i64)i * p.d + c, both, second);
      sum.x += by * x.x, sum.y += by * x.y;
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || !mine) return;
  sum = make_float2(0.f, 0.f);
#pragma unroll
  for (int w = 0; w < 8; w++) sum.x += shared[w * 32 + lane].x, sum.y += shared[w * 32 + lane].y;
  T* const row = (T*)p.y + (i64)blockIdx.x * p.d + c;
  if (p.add) sum.x += to_f32(row[0]), sum.y += second ? to_f32(row[1]) : 0.f;
  put2(row, sum, second);
}

KERNEL(spread_rows_bf16, SpreadRowsParams, 256, 4) { spread_rows<bf16>(p); }
KERNEL(spread_rows_f32, SpreadRowsParams, 256, 4) { spread_rows<float>(p); }
KERNEL(pool_rows_bf16, PoolRowsParams, 256) { pool_rows<bf16>(p); }
KERNEL(pool_rows_f32, PoolRowsParams, 256) { pool_rows<float>(p); }
