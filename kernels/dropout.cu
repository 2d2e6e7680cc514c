/*
dropout: zeroes each element with probability p and scales the others, so that the expected value is unchanged.
fwd: y = base + (keep(i) ? x*scale : 0)         x,y,base (N) act; base may be null: 0
bwd: the same map from dy to dx; base is dx itself when accumulating
keep(i): common/philox.cuh.
Writes: y.   Saves for bwd: nothing; the random numbers are regenerated.
Work: each thread processes eight elements: one Philox block, 16 or 32 bytes per load.   Limits: any N.
Numerics: f32 arithmetic.
Cost: reads N (2N with a base) and writes N elements. Memory bound; the loads hide the ten Philox rounds. p = 0
generates no random numbers.
*/
#include "common/philox.cuh"

struct DropoutParams {
  void* y;           // (N) act
  const void* x;     // (N) act
  const void* base;  // (N) act, may alias y; null: none
  const u32* step;   // (1)
  i64 n;
  Drop drop;
};

template <class T>
__device__ __forceinline__ void dropout(const DropoutParams& p) {
  const i64 block = (i64)blockIdx.x * blockDim.x + threadIdx.x, i = block * 8;
  if (i >= p.n) return;
  float x[8], base[8] = {};
  load8_tail(x, (const T*)p.x, i, p.n);
  if (p.base) load8_tail(base, (const T*)p.base, i, p.n);
  drop8(x, p.drop, *p.step, block);
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] += base[k];
  store8_tail((T*)p.y, x, i, p.n);
}

KERNEL(dropout_bf16, DropoutParams, 256) { dropout<bf16>(p); }
KERNEL(dropout_f32, DropoutParams, 256) { dropout<float>(p); }
