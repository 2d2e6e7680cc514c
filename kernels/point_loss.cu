/*
point_loss: pointwise loss of a prediction against a target. Formulas: src/ops/point_loss.rs.
fwd: squared:  loss = (z - t)^2                         z, t, loss (M) f32
     logistic: loss = softplus(z) - t z
bwd: dz = dloss * slope,  slope = 2 (z - t) | (1-t) sigma(z) - t sigma(-z)         dz, dloss (M) f32
Writes: loss | dz (overwritten or accumulated, per Dst).   Saves for bwd: nothing (z and t are read again).
Work: one thread per element. M is the number of scored rows of a batch, so the launch itself dominates the time.
Limits: any M.
Numerics: f32. An unknown `kind` gives NaN. One exponential e^-|z|, at most 1, is used for loss and slope: no
          overflow. The loss is (max(z,0) - t z)
          + log1p(e^-|z|); its first part is exactly 0 for a correctly signed z and a target of 0 or 1. For such targets
          the slope has no subtraction of nearly equal numbers.
Cost: reads 2M, writes M | reads 3M (4M when accumulating), writes M. Latency bound.
*/
#include "common/types.cuh"

struct PointLossFwdParams {
  float* loss;          // (M)
  const float* z;       // (M)
  const float* target;  // (M)
  i64 m;
  int kind;  // 0: squared, 1: logistic
};

struct PointLossBwdParams {
  float* dz;            // (M)
  const float* dloss;   // (M)
  const float* z;       // (M)
  const float* target;  // (M)
  i64 m;
  int kind;  // as above
  int add;   // 1: accumulate into dz
};

constexpr int kSquared = 0, kLogistic = 1;

KERNEL(point_loss_fwd, PointLossFwdParams, 256) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.m) return;
  const float z = p.z[i], t = p.target[i];
  if (p.kind == kSquared) p.loss[i] = (z - t) * (z - t);
  else if (p.kind == kLogistic) p.loss[i] = fmaf(-t, z, fmaxf(z, 0.f)) + log1pf(expf(-fabsf(z)));
  else p.loss[i] = unknown_variant();
}

KERNEL(point_loss_bwd, PointLossBwdParams, 256) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.m) return;
  const float z = p.z[i], t = p.target[i];
  float slope = unknown_variant();
  if (p.kind == kSquared) {
    slope = 2.f * (z - t);
  } else if (p.kind == kLogistic) {
    const float e = expf(-fabsf(z)), near = 1.f / (1.f + e), far = e * near;  // sigma(|z|), sigma(-|z|)
    slope = z < 0.f ? (1.f - t) * far - t * near : (1.f - t) * near - t * far;
  }
  const float dz = p.dloss[i] * slope;
  p.dz[i] = p.add ? p.dz[i] + dz : dz;
}
