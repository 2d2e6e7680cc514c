/*
vertical_conv: the vertical convolutions of Caser (Tang and Wang 2018): F weighted sums of the L most recent rows.
fwd: y[t,(f,k)] = b_f + sum_{l<L} w[f,l] x[t-L+1+l, k]        x (N,D) act  w (F,L) f32  b (F) f32  y (N,F*D) act
bwd: dx[r,k] = sum_f sum_l w[f,l] dy[r+L-1-l, (f,k)],   dw[f,l] = sum_t sum_k x[t-L+1+l,k] dy[t,(f,k)],   db = sums of
     dy rows before the start of a sequence are zeros; rows after the last sequence have y = 0 and no gradient
Writes: y | dx dw db (overwritten or accumulated, per Dst).   Saves for bwd: nothing.
Work: each thread computes eight adjacent channels of a row. A tile of 32 rows finds its sequences (find_bounds).
      Forward: four filters share each load of x, which hits the cache after the first access. dw: each block processes
      a part of the rows for 4 filters and 8 taps; each thread accumulates all 32 products. The block sums are partial
      rows, which `finish` adds, one warp per element. All splits depend on the sizes only: deterministic, no atomics.
Limits: any N, D, F, L < 2^30; N*F*D may exceed 2^31.   Numerics: f32 arithmetic, each result rounded once.
Cost: 2*N*F*L*D flop; reads x, writes y (F times as much). Memory bound.
*/
#include "common/conv.cuh"

constexpr int kTile = 32;                   // rows with their bounds in shared memory at a time
constexpr int kFilters = 4, kTaps = 8;      // processed at a time
constexpr int kSums = kFilters * kTaps + kFilters;  // sums of a group: dw, then db

struct VerticalConvFwdParams {
  void* y;            // (N,F*D) act
  const void* x;      // (N,D) act
  const float* w;     // (F,L)
  const float* bias;  // (F)
  const u32* cu;      // (B+1)
  i64 n;
  int b;
  int d;
  int l;
  int f;
};

struct VerticalConvDxParams {
  void* dx;        // (N,D) act
  const void* dy;  // (N,F*D) act
  const float* w;  // (F,L)
  const u32* cu;   // (B+1)
  i64 n;
  int b;
  int d;
  int l;
  int f;
  int add;
};

struct VerticalConvDwParams {
  float* partial;  // (parts,F*L+F): of dw, then of db
  const void* dy;  // (N,F*D) act
  const void* x;   // (N,D) act
  const u32* cu;   // (B+1)
  i64 n;
  i64 rows;  // rows per part, a multiple of kTile
  int b;
  int d;
  int l;
  int f;
};

struct VerticalConvFinishParams {
  float* dw;             // (F,L), null: not required
  float* db;             // (F), null: not required
  const float* partial;  // (parts,F*L+F)
  int parts;
  int l;
  int f;
  int add_dw;
  int add_db;
};

// Launch: grid (ceil(N/kTile)), block (256).
template <class T>
__device__ __forceinline__ void vertical_conv_fwd(const VerticalConvFwdParams& p) {
  STATIC_SMEM(int2, bounds, kTile);
  const i64 row0 = (i64)blockIdx.x * kTile;
  find_bounds<kTile, 256>(bounds, p.cu, p.b, row0);
  __syncthreads();
  const int d = p.d, chunks = (d + 7) / 8;
  const bool vec = rows_aligned(p.x, d) && aligned16(p.y);
  for (int i = threadIdx.x; i < kTile * chunks; i += 256) {
    const int r = i / chunks, c = i % chunks * 8;
    const i64 row = row0 + r;
    if (row >= p.n) return;
    const int2 sequence = bounds[r];
    const bool inside = sequence.x < sequence.y;
    const int rows = inside ? min(p.l, r - sequence.x + 1) : 0, oldest = p.l - rows;  // in the window; first tap
    for (int f0 = 0; f0 < p.f; f0 += kFilters) {
      float acc[kFilters][8];
#pragma unroll
      for (int g = 0; g < kFilters; g++) {
        const float bias = inside && f0 + g < p.f ? p.bias[f0 + g] : 0.f;
#pragma unroll
        for (int k = 0; k < 8; k++) acc[g][k] = bias;
      }
      for (int tap = oldest; tap < p.l; tap++) {
        float x[8];
        load_row(x, (const T*)p.x + (row - (p.l - 1 - tap)) * d, c, d, vec);
#pragma unroll
        for (int g = 0; g < kFilters; g++) {
          const float w = f0 + g < p.f ? p.w[(i64)(f0 + g) * p.l + tap] : 0.f;
#pragma unroll
          for (int k = 0; k < 8; k++) acc[g][k] += w * x[k];
        }
      }
#pragma unroll
      for (int g = 0; g < kFilters; g++)
        if (f0 + g < p.f) store_row((T*)p.y + (row * p.f + f0 + g) * d, acc[g], c, d, vec);
    }
  }
}

// Launch: grid (ceil(N/kTile)), block (256). Each row gathers from the rows with a window that contains it.
template <class T>
__device__ __forceinline__ void vertical_conv_dx(const VerticalConvDxParams& p) {
  STATIC_SMEM(int2, bounds, kTile);
  const i64 row0 = (i64)blockIdx.x * kTile;
  find_bounds<kTile, 256>(bounds, p.cu, p.b, row0);
  __syncthreads();
  const int d = p.d, chunks = (d + 7) / 8;
  const bool vec = rows_aligned(p.dy, d) && aligned16(p.dx);
  for (int i = threadIdx.x; i < kTile * chunks; i += 256) {
    const int r = i / chunks, c = i % chunks * 8;
    const i64 row = row0 + r;
    if (row >= p.n) return;
    T* to = (T*)p.dx + row * d;
    float acc[8] = {}, old[8] = {};
    const int rows = min(p.l, bounds[r].y - r);  // rows that read this one; 0 for rows in no sequence
    for (int j = 0; j < rows; j++) {
#pragma unroll 4
      for (int f = 0; f < p.f; f++) {
        float dy[8];
        load_row(dy, (const T*)p.dy + ((row + j) * p.f + f) * d, c, d, vec);
        const float w = p.w[(i64)f * p.l + p.l - 1 - j];
#pragma unroll
        for (int k = 0; k < 8; k++) acc[k] += w * dy[k];
      }
    }
    if (p.add) load_row(old, to, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) acc[k] += old[k];
    store_row(to, acc, c, d, vec);
  }
}

// Launch: grid (ceil(F/kFilters), ceil(L/kTaps), parts), block (256).
template <class T>
__device__ __forceinline__ void vertical_conv_dw(const VerticalConvDwParams& p) {
  STATIC_SMEM(int2, bounds, kTile);
  STATIC_SMEM(float, shared, 8 * kSums);
  const int f0 = blockIdx.x * kFilters, tap0 = blockIdx.y * kTaps, d = p.d, chunks = (d + 7) / 8;
  const i64 begin = blockIdx.z * p.rows, end = min(begin + p.rows, p.n);
  const bool vec = rows_aligned(p.x, d) && aligned16(p.dy);
  float dw[kFilters][kTaps] = {}, db[kFilters] = {};
  for (i64 tile = begin; tile < end; tile += kTile) {
    __syncthreads();  // the bounds of the previous tile are no longer read
    find_bounds<kTile, 256>(bounds, p.cu, p.b, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * chunks; i += 256) {
      const int r = i / chunks, c = i % chunks * 8;
      const int2 sequence = bounds[r];
      if (sequence.x >= sequence.y) continue;  // in no sequence, including the rows after the last one
      const i64 row = tile + r;
      const int oldest = p.l - min(p.l, r - sequence.x + 1);  // the first tap with a row
      float dy[kFilters][8];
#pragma unroll
      for (int g = 0; g < kFilters; g++) {
        const bool there = f0 + g < p.f;
        load_row(dy[g], (const T*)p.dy + (row * p.f + (there ? f0 + g : 0)) * d, there ? c : d, d, vec);
#pragma unroll
        for (int k = 0; k < 8; k++) db[g] += dy[g][k];
      }
#pragma unroll
      for (int t = 0; t < kTaps; t++) {
        const int tap = tap0 + t;
        if (tap < oldest || tap >= p.l) continue;
        float x[8];
        load_row(x, (const T*)p.x + (row - (p.l - 1 - tap)) * d, c, d, vec);
#pragma unroll
        for (int g = 0; g < kFilters; g++)
#pragma unroll
          for (int k = 0; k < 8; k++) dw[g][t] += dy[g][k] * x[k];
      }
    }
  }
  // Sum over the lanes of a warp, then over the warps in order.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int g = 0; g < kFilters; g++) {
#pragma unroll
    for (int t = 0; t < kTaps; t++) {
      const float sum = warp_sum(dw[g][t]);
      if (lane == 0) shared[warp * kSums + g * kTaps + t] = sum;
    }
    const float sum = warp_sum(db[g]);
    if (lane == 0) shared[warp * kSums + kFilters * kTaps + g] = sum;
  }
  __syncthreads();
  const int i = threadIdx.x;
  if (i >= kSums) return;
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < 8; w++) sum += shared[w * kSums + i];
  float* out = p.partial + (i64)blockIdx.z * p.f * (p.l + 1);
  const bool bias = i >= kFilters * kTaps;
  const int filter = f0 + (bias ? i - kFilters * kTaps : i / kTaps), tap = tap0 + i % kTaps;
  if (filter >= p.f) return;
  if (!bias && tap < p.l) out[(i64)filter * p.l + tap] = sum;
  if (bias && tap0 == 0) out[(i64)p.f * p.l + filter] = sum;
}

KERNEL(vertical_conv_fwd_bf16, VerticalConvFwdParams, 256, 2) { vertical_conv_fwd<bf16>(p); }
KERNEL(vertical_conv_fwd_f32, VerticalConvFwdParams, 256, 2) { vertical_conv_fwd<float>(p); }
KERNEL(vertical_conv_dx_bf16, VerticalConvDxParams, 256, 2) { vertical_conv_dx<bf16>(p); }
KERNEL(vertical_conv_dx_f32, VerticalConvDxParams, 256, 2) { vertical_conv_dx<float>(p); }
KERNEL(vertical_conv_dw_bf16, VerticalConvDwParams, 256) { vertical_conv_dw<bf16>(p); }
KERNEL(vertical_conv_dw_f32, VerticalConvDwParams, 256) { vertical_conv_dw<float>(p); }

// One warp per element of dw, then of db; lane i adds every 32nd part from part i on.
KERNEL(vertical_conv_finish, VerticalConvFinishParams, 256) {
  const i64 of_dw = (i64)p.f * p.l, each = of_dw + p.f, at = (i64)blockIdx.x * 8 + threadIdx.x / 32;
  if (at >= each) return;
  float* out = at < of_dw ? p.dw : p.db;
  if (!out) return;
  float sum = 0.f;
#pragma unroll 4
  for (int part = threadIdx.x % 32; part < p.parts; part += 32) sum += p.partial[part * each + at];
  sum = warp_sum(sum);
  if (threadIdx.x % 32) return;
  const i64 to = at < of_dw ? at : at - of_dw;
  out[to] = (at < of_dw ? p.add_dw : p.add_db) ? out[to] + sum : sum;
}
