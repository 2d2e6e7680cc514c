/*
ceilings: what the device can do at most, for other kernels to be measured against.
stream_copy: y = x                                                                              x,y (N) f32
exp_chain:   y = x, then `rounds` times y = exp(-y)                                             x,y (N) f32
Writes: y.   Saves for bwd: nothing (there is none).
Work: a thread takes eight elements, 32 bytes a load; in exp_chain they are eight chains that wait for nobody but
themselves, so that with many warps the exp unit never rests.   Limits: any N.   Numerics: exp2_fast, relative error 2^-22 a
round, shrunk to 0.57 of itself by the next.
Cost: stream_copy reads and writes N; exp_chain does N * rounds exponentials beside that: bound by the exp unit from some
16 rounds on.
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
