/*
ceilings: microbenchmarks of the peak device throughput, as a reference for other kernels.
stream_copy: y = x                                                                              x,y (N) f32
exp_chain:   y = x, then `rounds` times y = exp(-y)                                             x,y (N) f32
Writes: y.   Saves for bwd: nothing (there is no backward pass).
Work: each thread processes eight elements with 32-byte loads. In exp_chain they are eight independent dependency
chains, which keep the exp unit busy with many warps.   Limits: any N.
Numerics: exp2_fast, relative error 2^-22 per round; the next round scales the error by 0.57.
Cost: stream_copy reads and writes N elements. exp_chain also computes N * rounds exponentials: bound by the exp unit
from about 16 rounds on.
*/
#include "common/ptx.cuh"
#include "common/types.cuh"

struct StreamCopyParams {
  float* y;        // (N)
  const float* x;  // (N)
  i64 n;
};

struct ExpChainParams {
  float* y;        // (N)
  const float* x;  // (N)
  i64 n;
  int rounds;
};

KERNEL(stream_copy, StreamCopyParams, 256) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float x[8];
  load8_tail(x, p.x, i, p.n);
  store8_tail(p.y, x, i, p.n);
}

KERNEL(exp_chain, ExpChainParams, 256) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float x[8];
  load8_tail(x, p.x, i, p.n);
  for (int r = 0; r < p.rounds; r++) {
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = exp2_fast(-1.4426950408889634f * x[k]);
  }
  store8_tail(p.y, x, i, p.n);
}
