/*
shadow: the bf16 copy of f32 weights after they were written from the host. (AdamW updates the copy itself.)
y = bf16(x), round to nearest even          x (N) f32   y (N) bf16
Work: each thread processes eight elements.   Limits: any N; if y or x is not 16-byte aligned, single elements are
copied.
*/
#include "common/types.cuh"

struct ShadowParams {
  void* y;         // (N) bf16
  const float* x;  // (N)
  i64 n;
};

KERNEL(shadow_weights, ShadowParams, 256) {
  const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= p.n) return;
  bf16* y = (bf16*)p.y;
  if ((((uintptr_t)y | (uintptr_t)p.x) & 15) == 0) {
    float x[8];
    load8_tail(x, p.x, i, p.n);
    store8_tail(y, x, i, p.n);
  } else {
    for (i64 k = i; k < min(i + 8, p.n); k++) y[k] = from_f32<bf16>(p.x[k]);
  }
}
