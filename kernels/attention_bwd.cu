/*
attention_bwd: the gradient of attention.cu. p is recomputed from the saved log-sum-exp and never stored.
bwd: delta_i = <do_i, o_i>,  p = exp(s - lse),  dp = drop(do v^T),  ds = p*(dp - delta),
     dq = scale ds k,  dk = scale ds^T q,  dv = drop(p)^T do
     qkv,dqkv (N,3,H,K) act   o,do (N,H,K) act   lse,delta (H,N) f32   scale = 1/sqrt(K)
Writes: dqkv (overwritten or accumulated, per `add`), delta (scratch).
Work: two launches. Each output row is written once: deterministic for any length, no atomics.
  bwd_q   each block owns kRows queries and iterates over the keys: delta, dq
  bwd_kv  each block owns kRows keys and iterates over the queries: dk, dv. Its products are transposed (rows are keys):
          p^T and ds^T in registers are directly the left operands of the next products.
kRows is 64 (32 for f32 with K > 32). Tiles of the other side have 64 rows (fewer for large K, see BwdTiles) and are
double-buffered. Tiles above the causal diagonal or past the end of the sequence are skipped.
Launch: grid (B * H * ceil(t / kRows)), block (BwdTiles::kThreads); see find_part.
Limits: K 1..128, any lengths.   Numerics: f32; p and ds are rounded to act for the second products.
Cost: 14*K flop and two exp2 per pair (i, j); a one-pass kernel would save 4*K flop and one exp2.
*/
#include "common/attention.cuh"

struct AttentionBwdParams {
  void* dqkv;        // (N,3,H,K) act
  float* delta;      // (H,N), written by bwd_q, read by bwd_kv
  const void* d_o;   // (N,H,K) act
  const void* o;     // (N,H,K) act
  const void* qkv;   // (N,3,H,K) act
  const float* lse;  // (H,N)
  const u32* cu;     // (B+1) cumulative sequence lengths
  const u32* step;   // (1)
  i64 n;             // total rows of all sequences
  int h;             // heads
  int k;             // head dimension
  int t;             // maximum sequence length
  int causal;        // 1: position i attends to positions <= i
  int add;           // 1: accumulate into dqkv
  float scale;       // 1/sqrt(K)
  Drop drop;
};

// Shared memory: q, do (kRows, KP), then two stages of k, v (kStep, KP). Same as bwd_kv without its statistics.
template <class T, int KP>
__device__ __forceinline__ void attention_bwd_q(const AttentionBwdParams& p) {
  using S = BwdTiles<T, KP>;
  constexpr int kRows = S::kRows, kStep = S::kStep, kThreads = S::kThreads, kLd = tile_ld<T>(KP);
  constexpr int NB = kStep / 8, kColumns = KP / S::kSplit, ND = kColumns / 8;
  DYN_SMEM(smem);
  const Part part = find_part(p.cu, p.h, p.t, kRows);
  if (part.first >= part.len) return;

  T *q = (T*)smem, *d_o = q + kRows * kLd, *stages = d_o + kRows * kLd;
  const i64 d = (i64)p.h * p.k, stride = 3 * d;
  const T* qkv = (const T*)p.qkv + part.start * stride + (i64)part.head * p.k;
  const auto load_keys = [&](int tile) {
    T* k = stages + tile % 2 * 2 * kStep * kLd;
    const int j0 = tile * kStep;
    load_tile<kStep, KP, kThreads>(k, qkv + j0 * stride + d, stride, part.len - j0, p.k);
    load_tile<kStep, KP, kThreads>(k + kStep * kLd, qkv + j0 * stride + 2 * d, stride, part.len - j0, p.k);
    cp_async_commit();
  };
  const int rows = part.len - part.first;
  const i64 first = (part.start + part.first) * d + (i64)part.head * p.k;  // the block's rows in o and do
  // The second stage is unused until the first tile of keys is loaded. It holds o for the computation of delta.
  static_assert(2 * kStep >= kRows, "o fits into the second stage");
  T* o = stages + 2 * kStep * kLd;
  load_tile<kRows, KP, kThreads>(q, qkv + part.first * stride, stride, rows, p.k);
  load_tile<kRows, KP, kThreads>(d_o, (const T*)p.d_o + first, d, rows, p.k);
  load_tile<kRows, KP, kThreads>(o, (const T*)p.o + first, d, rows, p.k);
  load_keys(0);
  cp_async_wait<0>();
  __syncthreads();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 / S::kSplit;
  const int c0 = threadIdx.x / 32 % S::kSplit * kColumns;  // first column of this warp's part of the gradient
  const int i0 = part.first + warp * 16;  // the warp's first query
  const T *q_warp = q + warp * 16 * kLd, *d_o_warp = d_o + warp * 16 * kLd;
  float lse2[2], delta[2];  // for the two rows of this lane; lse2 = lse in units of log2
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = acc_row(lane, 2 * half), i = i0 + row;
    float part_sum = 0.f;
#pragma unroll 4
    for (int c = lane % 4; c < KP; c += 4)
      part_sum = fmaf(to_f32(d_o_warp[row * kLd + c]), to_f32(o[(warp * 16 + row) * kLd + c]), part_sum);
    delta[half] = quad_sum(part_sum);
    const i64 at = part.head * p.n + part.start + i;
    lse2[half] = i < part.len ? p.lse[at] * kLog2e : 0.f;
    if (lane % 4 == 0 && i < part.len && c0 == 0) p.delta[at] = delta[half];
  }

  const u32 drop_stride = p.h * ((p.t + 7) / 8);  // Philox blocks between consecutive rows
  const u64 drop_row = (part.start + i0) * drop_stride + (u64)part.head * ((p.t + 7) / 8);
  const u32 step = *p.step;
  const float scale2 = p.scale * kLog2e;  // exp(scale*s) = exp2(scale2*s)
  float dq[ND][4];
  acc_zero(dq);

  const int seen = p.causal ? min(part.len, part.first + kRows) : part.len;
  const int tiles = (seen + kStep - 1) / kStep;
  for (int tile = 0; tile < tiles; tile++) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is visible, and the previous one (or o) is no longer read
    if (tile + 1 < tiles) load_keys(tile + 1);
    const int j0 = tile * kStep;
    // Warps past the end or above the diagonal only help with loading.
    if (i0 >= part.len || (p.causal && j0 > i0 + 15)) continue;
    const T *k = stages + tile % 2 * 2 * kStep * kLd, *v = k + kStep * kLd;

    float s[NB][4], ds[NB][4];
    acc_zero(s), acc_zero(ds);
    gemm_nt<KP>(s, q_warp, kLd, k, kLd);
    gemm_nt<KP>(ds, d_o_warp, kLd, v, kLd);
    if (p.drop.threshold) {
      const u32 keep = keep_by_query<NB>(p.drop, step, drop_row + j0 / 8, drop_stride);
#pragma unroll
      for (int nb = 0; nb < NB; nb++)
#pragma unroll
        for (int i = 0; i < 4; i++) ds[nb][i] = kept_by_query<NB>(keep, nb, i) ? ds[nb][i] * p.drop.scale : 0.f;
    }
    // Masked keys must be zeroed here: their k is zero, but exp(0 - lse) may overflow.
    const bool edge = j0 + kStep > part.len || (p.causal && j0 + kStep > i0);
#pragma unroll
    for (int nb = 0; nb < NB; nb++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int j = j0 + acc_col(lane, nb, i);
        const float prob = exp2_fast(fmaf(s[nb][i], scale2, -lse2[i / 2]));
        const bool hidden = edge && (j >= part.len || (p.causal && j > i0 + acc_row(lane, i)));
        ds[nb][i] = hidden ? 0.f : prob * (ds[nb][i] - delta[i / 2]);
      }
    gemm_rn<kStep>(dq, ds, k + c0, kLd);
  }

  if (i0 >= part.len) return;
  T* out = (T*)p.dqkv + (part.start + i0) * stride + (i64)part.head * p.k + c0;
  store_acc(out, stride, part.len - i0, p.k - c0, dq, p.scale, p.scale, p.add);
}

// Shared memory: k, v (kRows, KP), two stages of q, do (kStep, KP), then two stages of lse, delta (kStep) f32: 55 KiB
// for bf16 and K 64, 68.5 KiB for K 128; 66.3 KiB for float and K 128.
template <class T, int KP>
__device__ __forceinline__ void attention_bwd_kv(const AttentionBwdParams& p) {
  using S = BwdTiles<T, KP>;
  constexpr int kRows = S::kRows, kStep = S::kStep, kThreads = S::kThreads, kLd = tile_ld<T>(KP);
  constexpr int NB = kStep / 8, kColumns = KP / S::kSplit, ND = kColumns / 8;
  DYN_SMEM(smem);
  const Part part = find_part(p.cu, p.h, p.t, kRows);
  if (part.first >= part.len) return;

  T *k = (T*)smem, *v = k + kRows * kLd, *stages = v + kRows * kLd;
  float* stats = (float*)(stages + 4 * kStep * kLd);
  const i64 d = (i64)p.h * p.k, stride = 3 * d;
  const T* qkv = (const T*)p.qkv + part.start * stride + (i64)part.head * p.k;
  const T* d_o = (const T*)p.d_o + part.start * d + (i64)part.head * p.k;
  const auto load_queries = [&](int tile) {
    T* q = stages + tile % 2 * 2 * kStep * kLd;
    const int i0 = tile * kStep;
    load_tile<kStep, KP, kThreads>(q, qkv + i0 * stride, stride, part.len - i0, p.k);
    load_tile<kStep, KP, kThreads>(q + kStep * kLd, d_o + i0 * d, d, part.len - i0, p.k);
    cp_async_commit();
  };
  // Each of 2*kStep threads loads one statistic of the tile's queries: lse in units of log2, then delta.
  // Rows past the end are zero: q = do = 0 gives p = 1 and ds = 0, which contributes nothing to dv and dk.
  static_assert(2 * kStep <= kThreads, "one float a thread");
  const auto load_stat = [&](int tile) {
    const int i = tile * kStep + (int)threadIdx.x % kStep;
    if ((int)threadIdx.x >= 2 * kStep || i >= part.len) return 0.f;
    const i64 at = part.head * p.n + part.start + i;
    return (int)threadIdx.x < kStep ? p.lse[at] * kLog2e : p.delta[at];
  };
  const auto store_stat = [&](int tile, float stat) {
    if ((int)threadIdx.x < 2 * kStep) stats[tile % 2 * 2 * kStep + threadIdx.x] = stat;
  };

  const int rows = part.len - part.first;
  const int begin = p.causal ? part.first / kStep : 0, end = (part.len + kStep - 1) / kStep;
  load_tile<kRows, KP, kThreads>(k, qkv + part.first * stride + d, stride, rows, p.k);
  load_tile<kRows, KP, kThreads>(v, qkv + part.first * stride + 2 * d, stride, rows, p.k);
  load_queries(begin);
  store_stat(begin, load_stat(begin));

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 / S::kSplit;
  const int c0 = threadIdx.x / 32 % S::kSplit * kColumns;  // first column of this warp's part of the gradient
  const int j0 = part.first + warp * 16;  // the warp's first key
  const u32 drop_stride = p.h * ((p.t + 7) / 8);  // Philox blocks between consecutive rows
  const u64 drop_key = part.start * drop_stride + (u64)part.head * ((p.t + 7) / 8) + j0 / 8;
  const u32 step = *p.step;
  const float scale2 = p.scale * kLog2e;  // exp(scale*s) = exp2(scale2*s)
  float dk[ND][4], dv[ND][4];
  acc_zero(dk), acc_zero(dv);

  for (int tile = begin; tile < end; tile++) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is visible, and the previous one, which the next load overwrites, is no longer read
    float next = 0.f;
    if (tile + 1 < end) load_queries(tile + 1), next = load_stat(tile + 1);
    const int i0 = tile * kStep;
    // Warps past the end, or with keys that no query of this tile attends to, only help with loading.
    if (j0 < part.len && !(p.causal && i0 + kStep <= j0)) {
      const T *q = stages + tile % 2 * 2 * kStep * kLd, *d_o_tile = q + kStep * kLd;
      const float *lse2 = stats + tile % 2 * 2 * kStep, *delta = lse2 + kStep;

      // s^T = k q^T and dp^T = v do^T: rows are keys, columns are queries.
      float prob[NB][4], ds[NB][4];
      acc_zero(prob), acc_zero(ds);
      gemm_nt<KP>(prob, k + warp * 16 * kLd, kLd, q, kLd);
      gemm_nt<KP>(ds, v + warp * 16 * kLd, kLd, d_o_tile, kLd);
      const bool dropping = p.drop.threshold != 0, edge = p.causal && i0 < j0 + 15;
      const float keep_scale = dropping ? p.drop.scale : 1.f;
      const u32 keep = dropping ? keep_by_key<NB>(p.drop, step, drop_key + (u64)i0 * drop_stride, drop_stride) : ~0u;
#pragma unroll
      for (int nb = 0; nb < NB; nb++) {
        // Statistics of the lane's two queries of this nb: lse2 in l, delta in e.
        const int column = acc_col(lane, nb, 0);
        const float2 l = *(const float2*)(lse2 + column), e = *(const float2*)(delta + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const bool kept = kept_by_key(keep, nb, i);
          const bool hidden = edge && j0 + acc_row(lane, i) > i0 + acc_col(lane, nb, i);
          const float x = hidden ? 0.f : exp2_fast(fmaf(prob[nb][i], scale2, -(i % 2 ? l.y : l.x)));
          ds[nb][i] = x * ((kept ? ds[nb][i] * keep_scale : 0.f) - (i % 2 ? e.y : e.x));
          prob[nb][i] = kept ? x : 0.f;
        }
      }
      // The accumulator rows are the warp's own keys, so no exchange between warps is needed.
      gemm_rn<kStep>(dv, prob, d_o_tile + c0, kLd);
      gemm_rn<kStep>(dk, ds, q + c0, kLd);
    }
    // Loaded before the products and stored after them, to hide the memory latency.
    if (tile + 1 < end) store_stat(tile + 1, next);
  }

  if (j0 >= part.len) return;
  const float keep_scale = p.drop.threshold ? p.drop.scale : 1.f;
  T* out = (T*)p.dqkv + (part.start + j0) * stride + d + (i64)part.head * p.k + c0;
  store_acc(out, stride, part.len - j0, p.k - c0, dk, p.scale, p.scale, p.add);
  store_acc(out + d, stride, part.len - j0, p.k - c0, dv, keep_scale, keep_scale, p.add);
}

KERNEL(attention_bwd_q_k16_bf16, AttentionBwdParams, 128) { attention_bwd_q<bf16, 16>(p); }
KERNEL(attention_bwd_q_k32_bf16, AttentionBwdParams, 128) { attention_bwd_q<bf16, 32>(p); }
KERNEL(attention_bwd_q_k128_bf16, AttentionBwdParams, 128) { attention_bwd_q<bf16, 128>(p); }
KERNEL(attention_bwd_kv_k16_bf16, AttentionBwdParams, 128) { attention_bwd_kv<bf16, 16>(p); }
KERNEL(attention_bwd_kv_k32_bf16, AttentionBwdParams, 128) { attention_bwd_kv<bf16, 32>(p); }

// Launch bounds: by default the compiler targets three blocks of four warps per multiprocessor and spills registers.
KERNEL(attention_bwd_q_k64_bf16, AttentionBwdParams, 128, 2) { attention_bwd_q<bf16, 64>(p); }
KERNEL(attention_bwd_kv_k64_bf16, AttentionBwdParams, 128, 2) { attention_bwd_kv<bf16, 64>(p); }
KERNEL(attention_bwd_kv_k128_bf16, AttentionBwdParams, 128, 2) { attention_bwd_kv<bf16, 128>(p); }
KERNEL(attention_bwd_q_k16_f32, AttentionBwdParams, 128, 2) { attention_bwd_q<float, 16>(p); }
KERNEL(attention_bwd_q_k32_f32, AttentionBwdParams, 128, 2) { attention_bwd_q<float, 32>(p); }
KERNEL(attention_bwd_q_k128_f32, AttentionBwdParams, 128, 2) { attention_bwd_q<float, 128>(p); }
KERNEL(attention_bwd_kv_k16_f32, AttentionBwdParams, 128, 2) { attention_bwd_kv<float, 16>(p); }
KERNEL(attention_bwd_kv_k32_f32, AttentionBwdParams, 128, 2) { attention_bwd_kv<float, 32>(p); }
KERNEL(attention_bwd_kv_k128_f32, AttentionBwdParams, 128, 2) { attention_bwd_kv<float, 128>(p); }

KERNEL(attention_bwd_q_k64_f32, AttentionBwdParams, 64, 4) { attention_bwd_q<float, 64>(p); }
KERNEL(attention_bwd_kv_k64_f32, AttentionBwdParams, 64, 4) { attention_bwd_kv<float, 64>(p); }
