/*
Exposes the results of shuffles, votes, barriers with a predicate, ldmatrix, mma, cp.async and bf16 conversion
to semantics.cpp, which compares them with plain loops written from the definitions.
*/
#include "../../kernels/common/types.cuh"

struct ShuffleParams {
  const int* v;  // (32) a value a lane
  int* y;        // (4, 32): idx, xor, up, down
  int arg, width;
};
KERNEL(shuffles, ShuffleParams, 32) {
  const int lane = threadIdx.x, v = p.v[lane];
  p.y[lane] = __shfl_sync(kAllLanes, v, p.arg, p.width);
  p.y[32 + lane] = __shfl_xor_sync(kAllLanes, v, p.arg, p.width);
  p.y[64 + lane] = __shfl_up_sync(kAllLanes, v, p.arg, p.width);
  p.y[96 + lane] = __shfl_down_sync(kAllLanes, v, p.arg, p.width);
}

struct VoteParams {
  const int* v;  // (128)
  int* y;        // (9, 128)
};
// The halves of a warp go their own ways, a different number of times, as they may.
KERNEL(votes, VoteParams, 128) {
  const int t = threadIdx.x, lane = t % 32, v = p.v[t];
  const u32 half = lane < 16 ? 0xffffu : 0xffff0000u;
  int* y = p.y + t;
  y[0] = (int)__ballot_sync(half, v > 0);
  y[128] = __any_sync(half, v > 6);
  y[256] = __all_sync(half, v > -6);
  int sum = v;
  if (lane < 16) {
    for (int d = 8; d; d /= 2) sum += __shfl_xor_sync(0xffffu, sum, d);
  } else {
    sum = (int)__reduce_add_sync(0xffff0000u, (u32)v);
  }
  y[384] = sum;
  y[512] = __reduce_max_sync(kAllLanes, v);
  y[640] = __reduce_min_sync(kAllLanes, v);
  y[768] = __syncthreads_count(v > 0);
  y[896] = __syncthreads_or(v > 7);
  y[1024] = __syncthreads_and(v > -8);
}

struct MatrixParams {
  const unsigned short* m;  // (32, 8) four tiles, one below the other
  u32* y;                   // (12, 32): x4, x4 transposed, x2, x2 transposed
};
KERNEL(matrices, MatrixParams, 32) {
  DYN_SMEM(raw);
  const int lane = threadIdx.x;
  cp_async16(raw + lane * 16, p.m + lane * 8, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const void* row = raw + lane * 16;
  u32 r[4], two[2];
  ldsm_x4(r, row);
  for (int i = 0; i < 4; i++) p.y[i * 32 + lane] = r[i];
  ldsm_x4_t(r, row);
  for (int i = 0; i < 4; i++) p.y[(4 + i) * 32 + lane] = r[i];
  ldsm_x2(two, lane < 16 ? row : nullptr);  // the other lanes' addresses do not count
  for (int i = 0; i < 2; i++) p.y[(8 + i) * 32 + lane] = two[i];
  ldsm_x2_t(two, row);
  for (int i = 0; i < 2; i++) p.y[(10 + i) * 32 + lane] = two[i];
}

struct MmaParams {
  const bf16 *a, *b;  // (16, 16) and (16, 8)
  const float* c;     // (16, 8)
  float* d;           // (16, 8) = a b + c
};
// Fragments as the PTX manual lays them out: element i of a thread's a, b, c.
KERNEL(product, MmaParams, 32) {
  const int group = threadIdx.x / 4, in_group = threadIdx.x % 4;
  u32 a[4], b[2];
  float d[4];
  for (int i = 0; i < 8; i += 2) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, col = in_group * 2 + (i >= 4 ? 8 : 0);
    a[i / 2] = pack_bf16(to_f32(p.a[row * 16 + col]), to_f32(p.a[row * 16 + col + 1]));
  }
  for (int i = 0; i < 4; i += 2) {
    const int row = in_group * 2 + (i >= 2 ? 8 : 0);
    b[i / 2] = pack_bf16(to_f32(p.b[row * 8 + group]), to_f32(p.b[(row + 1) * 8 + group]));
  }
  for (int i = 0; i < 4; i++) d[i] = p.c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + i % 2];
  mma_bf16(d, a, b[0], b[1]);
  for (int i = 0; i < 4; i++) p.d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + i % 2] = d[i];
}

struct CopyParams {
  const float* x;  // (n), n < 128
  float *by16, *by4;  // (128): x, and zeros behind its end
  int n;
};
KERNEL(copies, CopyParams, 128) {
  DYN_SMEM(raw);
  float* s = (float*)raw;
  const int t = threadIdx.x;
  if (t < 32) cp_async16(s + t * 4, p.x + t * 4, t * 4 + 4 <= p.n);
  cp_async4(s + 128 + t, p.x + t, t < p.n);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  p.by16[t] = s[t];
  p.by4[t] = s[128 + t];
}

struct RoundParams {
  const float* x;
  unsigned short* y;
  int n;
};
KERNEL(rounding, RoundParams, 256) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.y[i] = __bfloat16_as_ushort(__float2bfloat16(p.x[i]));
}

struct CountParams {
  u32* hits;   // (grid) one a block
  int* total;  // (1)
};
// A sum of a block through warps and shared memory; needs every barrier it has.
KERNEL(counts, CountParams, 256) {
  STATIC_SMEM(u32, warps, 8);
  const int t = threadIdx.x;
  const u32 v = (blockIdx.x * 256 + t) * 2654435761u >> 28;
  const u32 sum = __reduce_add_sync(kAllLanes, v);
  if (t % 32 == 0) warps[t / 32] = sum;
  __syncthreads();
  if (t >= 8) return;
  const u32 all = __reduce_add_sync(0xffu, warps[t]);
  if (t == 0) p.hits[blockIdx.x] = all, atomicAdd(p.total, (int)all);
}
