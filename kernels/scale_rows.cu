/*
scale_rows: each row times a number of its own.
fwd: y_n = w_n x_n             x,y (N,D) act   w (N) f32
bwd: dx_n = w_n dy_n           the same kernel, from dy to dx
Writes: y | dx by Dst.   Saves for bwd: nothing.
Work: `lanes` threads a row (a power of two, at most 32), eight elements each and time: the row's number is one load that
      all its lanes share.   Limits: any N, D; N*D may exceed 2^31.   Numerics: one product in f32, one addition where added.
Cost: reads N*D (2*N*D when adding) and writes N*D elements: memory bound.
*/
#include "common/rows.cuh"

struct ScaleRowsParams {
  void* to;          // (N,D) act: y, or dx
  const void* from;  // (N,D) act: x, or dy
  const float* w;    // (N)
  i64 n;
  int d;
  int lanes;
  int add;  // 1: `to` is added to
};

template <class T>
__device__ __forceinline__ void scale_rows(const ScaleRowsParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.n) return;
  const bool vec = rows_aligned(p.from, p.d) && aligned16(p.to);
  const float w = p.w[i];
  const T* from = (const T*)p.from + i * p.d;
  T* to = (T*)p.to + i * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8], old[8] = {};
    load_row(x, from, c, p.d, vec);
    if (p.add) load_row(old, to, c, p.d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = fmaf(w, x[k], old[k]);
    store_row(to, x, c, p.d, vec);
  }
}

KERNEL(scale_rows_bf16, ScaleRowsParams, 256) { scale_rows<bf16>(p); }
KERNEL(scale_rows_f32, ScaleRowsParams, 256) { scale_rows<float>(p); }
