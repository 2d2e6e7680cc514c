/*
sampled_softmax: cross-entropy of each scored row against its target and S negatives shared by the batch, with the
logQ correction (Bengio and Senecal 2008; Yi et al. 2019).
fwd: z_m0 = <h_m, pos_m> + bias[target_m],  z_ms = <h_m, neg_s> + bias[negative_s] - log_q[negative_s] - ln(others)
     others: 1, or for in-batch negatives targets - 1, at least 1
     masked: negatives equal to the row's target, and those with their bit set in own;  loss_m = log sum exp z_m - z_m0
     h, pos (M,D) act   neg (S,D) act   bias, log_q (V) f32   target (M)   negative (S)   own (M,ceil(S/32))
     loss, lse (M) f32
bwd: g = dloss (softmax - onehot),  dh = g_0 pos + g_s neg,  dneg = g_s^T h,  dneg_bias = sum_M g_s
     g0 (M) f32   dh (M,D) act   dneg (S,D) act   dneg_bias (S) act
Writes: loss lse | g0, dh dneg dneg_bias (overwritten or accumulated, per Dst).   Saves for bwd: lse.
Work: _target computes each row's own logit, one warp per row, as a plain f32 dot product (so g0 and the positive's part
  of dh are as accurate as the row). It also computes each negative's offset, -inf if it is not an item. The negatives
  are processed like the catalogue of cross_entropy: the same loop (common/softmax.cuh), the same split into ranges, the
  same cross_entropy_combine and cross_entropy_sum.
  Masking own items reads two words per row and tile, in separate kernels (_own), without a cost for the others.
Limits: any D, M and S. S = 0 or only hits: loss 0, zero gradients.
Numerics: bf16 or f32 products with the negatives, f32 sums. No atomics: bitwise reproducible.
Cost: as cross_entropy with V = S.
*/
#include "common/softmax.cuh"

// Launch: grid (ceil(M/8) + ceil(S/256)). The first blocks process eight rows each, the others 256 negatives each.
struct SampledSoftmaxTargetParams {
  float* z;             // (M) scratch: logit of the target
  float* offset;        // (S) scratch: bias - log_q - ln(others) of each negative
  const void* h;        // (M, D) act
  const void* pos;      // (M, D) act
  const float* bias;    // (V)
  const float* log_q;   // (V)
  const u32* targets;   // (1) number of targets in the batch for in-batch negatives; null: sampled negatives
  const u32* target;    // (M)
  const u32* negative;  // (S)
  int m;
  int d;
  int s;
};

// Launch: the same grid.
struct SampledSoftmaxTargetBwdParams {
  float* g0;            // (M) gradient of the target's logit
  float* offset;        // (S) scratch
  const float* dloss;   // (M)
  const void* h;        // (M, D) act
  const void* pos;      // (M, D) act
  const float* bias;    // (V)
  const float* log_q;   // (V)
  const u32* targets;   // (1) number of targets in the batch for in-batch negatives; null: sampled negatives
  const u32* target;    // (M)
  const u32* negative;  // (S)
  const float* lse;     // (M)
  int m;
  int d;
  int s;
};

// One range of negatives per row. Launch: grid (row tiles, 1, splits).
struct SampledSoftmaxFwdParams {
  float* max;           // (splits, M) scratch
  float* sum;           // (splits, M) scratch
  const void* h;        // (M, D) act
  const void* neg;      // (S, D) act
  const float* offset;  // (S)
  const u32* target;    // (M)
  const u32* negative;  // (S)
  const u32* own;       // (M, ceil(S/32)) bits of masked negatives, in the _own kernels
  int m;
  int d;
  int s;
  int per_split;  // negatives per split, a multiple of 64
  int resident;   // 1: the block's rows stay in shared memory
};

// Launch: grid (row tiles, chunks, splits).
struct SampledSoftmaxDhParams {
  void* dh;             // (M, D) act; used if part is null
  float* part;          // (splits, M, D) scratch, or null with one split
  const float* dloss;   // (M)
  const float* g0;      // (M)
  const void* h;        // (M, D) act
  const void* pos;      // (M, D) act
  const void* neg;      // (S, D) act
  const float* offset;  // (S)
  const u32* target;    // (M)
  const u32* negative;  // (S)
  const u32* own;       // (M, ceil(S/32)), in the _own kernels
  const float* lse;     // (M)
  int m;
  int d;
  int s;
  int per_split;  // negatives per split, a multiple of 64
  int resident;
  int add;  // 1: accumulate into dh
};

// Launch: grid (negative tiles, chunks, splits).
struct SampledSoftmaxDnegParams {
  void* dneg;           // (S, D) act, or null
  void* dneg_bias;      // (S) act, or null
  float* part;          // (splits, S, D) scratch instead of dneg, or null with one split
  float* part_bias;     // (splits, S) scratch instead of dneg_bias, or null
  const float* dloss;   // (M)
  const void* h;        // (M, D) act
  const void* neg;      // (S, D) act
  const float* offset;  // (S)
  const u32* target;    // (M)
  const u32* negative;  // (S)
  const u32* own;       // (M, ceil(S/32)), in the _own kernels
  const float* lse;     // (M)
  int m;
  int d;
  int s;
  int per_split;  // rows per split, a multiple of 64
  int resident;
  int add_dneg;
  int add_dneg_bias;
};

// The id of "no item".
constexpr u32 kNoId = 0xffffffffu;

// Offset of a negative; a target has only its bias.
template <class Params>
__device__ __forceinline__ float offset_of(const Params& p, u32 item) {
  const float others = p.targets && *p.targets > 2 ? logf((float)(*p.targets - 1)) : 0.f;
  return p.bias[item] - p.log_q[item] - others;
}

// Returns the row of this warp, or -1. In the blocks after those of the rows, each thread writes a negative's offset.
template <class Params>
__device__ __forceinline__ int target_row(const Params& p) {
  const int row_blocks = (p.m + 7) / 8, block = blockIdx.x;
  if (block < row_blocks) {
    const int row = block * 8 + threadIdx.x / 32;
    return row < p.m ? row : -1;
  }
  const i64 k = (i64)(block - row_blocks) * 256 + threadIdx.x;
  if (k < p.s) p.offset[k] = p.negative[k] == kNoId ? -kInfinity : offset_of(p, p.negative[k]);
  return -1;
}

// The logit of a row's target, in all lanes of its warp: bitwise identical in both passes.
template <class T, class Params>
__device__ __forceinline__ float target_logit(const Params& p, int row) {
  const T *h = (const T*)p.h + (i64)row * p.d, *pos = (const T*)p.pos + (i64)row * p.d;
  float dot = 0.f;
  for (int k = threadIdx.x % 32; k < p.d; k += 32) dot = fmaf(to_f32(h[k]), to_f32(pos[k]), dot);
  const u32 item = p.target[row];
  return warp_sum(dot) + (item == kNoId ? 0.f : p.bias[item]);
}

template <class T>
__device__ __forceinline__ void sampled_softmax_target(const SampledSoftmaxTargetParams& p) {
  const int row = target_row(p);
  if (row < 0) return;
  const float z = target_logit<T>(p, row);
  if (threadIdx.x % 32 == 0) p.z[row] = z;
}

template <class T>
__device__ __forceinline__ void sampled_softmax_target_bwd(const SampledSoftmaxTargetBwdParams& p) {
  const int row = target_row(p);
  if (row < 0) return;
  const float z = target_logit<T>(p, row);
  if (threadIdx.x % 32 == 0) p.g0[row] = p.dloss[row] * (exp_of(z - p.lse[row]) - 1.f);
}

// Bit mask of the negatives that a row masks; empty for rows past the end.
template <class Params>
__device__ __forceinline__ LeftOut left_out(const Params& p, int row) {
  const int words = (p.s + 31) / 32;
  return {p.own + (i64)row * words, row < p.m ? words : 0};
}

template <class E, bool kOwn>
__device__ __forceinline__ void sampled_softmax_fwd(const SampledSoftmaxFwdParams& p) {
  using T = typename E::T;
  const int row0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.s, begin + p.per_split);
  LogSumExp<true, kOwn> work;
  work.offset = p.offset, work.id = p.negative;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    work.target[half] = row < p.m ? p.target[row] : kNoRow;
    if (kOwn) work.own[half] = left_out(p, row);
  }
  const Walk<E> w = {(const T*)p.h + (i64)row0 * p.d, (const T*)p.neg, p.m - row0, begin, end, p.d,
                     p.resident != 0,                 {0, 0}};
  walk(w, work);
  work.finish();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    if (row >= p.m || threadIdx.x % 4 != 0) continue;
    p.max[(i64)blockIdx.z * p.m + row] = work.max[half];
    p.sum[(i64)blockIdx.z * p.m + row] = work.sum[half];
  }
}

template <class E, bool kOwn>
__device__ __forceinline__ void sampled_softmax_dh(const SampledSoftmaxDhParams& p) {
  using T = typename E::T;
  const int row0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.s, begin + p.per_split);
  RowGradient<E, true, kOwn> work;
  work.chunk.start(blockIdx.y, p.d, true);
  work.offset = p.offset, work.id = p.negative;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    work.target[half] = row < p.m ? p.target[row] : kNoRow;
    if (kOwn) work.own[half] = left_out(p, row);
    work.lse[half] = row < p.m ? p.lse[row] : kInfinity;
  }
  const Walk<E> w = {(const T*)p.h + (i64)row0 * p.d, (const T*)p.neg, p.m - row0, begin, end, p.d,
                     p.resident != 0,                 work.chunk.kept};
  walk(w, work);
  float dloss[2], g[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    dloss[half] = row < p.m ? p.dloss[row] : 0.f;
    g[half] = row < p.m ? p.g0[row] : 0.f;
  }
  // The target's part is added in the first range only.
  const T* pos = blockIdx.z == 0 ? (const T*)p.pos : nullptr;
  if (p.part)
    write_chunk(p.part + (i64)blockIdx.z * p.m * p.d, work.chunk, row0, p.m - row0, p.d, false, dloss, pos, g);
  else
    write_chunk((T*)p.dh, work.chunk, row0, p.m - row0, p.d, p.add != 0, dloss, pos, g);
}

template <class E, bool kOwn>
__device__ __forceinline__ void sampled_softmax_dneg(const SampledSoftmaxDnegParams& p) {
  using T = typename E::T;
  const int neg0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.m, begin + p.per_split);
  CandidateGradient<E, true, kOwn> work;
  work.chunk.start(blockIdx.y, p.d, p.dneg || p.part);
  work.lse = p.lse, work.dloss = p.dloss, work.target = p.target;
  if (kOwn) {
    const int first = neg0 + threadIdx.x / 32 * 16;  // the warp's 16 negatives share a word
    work.own_words = (p.s + 31) / 32, work.own_bit = first % 32 + own_row(0) % 16, work.rows = p.m;
    work.own = p.own + min(first / 32, work.own_words - 1);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int k = neg0 + own_row(half);
    work.id[half] = k < p.s ? p.negative[k] : kNoRow;
    work.offset[half] = k < p.s ? p.offset[k] : -kInfinity;
  }
  const Walk<E> w = {(const T*)p.neg + (i64)neg0 * p.d, (const T*)p.h,  p.s - neg0, begin, end, p.d,
                     p.resident != 0,                   work.chunk.kept};
  walk(w, work);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int k = neg0 + own_row(half);
    const float sum = quad_sum(work.sum[half]);
    if (blockIdx.y != 0 || k >= p.s || threadIdx.x % 4 != 0) continue;
    if (p.part_bias) {
      p.part_bias[(i64)blockIdx.z * p.s + k] = sum;
    } else if (p.dneg_bias) {
      T* to = (T*)p.dneg_bias + k;
      *to = from_f32<T>(p.add_dneg_bias ? to_f32(*to) + sum : sum);
    }
  }
  const float one[2] = {1.f, 1.f};
  if (p.part)
    write_chunk(p.part + (i64)blockIdx.z * p.s * p.d, work.chunk, neg0, p.s - neg0, p.d, false, one,
                (const T*)nullptr, one);
  else if (p.dneg)
    write_chunk((T*)p.dneg, work.chunk, neg0, p.s - neg0, p.d, p.add_dneg != 0, one, (const T*)nullptr, one);
}

KERNEL(sampled_softmax_target_bf16, SampledSoftmaxTargetParams, 256) { sampled_softmax_target<bf16>(p); }
KERNEL(sampled_softmax_target_f32, SampledSoftmaxTargetParams, 256) { sampled_softmax_target<float>(p); }
KERNEL(sampled_softmax_target_bwd_bf16, SampledSoftmaxTargetBwdParams, 256) { sampled_softmax_target_bwd<bf16>(p); }
KERNEL(sampled_softmax_target_bwd_f32, SampledSoftmaxTargetBwdParams, 256) { sampled_softmax_target_bwd<float>(p); }
// At most 128 registers: four blocks per multiprocessor. By default the compiler targets more and spills.
KERNEL(sampled_softmax_fwd_bf16, SampledSoftmaxFwdParams, 128, 4) { sampled_softmax_fwd<Warps<bf16>, false>(p); }

// As in cross_entropy.cu.
KERNEL(sampled_softmax_dh_bf16, SampledSoftmaxDhParams, 128, 3) { sampled_softmax_dh<Warps<bf16>, false>(p); }
KERNEL(sampled_softmax_dneg_bf16, SampledSoftmaxDnegParams, 128, 3) { sampled_softmax_dneg<Warps<bf16>, false>(p); }
KERNEL(sampled_softmax_fwd_f32, SampledSoftmaxFwdParams, 128, 2) { sampled_softmax_fwd<Warps<float>, false>(p); }
KERNEL(sampled_softmax_dh_f32, SampledSoftmaxDhParams, 128, 2) { sampled_softmax_dh<Warps<float>, false>(p); }
KERNEL(sampled_softmax_dneg_f32, SampledSoftmaxDnegParams, 128, 2) { sampled_softmax_dneg<Warps<float>, false>(p); }

// The same with masks. Their addresses need registers: two blocks per multiprocessor in the backward passes.
KERNEL(sampled_softmax_fwd_own_bf16, SampledSoftmaxFwdParams, 128, 3) { sampled_softmax_fwd<Warps<bf16>, true>(p); }
KERNEL(sampled_softmax_dh_own_bf16, SampledSoftmaxDhParams, 128, 2) { sampled_softmax_dh<Warps<bf16>, true>(p); }
KERNEL(sampled_softmax_dneg_own_bf16, SampledSoftmaxDnegParams, 128, 2) { sampled_softmax_dneg<Warps<bf16>, true>(p); }
KERNEL(sampled_softmax_fwd_own_f32, SampledSoftmaxFwdParams, 128, 2) { sampled_softmax_fwd<Warps<float>, true>(p); }
KERNEL(sampled_softmax_dh_own_f32, SampledSoftmaxDhParams, 128, 2) { sampled_softmax_dh<Warps<float>, true>(p); }
KERNEL(sampled_softmax_dneg_own_f32, SampledSoftmaxDnegParams, 128, 2) { sampled_softmax_dneg<Warps<float>, true>(p); }

// Hopper variants.
KERNEL(sampled_softmax_fwd_wgmma, SampledSoftmaxFwdParams, 128, 4) { HOPPER(sampled_softmax_fwd<Group, false>(p)); }
KERNEL(sampled_softmax_dh_wgmma, SampledSoftmaxDhParams, 128, 3) { HOPPER(sampled_softmax_dh<Group, false>(p)); }
KERNEL(sampled_softmax_dneg_wgmma, SampledSoftmaxDnegParams, 128, 3) { HOPPER(sampled_softmax_dneg<Group, false>(p)); }
KERNEL(sampled_softmax_fwd_own_wgmma, SampledSoftmaxFwdParams, 128, 3) { HOPPER(sampled_softmax_fwd<Group, true>(p)); }
KERNEL(sampled_softmax_dh_own_wgmma, SampledSoftmaxDhParams, 128, 2) { HOPPER(sampled_softmax_dh<Group, true>(p)); }
KERNEL(sampled_softmax_dneg_own_wgmma, SampledSoftmaxDnegParams, 128, 2) {
  HOPPER(sampled_softmax_dneg<Group, true>(p));
}
