/*
cross_entropy: softmax cross-entropy of scored rows over the whole catalogue. Logits are never stored.
fwd: z_mv = <h_m, table_v> + bias_v,  lse_m = log sum_v exp z_mv,  loss_m = lse_m - z_m,target
     h (M,D) act   table (V,D) act   bias (V) f32   target (M)   loss, lse (M) f32
bwd: g_mv = dloss_m (exp(z_mv - lse_m) - [v = target_m]),  dh = g table,  dtable = g^T h,  dbias = sum_M g
     dh (M,D) act   dtable (V,D) f32   dbias (V) f32
Writes: loss lse | dh dtable dbias (overwritten or accumulated, per Dst).   Saves for bwd: lse.
Work: the tile loop of common/softmax.cuh.
  fwd, dh   each block owns 64 rows and processes a range of items. fwd writes (max, sum) of its range. dh recomputes z
            and accumulates a chunk of its gradient (128 columns of bf16, 64 of float) in registers.
  dtable    each block owns 64 items and processes a range of rows. It computes z^T, so that g^T in registers is
            directly the left operand of the second product. Each table row is written by one block.
  If the tiles alone do not fill the GPU, the ranges are split. The f32 parts are added in order by a second kernel.
Limits: any D and M, V >= 1. A target >= V gives loss NaN.
Numerics: bf16 or f32 products, f32 sums; g is rounded to act for the second product. No atomics: bitwise reproducible.
Cost: fwd 2 MDV, bwd 4 MDV (1 + chunks) flop: each chunk of dh and of dtable recomputes z. Compute bound; up to D = 64
  the exponentials cost as much as the products.
*/
#include "common/softmax.cuh"

// One range of items per row. Launch: grid (row tiles, 1, splits).
struct CrossEntropyFwdParams {
  float* max;         // (splits, M) scratch
  float* sum;         // (splits, M) scratch: sum of exp(z - max)
  float* hit;         // (M) scratch: logit of the target
  const void* h;      // (M, D) act
  const void* table;  // (V, D) act
  const float* bias;  // (V)
  const u32* target;  // (M)
  int m;
  int d;
  int v;
  int per_split;  // items per split, a multiple of 64
  int resident;   // 1: the block's rows stay in shared memory
};

// Combines the parts of all ranges into lse and loss. One thread per row.
struct CrossEntropyCombineParams {
  float* loss;       // (M)
  float* lse;        // (M)
  const float* max;  // (parts, M)
  const float* sum;  // (parts, M)
  const float* hit;  // (M)
  int m;
  int parts;
  int count_hit;  // 1: the logit of the target is in no part and is added here (sampled softmax)
};

// Launch: grid (row tiles, chunks, splits).
struct CrossEntropyDhParams {
  void* dh;            // (M, D) act; used if part is null
  float* part;         // (splits, M, D) scratch, or null with one split
  const float* dloss;  // (M)
  const void* h;       // (M, D) act
  const void* table;   // (V, D) act
  const float* bias;   // (V)
  const u32* target;   // (M)
  const float* lse;    // (M)
  int m;
  int d;
  int v;
  int per_split;  // items per split, a multiple of 64
  int resident;
  int add;  // 1: accumulate into dh
};

// Launch: grid (item tiles, chunks, splits). With more than one split, the outputs are scratch and are overwritten.
struct CrossEntropyDtableParams {
  float* dtable;       // (splits, V, D), or null
  float* dbias;        // (splits, V), or null
  const float* dloss;  // (M)
  const void* h;       // (M, D) act
  const void* table;   // (V, D) act
  const float* bias;   // (V)
  const u32* target;   // (M)
  const float* lse;    // (M)
  int m;
  int d;
  int v;
  int per_split;  // rows per split, a multiple of 64
  int resident;
  int add_dtable;
  int add_dbias;
};

// out = or += the parts, in order. One thread per element.
struct CrossEntropySumParams {
  void* out;          // (n) act
  const float* part;  // (parts, n)
  i64 n;
  int parts;
  int add;
};

template <class E>
__device__ __forceinline__ void cross_entropy_fwd(const CrossEntropyFwdParams& p) {
  using T = typename E::T;
  const int row0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.v, begin + p.per_split);
  LogSumExp<false> work;
  work.offset = p.bias;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    work.target[half] = row < p.m ? p.target[row] : kNoRow;
  }
  const Walk<E> w = {(const T*)p.h + (i64)row0 * p.d, (const T*)p.table, p.m - row0, begin, end, p.d,
                     p.resident != 0,                  {0, 0}};
  walk(w, work);
  work.finish();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    if (row >= p.m || threadIdx.x % 4 != 0) continue;
    p.max[(i64)blockIdx.z * p.m + row] = work.max[half];
    p.sum[(i64)blockIdx.z * p.m + row] = work.sum[half];
    // Exactly one range contains the target. A target past the table gives NaN.
    const u32 target = work.target[half];
    if (target >= (u32)begin && target < (u32)end) p.hit[row] = work.hit[half];
    if (target >= (u32)p.v && blockIdx.z == 0) p.hit[row] = __uint_as_float(0x7fffffffu);
  }
}

template <class E>
__device__ __forceinline__ void cross_entropy_dh(const CrossEntropyDhParams& p) {
  using T = typename E::T;
  const int row0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.v, begin + p.per_split);
  RowGradient<E, false> work;
  work.chunk.start(blockIdx.y, p.d, true);
  work.offset = p.bias;
  float dloss[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + own_row(half);
    work.target[half] = row < p.m ? p.target[row] : kNoRow;
    work.lse[half] = row < p.m ? p.lse[row] : kInfinity;
    dloss[half] = row < p.m ? p.dloss[row] : 0.f;
  }
  const Walk<E> w = {(const T*)p.h + (i64)row0 * p.d, (const T*)p.table, p.m - row0, begin, end, p.d,
                     p.resident != 0,                 work.chunk.kept};
  walk(w, work);
  if (p.part)
    write_chunk(p.part + (i64)blockIdx.z * p.m * p.d, work.chunk, row0, p.m - row0, p.d, false, dloss,
                (const T*)nullptr, dloss);
  else
    write_chunk((T*)p.dh, work.chunk, row0, p.m - row0, p.d, p.add != 0, dloss, (const T*)nullptr, dloss);
}

template <class E>
__device__ __forceinline__ void cross_entropy_dtable(const CrossEntropyDtableParams& p) {
  using T = typename E::T;
  const int item0 = blockIdx.x * kTile, begin = blockIdx.z * p.per_split, end = min(p.m, begin + p.per_split);
  CandidateGradient<E, false> work;
  work.chunk.start(blockIdx.y, p.d, p.dtable != nullptr);
  work.lse = p.lse, work.dloss = p.dloss, work.target = p.target;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int item = item0 + own_row(half);
    work.id[half] = item < p.v ? item : kNoRow;
    work.offset[half] = item < p.v ? p.bias[item] : -kInfinity;
  }
  const Walk<E> w = {(const T*)p.table + (i64)item0 * p.d, (const T*)p.h,  p.v - item0, begin, end, p.d,
                     p.resident != 0,                      work.chunk.kept};
  walk(w, work);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int item = item0 + own_row(half);
    const float sum = quad_sum(work.sum[half]);
    if (!p.dbias || blockIdx.y != 0 || item >= p.v || threadIdx.x % 4 != 0) continue;
    float* to = p.dbias + (i64)blockIdx.z * p.v + item;
    *to = p.add_dbias ? *to + sum : sum;
  }
  const float one[2] = {1.f, 1.f};
  if (p.dtable)
    write_chunk(p.dtable + (i64)blockIdx.z * p.v * p.d, work.chunk, item0, p.v - item0, p.d, p.add_dtable != 0, one,
                (const T*)nullptr, one);
}

__device__ __forceinline__ void combine_parts(const CrossEntropyCombineParams& p) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= p.m) return;
  const float hit = p.hit[row];
  float top = p.count_hit ? hit : kLowest;
  for (int k = 0; k < p.parts; k++) top = fmaxf(top, p.max[(i64)k * p.m + row]);
  float sum = p.count_hit ? exp_of(hit - top) : 0.f;
  for (int k = 0; k < p.parts; k++) sum += p.sum[(i64)k * p.m + row] * exp_of(p.max[(i64)k * p.m + row] - top);
  const float log_sum = logf(sum);
  p.lse[row] = top + log_sum;
  // Not lse - hit: this order preserves the precision of a loss near 0.
  p.loss[row] = top - hit + log_sum;
}

template <class T>
__device__ __forceinline__ void sum_parts(const CrossEntropySumParams& p) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  T* const out = (T*)p.out + i;
  float sum = p.add ? to_f32(*out) : 0.f;
  for (int k = 0; k < p.parts; k++) sum += p.part[k * p.n + i];
  *out = from_f32<T>(sum);
}

KERNEL(cross_entropy_fwd_bf16, CrossEntropyFwdParams, 128) { cross_entropy_fwd<Warps<bf16>>(p); }
KERNEL(cross_entropy_fwd_f32, CrossEntropyFwdParams, 128) { cross_entropy_fwd<Warps<float>>(p); }
KERNEL(cross_entropy_combine, CrossEntropyCombineParams, 256) { combine_parts(p); }
KERNEL(cross_entropy_sum_bf16, CrossEntropySumParams, 256) { sum_parts<bf16>(p); }
KERNEL(cross_entropy_sum_f32, CrossEntropySumParams, 256) { sum_parts<float>(p); }

// At most 168 registers: three resident blocks overlap exponentials and copies.
KERNEL(cross_entropy_dh_bf16, CrossEntropyDhParams, 128, 3) { cross_entropy_dh<Warps<bf16>>(p); }
KERNEL(cross_entropy_dtable_bf16, CrossEntropyDtableParams, 128, 3) { cross_entropy_dtable<Warps<bf16>>(p); }

// Launch bounds: by default the compiler spills a few registers to fit a third block.
KERNEL(cross_entropy_dh_f32, CrossEntropyDhParams, 128, 2) { cross_entropy_dh<Warps<float>>(p); }
KERNEL(cross_entropy_dtable_f32, CrossEntropyDtableParams, 128, 2) { cross_entropy_dtable<Warps<float>>(p); }

// Hopper variants.
KERNEL(cross_entropy_fwd_wgmma, CrossEntropyFwdParams, 128) { HOPPER(cross_entropy_fwd<Group>(p)); }
KERNEL(cross_entropy_dh_wgmma, CrossEntropyDhParams, 128, 3) { HOPPER(cross_entropy_dh<Group>(p)); }
KERNEL(cross_entropy_dtable_wgmma, CrossEntropyDtableParams, 128, 3) { HOPPER(cross_entropy_dtable<Group>(p)); }
