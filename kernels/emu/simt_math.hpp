/*
CUDA's vector types, scalar intrinsics and bfloat16 for the host compiler. Included only by simt.hpp.

Approximate GPU instructions (__expf, rsqrtf, __fdividef …) are computed exactly: the emulator verifies algorithms, not
the last bits of the hardware.
*/
#pragma once
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cstdint>
#include <type_traits>

// ------------------------------------------------------------------------------------------------------ vector types

// may_alias: kernels access memory of other types through these (a float array as float4, bf16 as uint4), as nvcc
// allows.
#define SIMT_VECTOR2(T, name, align)                             \
  struct __attribute__((may_alias, aligned(align))) name {       \
    T x, y;                                                      \
  };                                                             \
  inline name make_##name(T x, T y) { return {x, y}; }
#define SIMT_VECTOR3(T, name, align)                             \
  struct __attribute__((may_alias, aligned(align))) name {       \
    T x, y, z;                                                   \
  };                                                             \
  inline name make_##name(T x, T y, T z) { return {x, y, z}; }
#define SIMT_VECTOR4(T, name, align)                             \
  struct __attribute__((may_alias, aligned(align))) name {       \
    T x, y, z, w;                                                \
  };                                                             \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR2(unsigned char, uchar2, 2)
SIMT_VECTOR4(unsigned char, uchar4, 4)
SIMT_VECTOR2(unsigned short, ushort2, 4)
SIMT_VECTOR4(unsigned short, ushort4, 8)
SIMT_VECTOR2(int, int2, 8)
SIMT_VECTOR3(int, int3, 4)
SIMT_VECTOR4(int, int4, 16)
SIMT_VECTOR2(unsigned, uint2, 8)
SIMT_VECTOR3(unsigned, uint3, 4)
SIMT_VECTOR4(unsigned, uint4, 16)
SIMT_VECTOR2(float, float2, 8)
SIMT_VECTOR3(float, float3, 4)
SIMT_VECTOR4(float, float4, 16)
SIMT_VECTOR2(double, double2, 16)
SIMT_VECTOR2(long long, longlong2, 16)
SIMT_VECTOR2(unsigned long long, ulonglong2, 16)
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// ------------------------------------------------------------------------------------------------------------ scalars

template <class To, class From>
inline To simt_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned x) { return simt_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return simt_bits<unsigned>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline int __float_as_int(float x) { return simt_bits<int>(x); }

// CUDA's min and max accept two types. If one of two floats is NaN, they return the other.
template <class A, class B>
inline auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = (T)a, y = (T)b;
  if constexpr (std::is_floating_point_v<T>) return x > y || __builtin_isnan(y) ? x : y;
  else return x > y ? x : y;
}
template <class A, class B>
inline auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = (T)a, y = (T)b;
  if constexpr (std::is_floating_point_v<T>) return x < y || __builtin_isnan(y) ? x : y;
  else return x < y ? x : y;
}

inline float simt_rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define rsqrtf simt_rsqrtf  // newer C libraries declare their own rsqrtf
inline float exp2_fast(float x) { return ::exp2f(x); }  // ex2.approx of common/ptx.cuh
inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return simt_rsqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
// Never contracted into an fma, whatever the compiler flags: the product is stored in a volatile.
inline float __fmul_rn(float x, float y) {
  volatile float p = x * y;
  return p;
}
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
inline unsigned __float2uint_rz(float x) { return (unsigned)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
__extension__ typedef unsigned __int128 SimtU128;
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((SimtU128)a * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1u) << (31 - i);
  return r;
}
// The high (low) word of hi:lo shifted left (right) by n mod 32.
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)((((uint64_t)hi << 32 | lo) << (n & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)(((uint64_t)hi << 32 | lo) >> (n & 31));
}

// Cache hints have no effect on the host.
template <class T>
inline T __ldg(const T* p) { return *p; }
template <class T>
inline T __ldca(const T* p) { return *p; }
template <class T>
inline T __ldcg(const T* p) { return *p; }
template <class T>
inline T __ldcs(const T* p) { return *p; }
template <class T>
inline void __stcg(T* p, T v) { *p = v; }
template <class T>
inline void __stcs(T* p, T v) { *p = v; }

// ----------------------------------------------------------------------------------------------------------- bfloat16

// The upper half of an f32. Conversions are explicit and there is no arithmetic. An expression that nvcc would round to
// bf16 at every step, and the host would not, is therefore a compile error.
struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  inline explicit __nv_bfloat16(float);
  inline explicit operator float() const;
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 b;
  b.bits = bits;
  return b;
}
inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float((unsigned)b.bits << 16); }
// Round to nearest, ties to even: adding 0x7fff, plus one if the kept part is odd, carries into it exactly when
// required. Every NaN becomes 0x7fff, as on the hardware: the carry could turn it into infinity or zero.
inline __nv_bfloat16 __float2bfloat16(float f) {
  const unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return __ushort_as_bfloat16(0x7fff);
  return __ushort_as_bfloat16((unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __float2bfloat16(f); }
inline __nv_bfloat162 __floats2bfloat162_rn(float lo, float hi) {
  return {__float2bfloat16(lo), __float2bfloat16(hi)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 f) { return __floats2bfloat162_rn(f.x, f.y); }
inline float2 __bfloat1622float2(__nv_bfloat162 b) { return {__bfloat162float(b.x), __bfloat162float(b.y)}; }
inline float __low2float(__nv_bfloat162 b) { return __bfloat162float(b.x); }
inline float __high2float(__nv_bfloat162 b) { return __bfloat162float(b.y); }
inline __nv_bfloat16::__nv_bfloat16(float f) : bits(__float2bfloat16(f).bits) {}
inline __nv_bfloat16::operator float() const { return __bfloat162float(*this); }
