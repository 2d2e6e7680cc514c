/*
adamw: one AdamW step over a contiguous range of weights, with gradients clipped by their global norm.
g' = g * min(1, max_norm / (norm + 1e-6))   (max_norm = 0: no clipping)
m = b1 m + (1-b1) g',  v = b2 v + (1-b2) g'^2,  p = p - lr ( m c1 / (sqrt(v c2) + eps) + wd p )
p,m,v,g (P) f32   hyper (3) = [lr, c1, c2]   norm (1): both in memory, so that a captured step can be replayed
ok (1) f32: if it is 0, nothing changes.   guard: sets ok = 0 if the loss (1) or norm (1) of a step is not finite.
Updates: p m v.   Writes: shadow (P) bf16, the copy of p that tensor cores read (null if activations are f32).
Work: each thread processes eight weights, with two 16-byte loads per array.   Limits: any P.
Numerics: f32, IEEE division.
Cost: reads 4P and writes 3P f32 and P bf16, 30 bytes per weight. Memory bound.
*/
#include "common/types.cuh"

struct AdamwParams {
  float* p;            // (P)
  float* m;            // (P)
  float* v;            // (P)
  void* shadow;        // (P) bf16, may be null
  const float* g;      // (P)
  const float* norm;   // (1)
  const float* ok;     // (1)
  const float* hyper;  // (3)
  i64 n;
  float beta1;
  float beta2;
  float eps;
  float weight_decay;
  float max_norm;
};

struct GuardParams {
  float* ok;          // (1)
  const float* loss;  // (1)
  const float* norm;  // (1)
};

KERNEL(adamw, AdamwParams, 256) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n || *p.ok == 0.f) return;
  const float lr = p.hyper[0], c1 = p.hyper[1], c2 = p.hyper[2];
  const float clip = p.max_norm > 0.f ? fminf(p.max_norm / (*p.norm + 1e-6f), 1.f) : 1.f;
  float w[8], m[8], v[8], g[8];
  load8_tail(g, p.g, i, p.n);
  load8_tail(m, p.m, i, p.n);
  load8_tail(v, p.v, i, p.n);
  load8_tail(w, p.p, i, p.n);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const float clipped = g[k] * clip;
    m[k] = p.beta1 * m[k] + (1.f - p.beta1) * clipped;
    v[k] = p.beta2 * v[k] + (1.f - p.beta2) * clipped * clipped;
    w[k] -= lr * (m[k] * c1 / (sqrtf(v[k] * c2) + p.eps) + p.weight_decay * w[k]);
  }
  store8_tail(p.m, m, i, p.n);
  store8_tail(p.v, v, i, p.n);
  store8_tail(p.p, w, i, p.n);
  if (p.shadow) store8_tail((bf16*)p.shadow, w, i, p.n);
}

constexpr float kLargest = 3.402823466e38f;

// Single thread.
KERNEL(guard, GuardParams, 32) {
  if (threadIdx.x) return;
  if (!(fabsf(*p.loss) <= kLargest && fabsf(*p.norm) <= kLargest)) *p.ok = 0.f;  // NaN compares false
}
