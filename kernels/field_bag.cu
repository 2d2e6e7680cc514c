/*
field_bag: embedding bags of item attributes: the mean of table rows, per item field.
bag_fwd: y[n,f] = share[o] * sum over z in start_o..start_o+1 of table[value_z],  o = item_n*F + f
         zeros if item n has no value in field f or is not below V
         table (R,D) act   item (N)   start (V*F+1)   value (Z)   share (V*F) f32   y (N,F*D) act
Writes: y.   Saves for bwd: nothing. The gradient of the table is a sum over sorted rows: segment.cu.
Work: `lanes` threads per (row, field) pair, eight elements per thread and iteration. They iterate over the item's
values.
Limits: V*F < 2^32 - 1, Z < 2^31; N*F*D and R*D may exceed 2^31.   Numerics: f32 sums.
Cost: reads one table row per value, mostly from cache, and writes N*F*D elements. Memory bound.
*/
#include "common/rows.cuh"

struct BagFwdParams {
  void* y;             // (N,F*D) act
  const void* table;   // (R,D) act
  const u32* item;     // (N)
  const u32* start;    // (V*F+1)
  const u32* value;    // (Z)
  const float* share;  // (V*F)
  i64 n;               // (row, field) pairs: N*F
  u32 v;
  u32 f;
  int d;
  int lanes;
};

template <class T>
__device__ __forceinline__ void bag_fwd(const BagFwdParams& p) {
  const i64 pair = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (pair >= p.n) return;
  const bool vec = rows_aligned(p.table, p.d) && aligned16(p.y);
  const u32 id = p.item[pair / p.f];
  u32 begin = 0, end = 0;
  float share = 0.f;
  if (id < p.v) {
    const i64 o = (i64)id * p.f + pair % p.f;
    begin = p.start[o], end = p.start[o + 1], share = p.share[o];
  }
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float sum[8] = {};
#pragma unroll 4
    for (u32 z = begin; z < end; z++) {
      float x[8];
      load_row(x, (const T*)p.table + (i64)p.value[z] * p.d, c, p.d, vec);
#pragma unroll
      for (int k = 0; k < 8; k++) sum[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < 8; k++) sum[k] *= share;
    store_row((T*)p.y + pair * p.d, sum, c, p.d, vec);
  }
}

KERNEL(bag_fwd_bf16, BagFwdParams, 256, 4) { bag_fwd<bf16>(p); }
KERNEL(bag_fwd_f32, BagFwdParams, 256, 4) { bag_fwd<float>(p); }
