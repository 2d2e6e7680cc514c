/*
activation: elementwise ReLU, sigmoid or tanh.
fwd: y = a(x)                                                                                    x,y (N) act
bwd: dx = dy where y > 0 | dy y (1-y) | dy (1-y^2)                                              dx,dy,y (N) act
Writes: y | dx (overwritten or accumulated, per Dst).   Saves for bwd: y, which the layer keeps in any case.
Work: each thread processes eight elements with 16-byte (bf16) or 32-byte (f32) loads. `kind` is uniform over the grid.
Limits: any N.   Numerics: f32 arithmetic. NaN propagates, also through ReLU (fmaxf would drop it). An unknown
          `kind` gives NaN.
Cost: fwd reads and writes N elements; bwd reads 2N (3N when accumulating) and writes N. Memory bound.
*/
#include "common/types.cuh"

struct ActivationFwdParams {
  void* y;        // (N) act
  const void* x;  // (N) act
  i64 n;
  int kind;  // 0: relu, 1: sigmoid, 2: tanh
};

struct ActivationBwdParams {
  void* dx;        // (N) act
  const void* dy;  // (N) act
  const void* y;   // (N) act
  i64 n;
  int kind;  // as above
  int add;  // 1: accumulate into dx
};

constexpr int kRelu = 0, kSigmoid = 1, kTanh = 2;

template <class T>
__device__ __forceinline__ void activation_fwd(const ActivationFwdParams& p) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float x[8];
  load8_tail(x, (const T*)p.x, i, p.n);
  // The branch on `kind` is outside the loops, so that each loop is eight independent elements.
  if (p.kind == kRelu) {
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = x[k] < 0.f ? 0.f : x[k];
  } else if (p.kind == kSigmoid) {
    // e^-x may overflow to infinity; its reciprocal is then the correct result, 0.
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = 1.f / (1.f + expf(-x[k]));
  } else if (p.kind == kTanh) {
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = tanhf(x[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = unknown_variant();
  }
  store8_tail((T*)p.y, x, i, p.n);
}

template <class T>
__device__ __forceinline__ void activation_bwd(const ActivationBwdParams& p) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  float y[8], dy[8], dx[8] = {};
  load8_tail(y, (const T*)p.y, i, p.n);
  load8_tail(dy, (const T*)p.dy, i, p.n);
  if (p.add) load8_tail(dx, (const T*)p.dx, i, p.n);
  if (p.kind == kRelu) {
#pragma unroll
    for (int k = 0; k < 8; k++) dx[k] += y[k] <= 0.f ? 0.f : dy[k];
  } else if (p.kind == kSigmoid) {
#pragma unroll
    for (int k = 0; k < 8; k++) dx[k] += dy[k] * (y[k] * (1.f - y[k]));
  } else if (p.kind == kTanh) {
#pragma unroll
    for (int k = 0; k < 8; k++) dx[k] += dy[k] * (1.f - y[k] * y[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; k++) dx[k] = unknown_variant();
  }
  store8_tail((T*)p.dx, dx, i, p.n);
}

KERNEL(activation_fwd_bf16, ActivationFwdParams, 256) { activation_fwd<bf16>(p); }
KERNEL(activation_fwd_f32, ActivationFwdParams, 256) { activation_fwd<float>(p); }
KERNEL(activation_bwd_bf16, ActivationBwdParams, 256) { activation_bwd<bf16>(p); }
KERNEL(activation_bwd_f32, ActivationBwdParams, 256) { activation_bwd<float>(p); }
