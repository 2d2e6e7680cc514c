/*
Sums and maxima over a warp or a block in a fixed order: bitwise reproducible. All lanes receive the result.
*/
#pragma once
#include "types.cuh"

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lane = 16; lane; lane /= 2) x += __shfl_xor_sync(kAllLanes, x, lane);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane; lane /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lane));
  return x;
}

// Reductions over the four lanes that share a row of an mma accumulator (equal lane/4).
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Sum over a block of kThreads threads (a multiple of 32, at most 1024). `scratch` holds kThreads/32 floats of shared
// memory. Every thread of the block must call it.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  constexpr int kWarps = kThreads / 32;
  x = warp_sum(x);
  __syncthreads();  // an earlier call may still read the scratch
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) sum += scratch[w];
  return sum;
}
