/*
Row-wise access to (N,D) matrices: a group of lanes shares a row, and each lane processes eight adjacent elements (16 or
32 bytes per load). Any D: if rows are not 16-byte aligned, the same eight elements are read one by one, so that the
order of summation is the same.
*/
#pragma once
#include "reduce.cuh"

__device__ __forceinline__ bool aligned16(const void* p) { return (uintptr_t)p % 16 == 0; }

// True if eight elements per lane can be moved with vector accesses in every row of a (N,d) matrix of any element type.
__device__ __forceinline__ bool rows_aligned(const void* p, int d) { return d % 8 == 0 && aligned16(p); }

// Elements [c, c+8) of a row of d, zeros past its end. `vec`: the row is aligned (`rows_aligned`). c is a multiple of
// 8.
template <class T>
__device__ __forceinline__ void load_row(float (&x)[8], const T* row, int c, int d, bool vec) {
  if (vec && c < d) return load8(x, row + c);
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] = c + k < d ? to_f32(row[c + k]) : 0.f;
}

template <class T>
__device__ __forceinline__ void store_row(T* row, const float (&x)[8], int c, int d, bool vec) {
  if (vec && c < d) return store8(row + c, x);
#pragma unroll
  for (int k = 0; k < 8; k++)
    if (c + k < d) row[c + k] = from_f32<T>(x[k]);
}

// Sum over the LANES (a power of two, at most 32) adjacent lanes that share a row. Every lane of the warp must call it.
template <int LANES>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int lane = LANES / 2; lane; lane /= 2) x += __shfl_xor_sync(kAllLanes, x, lane);
  return x;
}

// Second stage of column sums: out[c] = sum over `parts` of partial[part*d + c] (accumulated into out with `add`), for
// 32 columns selected by blockIdx.x. Each warp sums every kWarps-th part, then the warps are added in order. The split
// depends on the sizes only. `scratch` holds kThreads floats of shared memory.
template <int kThreads>
__device__ __forceinline__ void finish_columns(float* out, const float* partial, int parts, int d, bool add,
                                               float* scratch) {
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
  float sum = 0.f;
  if (c < d) {
#pragma unroll 4
    for (int part = warp; part < parts; part += kWarps) sum += partial[(i64)part * d + c];
  }
  scratch[threadIdx.x] = sum;
  __syncthreads();
  if (warp || c >= d) return;
  sum = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) sum += scratch[w * 32 + lane];
  out[c] = add ? out[c] + sum : sum;
}
