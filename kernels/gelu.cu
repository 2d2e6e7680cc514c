/*
gelu: elementwise Gaussian error linear unit, tanh approximation.
fwd: y = x/2 (1 + t),  t = tanh(c (x + 0.044715 x^3)),  c = sqrt(2/pi)                          x,y (N) act
bwd: dx = dy (1/2 (1 + t) + x/2 (1 - t^2) c (1 + 3*0.044715 x^2))                           dx,dy,x (N) act
Writes: y | dx (overwritten or accumulated, per `add`).   Saves for bwd: nothing (the input is read again).
Work: each thread processes eight elements, 16 or 32 bytes per load.   Limits: any N.   Numerics: f32 arithmetic.
Cost: fwd reads and writes N elements; bwd reads 2N (3N when accumulating) and writes N. Memory bound.
*/
#include "common/types.cuh"

struct GeluFwdParams {
  void* y;        // (N) act
  const void* x;  // (N) act
  i64 n;
};

struct GeluBwdParams {
  void* dx;        // (N) act
  const void* dy;  // (N) act
  const void* x;   // (N) act
  i64 n;
  int add;  // 1: accumulate into dx
};

__device__ __forceinline__ float gelu_tanh(float x) {
  return tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x));
}

template <class T>
__device__ __forceinline__ void gelu_fwd(const GeluFwdParams& p) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float x[8];
  load8_tail(x, (const T*)p.x, i, p.n);
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] = 0.5f * x[k] * (1.f + gelu_tanh(x[k]));
  store8_tail((T*)p.y, x, i, p.n);
}

template <class T>
__device__ __forceinline__ void gelu_bwd(const GeluBwdParams& p) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float x[8], dy[8], dx[8] = {};
  load8_tail(x, (const T*)p.x, i, p.n);
  load8_tail(dy, (const T*)p.dy, i, p.n);
  if (p.add) load8_tail(dx, (const T*)p.dx, i, p.n);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const float t = gelu_tanh(x[k]);
    const float slope = 0.7978845608028654f * (1.f + 3.f * 0.044715f * x[k] * x[k]);
    dx[k] += dy[k] * (0.5f * (1.f + t) + 0.5f * x[k] * (1.f - t * t) * slope);
  }
  store8_tail((T*)p.dx, dx, i, p.n);
}

KERNEL(gelu_fwd_bf16, GeluFwdParams, 256) { gelu_fwd<bf16>(p); }
KERNEL(gelu_fwd_f32, GeluFwdParams, 256) { gelu_fwd<float>(p); }
KERNEL(gelu_bwd_bf16, GeluBwdParams, 256) { gelu_bwd<bf16>(p); }
KERNEL(gelu_bwd_f32, GeluBwdParams, 256) { gelu_bwd<float>(p); }
