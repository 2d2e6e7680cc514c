/*
reduce: sums over all elements in a fixed order.
weighted_mean: y = sum_N w x            x,w (N) f32, y (1) f32
grad_norm:     norm = sqrt(sum_P g^2)   g (P) f32, norm (1) f32
Both are launches of one kernel: out[block] = sum of x w (x alone if w is null) over the block's share, or its square
root. The first launch writes partial sums of many blocks, the second adds them in one block. Few elements need one
launch.
Writes: out.   Saves: nothing.
Work: each thread adds every (threads of the grid)-th group of four elements into four sums, followed by a tree
      reduction over the block. The grid depends on N only: bitwise reproducible.   Limits: any N.
Numerics: f32; for 10^8 elements a thread's sum has about 190 terms, so the rounding error is close to that of the tree.
Cost: reads N (x and w are one array for the norm) or 2 N elements. Memory bound.
*/
#include "common/rows.cuh"

struct ReduceParams {
  float* out;      // (blocks)
  const float* x;  // (N)
  const float* w;  // (N), or null: ones
  i64 n;
  int root;  // 1: the square root of the sum
};

KERNEL(reduce, ReduceParams, 256) {
  STATIC_SMEM(float, shared, 8);
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, threads = (i64)gridDim.x * blockDim.x;
  const i64 fours = aligned16(p.x) && aligned16(p.w) ? p.n / 4 : 0;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
  for (i64 i = thread; i < fours; i += threads) {
    const float4 x = ((const float4*)p.x)[i], w = p.w ? ((const float4*)p.w)[i] : make_float4(1.f, 1.f, 1.f, 1.f);
    sum.x += x.x * w.x, sum.y += x.y * w.y, sum.z += x.z * w.z, sum.w += x.w * w.w;
  }
  for (i64 i = fours * 4 + thread; i < p.n; i += threads) sum.x += p.x[i] * (p.w ? p.w[i] : 1.f);
  const float total = block_sum<256>((sum.x + sum.y) + (sum.z + sum.w), shared);
  if (threadIdx.x == 0) p.out[blockIdx.x] = p.root ? sqrtf(total) : total;
}
