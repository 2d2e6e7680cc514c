/*
Column-wise access to (N,D) matrices: each warp covers 64 adjacent columns, two per lane, and iterates over the rows.
*/
#pragma once
#include "rows.cuh"

// Loads columns c and c+1 of a row; p points at column c. both: use one vector load; otherwise column c+1 is read only
// if `second`.
__device__ __forceinline__ float2 load2(const float* p, bool both, bool second) {
  return both ? *(const float2*)p : make_float2(p[0], second ? p[1] : 0.f);
}
__device__ __forceinline__ float2 load2(const bf16* p, bool both, bool second) {
  if (!both) return make_float2(to_f32(p[0]), second ? to_f32(p[1]) : 0.f);
  const u32 raw = *(const u32*)p;
  return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
}

__device__ __forceinline__ void store2(float* p, float2 x, bool both, bool second) {
  if (both) {
    *(float2*)p = x;
  } else {
    p[0] = x.x;
    if (second) p[1] = x.y;
  }
}
