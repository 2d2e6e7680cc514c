/*
rows: gathers the scored rows, and scatters their gradients.
gather_rows:  y_m = x[row_m]                    x (N,D) act   y (M,D) act   row (M)
scatter_rows: dx[r] = sum of dy_m, row_m = r    dx (N,D) act  dy (M,D) act  row (M), equal rows adjacent
If row_m is NO_ROW (all bits set: padding), y_m is 0 and dy_m is ignored.
Writes: y | dx (overwritten or accumulated, per Dst); the launcher zeroes an overwritten dx first.
Saves for bwd: nothing.
Work: `lanes` threads per row (a power of two, at most 32), eight elements per thread and iteration. The first of
      several equal rows adds them all, in order.   Limits: any M, N, D.
Numerics: exact copies; additions in f32.   Cost: reads and writes M*D elements (and N*D zeros). Memory bound.
gather_rows also implements gather_table (y = table[id]), with the table read as act.
*/
#include "common/rows.cuh"

struct GatherRowsParams {
  void* y;         // (M,D) act
  const void* x;   // (N,D) act
  const u32* row;  // (M)
  i64 m;
  int d;
  int lanes;
};

struct ScatterRowsParams {
  void* dx;        // (N,D) act
  const void* dy;  // (M,D) act
  const u32* row;  // (M)
  i64 m;
  int d;
  int lanes;
  int add;
};

constexpr u32 kNoRow = 0xffffffffu;

template <class T>
__device__ __forceinline__ void gather_rows(const GatherRowsParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.m) return;
  const bool vec = rows_aligned(p.x, p.d) && aligned16(p.y);
  const u32 row = p.row[i];
  const T* from = (const T*)p.x + (i64)row * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8] = {};
    if (row != kNoRow) load_row(x, from, c, p.d, vec);
    store_row((T*)p.y + i * p.d, x, c, p.d, vec);
  }
}

template <class T>
__device__ __forceinline__ void scatter_rows(const ScatterRowsParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.m) return;
  const u32 row = p.row[i];
  if (row == kNoRow || (i > 0 && p.row[i - 1] == row)) return;
  const bool vec = rows_aligned(p.dx, p.d) && aligned16(p.dy);
  T* to = (T*)p.dx + (i64)row * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8] = {};
    if (p.add) load_row(x, to, c, p.d, vec);
    for (i64 j = i; j < p.m && p.row[j] == row; j++) {
      float dy[8];
      load_row(dy, (const T*)p.dy + j * p.d, c, p.d, vec);
#pragma unroll
      for (int k = 0; k < 8; k++) x[k] += dy[k];
    }
    store_row(to, x, c, p.d, vec);
  }
}

KERNEL(gather_rows_bf16, GatherRowsParams, 256) { gather_rows<bf16>(p); }
KERNEL(gather_rows_f32, GatherRowsParams, 256) { gather_rows<float>(p); }
KERNEL(scatter_rows_bf16, ScatterRowsParams, 256) { scatter_rows<bf16>(p); }
KERNEL(scatter_rows_f32, ScatterRowsParams, 256) { scatter_rows<float>(p); }
