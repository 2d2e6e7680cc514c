/*
Element types. `act` is the type of activations and of the weights that tensor cores read: bf16 or float (T in
templates). Arithmetic is f32: load, compute, store; each result is rounded once when it is stored.
*/
#pragma once
#include "ptx.cuh"

using bf16 = __nv_bfloat16;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

constexpr u32 kAllLanes = 0xffffffffu;

// What a kernel writes for a variant (a loss, an activation) that it does not know: the guard stops the step.
__device__ __forceinline__ float unknown_variant() { return __uint_as_float(0x7fffffffu); }

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16(x); }

// Packs two bf16 into one register, `lo` in the low half: the layout of mma fragments.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(lo, hi);
  u32 bits;
  memcpy(&bits, &two, 4);
  return bits;
}

// Eight consecutive elements. The index of the first must be a multiple of 8 (alignment of the vector access).
__device__ __forceinline__ void load8(float (&x)[8], const float* p) {
  const float4 a = ((const float4*)p)[0], b = ((const float4*)p)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void load8(float (&x)[8], const bf16* p) {
  const uint4 raw = *(const uint4*)p;
  const u32 word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void store8(float* p, const float (&x)[8]) {
  ((float4*)p)[0] = make_float4(x[0], x[1], x[2], x[3]);
  ((float4*)p)[1] = make_float4(x[4], x[5], x[6], x[7]);
}
__device__ __forceinline__ void store8(bf16* p, const float (&x)[8]) {
  uint4 raw;
  raw.x = pack_bf16(x[0], x[1]), raw.y = pack_bf16(x[2], x[3]), raw.z = pack_bf16(x[4], x[5]),
  raw.w = pack_bf16(x[6], x[7]);
  *(uint4*)p = raw;
}

// Elements [i, i+8) of x (n), zeros past the end. `i` is a multiple of 8.
template <class T>
__device__ __forceinline__ void load8_tail(float (&x)[8], const T* p, i64 i, i64 n) {
  if (i + 8 <= n) return load8(x, p + i);
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] = i + k < n ? to_f32(p[i + k]) : 0.f;
}
template <class T>
__device__ __forceinline__ void store8_tail(T* p, const float (&x)[8], i64 i, i64 n) {
  if (i + 8 <= n) return store8(p + i, x);
#pragma unroll
  for (int k = 0; k < 8; k++)
    if (i + k < n) p[i + k] = from_f32<T>(x[k]);
}
