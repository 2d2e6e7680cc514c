/*
Kernels with planted faults and their correct counterparts, for tests/emulator/machine.rs. The fault is under
`if (kBroken)`, so the two differ in nothing else. All have the same parameters; the expected results are in
faults.cpp.
*/
#include "../../kernels/common/types.cuh"

struct Params {
  const float* x;  // (n)
  float* y;        // (n)
  int* count;      // (1)
  int n;
};

#define TWINS(name, threads)                                        \
  KERNEL(name##_healthy, Params, threads) { name<false>(p); }       \
  KERNEL(name##_broken, Params, threads) { name<true>(p); }

// Reverses y within the block, through shared memory; broken: no barrier between the writes and the reads.
template <bool kBroken>
__device__ void barrier(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  s[t] = p.x[t];
  if (!kBroken) __syncthreads();
  p.y[t] = s[127 - t];
}
TWINS(barrier, 128)

// Two rounds through the same array; broken: the second round's writes may overtake the first round's reads.
template <bool kBroken>
__device__ void second_barrier(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 2; round++) {
    s[t] = p.x[t] * (float)(round + 1);
    __syncthreads();
    sum += s[127 - t];
    if (!kBroken) __syncthreads();
  }
  p.y[t] = sum;
}
TWINS(second_barrier, 128)

// Broken: one part of the block waits at one barrier, the other part at another.
template <bool kBroken>
__device__ void divergent_barrier(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  s[t] = p.x[t];
  if (kBroken && t < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  p.y[t] = s[127 - t];
}
TWINS(divergent_barrier, 128)

// Broken: half of each warp waits for the block, the other half for the warp: a deadlock.
template <bool kBroken>
__device__ void stuck(const Params& p) {
  const int t = threadIdx.x;
  float v = p.x[t];
  if (kBroken && t % 32 < 16) __syncthreads();
  v = __shfl_xor_sync(kAllLanes, v, 1);
  if (!kBroken || t % 32 >= 16) __syncthreads();
  p.y[t] = v;
}
TWINS(stuck, 128)

// Broken: the lanes of a warp reach different shuffles.
template <bool kBroken>
__device__ void shuffle(const Params& p) {
  const int t = threadIdx.x;
  float v = p.x[t];
  if (kBroken && t % 2) {
    v = __shfl_xor_sync(kAllLanes, v, 1);
  } else {
    v = __shfl_xor_sync(kAllLanes, v, 1);
  }
  p.y[t] = v;
}
TWINS(shuffle, 128)

// Broken: a shuffle reads the value of a lane outside of the mask.
template <bool kBroken>
__device__ void shuffle_mask(const Params& p) {
  const int t = threadIdx.x, lane = t % 32;
  float v = 0;
  if (lane < 16) v = __shfl_sync(0xffffu, p.x[t], kBroken ? lane + 1 : lane ^ 1);
  p.y[t] = v;
}
TWINS(shuffle_mask, 128)

// An asynchronous copy; broken: there is no wait for it.
template <bool kBroken>
__device__ void async_copy(const Params& p) {
  DYN_SMEM(raw);
  float* s = (float*)raw;
  const int t = threadIdx.x;
  if (t < 32) cp_async16(s + t * 4, p.x + t * 4, true);
  cp_async_commit();
  if (!kBroken) cp_async_wait<0>();
  __syncthreads();
  p.y[t] = s[127 - t];
  if (kBroken) cp_async_wait<0>();
}
TWINS(async_copy, 128)

// Two groups of copies in flight; broken: the wait allows one group too many.
template <bool kBroken>
__device__ void async_groups(const Params& p) {
  DYN_SMEM(raw);
  float* s = (float*)raw;
  const int t = threadIdx.x;
  for (int group = 0; group < 2; group++) {
    if (t < 16) cp_async16(s + group * 64 + t * 4, p.x + group * 64 + t * 4, true);
    cp_async_commit();
  }
  cp_async_wait<kBroken ? 2 : 1>();
  __syncthreads();
  const float first = s[t % 64];
  cp_async_wait<0>();
  __syncthreads();
  p.y[t] = t < 64 ? first : s[t];
}
TWINS(async_groups, 128)

// Neighbours exchange values through shared memory within a warp; broken: assumes that lanes run in lockstep.
template <bool kBroken>
__device__ void warp_order(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  s[t] = p.x[t];
  if (!kBroken) __syncwarp();
  p.y[t] = s[t ^ 1];
}
TWINS(warp_order, 128)

// Broken: the last thread writes past the dynamic shared memory of the launch (512 bytes).
template <bool kBroken>
__device__ void shared_write(const Params& p) {
  DYN_SMEM(raw);
  float* s = (float*)raw;
  const int t = threadIdx.x;
  s[t] = p.x[t];
  if (kBroken && t == 127) s[t + 1] = 1.f;
  __syncthreads();
  p.y[t] = s[127 - t];
}
TWINS(shared_write, 128)

// Broken: reads past it.
template <bool kBroken>
__device__ void shared_read(const Params& p) {
  DYN_SMEM(raw);
  float* s = (float*)raw;
  const int t = threadIdx.x;
  s[t] = p.x[t];
  __syncthreads();
  p.y[t] = s[kBroken ? 128 - t : 127 - t];
}
TWINS(shared_read, 128)

// Broken: writes past a static array.
template <bool kBroken>
__device__ void static_write(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  s[t] = p.x[t];
  if (kBroken && t == 127) s[t + 1] = 1.f;
  __syncthreads();
  p.y[t] = s[127 - t];
}
TWINS(static_write, 128)

// Broken: reads half of the shared memory without writing it first.
template <bool kBroken>
__device__ void uninitialised(const Params& p) {
  STATIC_SMEM(float, s, 128);
  const int t = threadIdx.x;
  if (!kBroken || t < 64) s[t] = p.x[t];
  __syncthreads();
  p.y[t] = s[127 - t];
}
TWINS(uninitialised, 128)

// One thread per element, the last block partly filled; broken: one element too many.
template <bool kBroken>
__device__ void tail(const Params& p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kBroken ? i <= p.n : i < p.n) p.y[i] = 2.f;
}
TWINS(tail, 128)

// Broken: reads past the end of x.
template <bool kBroken>
__device__ void global_read(const Params& p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.y[i] = p.x[kBroken ? i + 1 : i];
}
TWINS(global_read, 128)

// Broken: writes before the start of y.
template <bool kBroken>
__device__ void global_write(const Params& p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.y[kBroken ? i - 1 : i] = p.x[i];
}
TWINS(global_write, 128)

// All blocks increment one counter; broken: without an atomic operation.
template <bool kBroken>
__device__ void across_blocks(const Params& p) {
  if (threadIdx.x == 0) {
    if (kBroken) *p.count += 1;
    else atomicAdd(p.count, 1);
  }
}
TWINS(across_blocks, 128)

// The last block to finish sums the results of the others; broken: nothing orders their writes before its
// reads.
template <bool kBroken>
__device__ void last_block(const Params& p) {
  STATIC_SMEM(int, ticket, 1);
  if (threadIdx.x == 0) {
    p.y[blockIdx.x] = p.x[blockIdx.x];
    if (!kBroken) __threadfence();
    *ticket = atomicAdd(p.count, 1);
    if (!kBroken) __threadfence();
  }
  __syncthreads();
  if (*ticket != (int)gridDim.x - 1 || threadIdx.x) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += p.y[b];
  p.y[gridDim.x] = sum;
}
TWINS(last_block, 128)

// Broken: the launch has more threads than the launch bound (faults.cpp requests 128).
KERNEL(launch_bound_healthy, Params, 128) { p.y[threadIdx.x] = p.x[threadIdx.x]; }
KERNEL(launch_bound_broken, Params, 64) { p.y[threadIdx.x] = p.x[threadIdx.x]; }
