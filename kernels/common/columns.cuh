/*
Column-wise work on (N,D) matrices: a warp takes 64 neighbouring columns, two a lane, and walks down the rows.
*/
#pragma once
#include "rows.cuh"

// Columns c and c+1 of a row from its address there; `both`: in one load, else the second only where it is there.
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
