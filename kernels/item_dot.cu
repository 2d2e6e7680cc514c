/*
item_dot: the score of one item per row.
fwd: z_m = <h_m, table[id_m]> + bias[id_m] + shift      h (M,D) act   table (V,D) act   bias (V) f32   id (M)
     z (M) f32
bwd: dh_m = dz_m table[id_m]                            dh (M,D) act   dz (M) f32
Writes: z | dh (overwritten or accumulated, per Dst).   Saves for bwd: nothing.
Ids >= V are not items: z = 0, dh = 0 (nothing is accumulated).
Work: bound by the gather of M table rows, without reuse. `lanes` threads per row (a power of two, at most 32), eight
      elements per thread and iteration: a table row is one coalesced read, and a warp has 32/lanes narrow rows in
      flight. The lanes' sums are combined by shuffles in a fixed order.
      segment.cu computes the gradients of table and bias from the pairs (dz, h).
Limits: any M, D, V; M*D and V*D may exceed 2^31.   Numerics: f32 sums.
Cost: fwd reads 2*M*D elements; bwd reads M*D (2*M*D when accumulating) and writes M*D. Memory bound.
*/
#include "common/rows.cuh"

struct ItemDotFwdParams {
  float* z;           // (M)
  const void* h;      // (M,D) act
  const void* table;  // (V,D) act
  const float* bias;  // (V), or null: none
  const u32* id;      // (M)
  i64 m;
  int d;
  u32 v;
  float shift;
  int lanes;
};

struct ItemDotBwdParams {
  void* dh;           // (M,D) act
  const float* dz;    // (M)
  const void* table;  // (V,D) act
  const u32* id;      // (M)
  i64 m;
  int d;
  u32 v;
  int lanes;
  int add;  // 1: accumulate into dh
};

template <class T>
__device__ __forceinline__ void item_dot_fwd(const ItemDotFwdParams& p) {
  const int first = threadIdx.x % p.lanes * 8;
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  const bool vec = rows_aligned(p.table, p.d) && aligned16(p.h);
  // Groups without a row or an item do not return: the shuffles need all lanes of the warp.
  const u32 id = i < p.m ? p.id[i] : p.v;
  float dot = 0.f;
  if (id < p.v) {
    const T *h = (const T*)p.h + i * p.d, *row = (const T*)p.table + (i64)id * p.d;
    for (int c = first; c < p.d; c += p.lanes * 8) {
      float x[8], w[8];
      load_row(w, row, c, p.d, vec);
      load_row(x, h, c, p.d, vec);
#pragma unroll
      for (int k = 0; k < 8; k++) dot = fmaf(x[k], w[k], dot);
    }
  }
  for (int step = p.lanes / 2; step; step /= 2) dot += __shfl_xor_sync(kAllLanes, dot, step);
  if (first != 0 || i >= p.m) return;
  p.z[i] = id < p.v ? dot + (p.bias ? p.bias[id] : 0.f) + p.shift : 0.f;
}

template <class T>
__device__ __forceinline__ void item_dot_bwd(const ItemDotBwdParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.m) return;
  const bool vec = rows_aligned(p.table, p.d) && aligned16(p.dh);
  const u32 id = p.id[i];
  const bool there = id < p.v;
  if (!there && p.add) return;
  const float dz = there ? p.dz[i] : 0.f;
  const T* row = (const T*)p.table + (i64)id * p.d;  // read only if the item exists
  T* dh = (T*)p.dh + i * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8] = {}, old[8] = {};
    if (there) load_row(x, row, c, p.d, vec);
    if (p.add) load_row(old, dh, c, p.d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = fmaf(dz, x[k], old[k]);
    store_row(dh, x, c, p.d, vec);
  }
}

KERNEL(item_dot_fwd_bf16, ItemDotFwdParams, 256) { item_dot_fwd<bf16>(p); }
KERNEL(item_dot_fwd_f32, ItemDotFwdParams, 256) { item_dot_fwd<float>(p); }
KERNEL(item_dot_bwd_bf16, ItemDotBwdParams, 256) { item_dot_bwd<bf16>(p); }
KERNEL(item_dot_bwd_f32, ItemDotBwdParams, 256) { item_dot_bwd<float>(p); }
