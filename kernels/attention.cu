/*
attention: fused multi-head self-attention over packed sequences (Vaswani et al. 2017). Probabilities are never stored.
fwd: for each sequence b, head h:  s = scale * q k^T,  p = softmax_row(s),  o = drop(p) v
     qkv (N,3,H,K) act   o (N,H,K) act   lse (H,N) f32 = log sum exp of each row of s   scale = 1/sqrt(K)
Writes: o lse.   Saves for bwd: lse (and o, which the caller keeps in any case).
Work: each block computes 64 queries of one head of one sequence, 16 per warp. It iterates over the keys in
double-buffered tiles of 64 (32 for K > 64). Online softmax: a running maximum and sum per row rescale the partial
output (Milakov and Gimelshein 2018, Dao et al. 2022). Tiles above the causal diagonal or past the end of the sequence
are skipped.
Launch: grid (B * H * ceil(t / 64)), block (128); see find_part.
Limits: K 1..128, any lengths.   Numerics: scores, softmax and sums in f32; p is rounded to act for the second product.
Cost: reads qkv once per tile of queries (from L2 after the first read), writes o.
      4*K flop and one exp2 per pair (i, j).
Dropout: element ((row*H + h)*t8 + j) of its site, t8 = t rounded up to 8: eight adjacent keys share a Philox block.
*/
#include "common/attention.cuh"

struct AttentionFwdParams {
  void* o;           // (N,H,K) act
  float* lse;        // (H,N)
  const void* qkv;   // (N,3,H,K) act
  const u32* cu;     // (B+1) cumulative sequence lengths
  const u32* step;   // (1)
  i64 n;             // total rows of all sequences
  int h;             // heads
  int k;             // head dimension
  int t;             // maximum sequence length
  int causal;        // 1: position i attends to positions <= i
  float scale;       // 1/sqrt(K)
  Drop drop;
};

// Shared memory: q (kRows, KP), then two stages of k (kStep, KP) and v (kStep, KP), all with leading dimension
// tile_ld<T>(KP): 45 KiB for bf16 and K 64, 51 KiB for K 128; 99 KiB, the maximum, for float and K 128.
template <class T, int KP>
__device__ __forceinline__ void attention_fwd(const AttentionFwdParams& p) {
  using S = FwdTiles<T, KP>;
  constexpr int kStep = S::kStep, kThreads = S::kThreads, kLd = tile_ld<T>(KP), NB = kStep / 8, ND = KP / 8;
  DYN_SMEM(smem);
  const Part part = find_part(p.cu, p.h, p.t, S::kRows);
  if (part.first >= part.len) return;

  T* q = (T*)smem;
  T* stages = q + S::kRows * kLd;
  const i64 d = (i64)p.h * p.k, stride = 3 * d;
  const T* qkv = (const T*)p.qkv + part.start * stride + (i64)part.head * p.k;
  const auto load_keys = [&](int tile) {
    T* k = stages + tile % 2 * 2 * kStep * kLd;
    const int j0 = tile * kStep;
    load_tile<kStep, KP, kThreads>(k, qkv + j0 * stride + d, stride, part.len - j0, p.k);
    load_tile<kStep, KP, kThreads>(k + kStep * kLd, qkv + j0 * stride + 2 * d, stride, part.len - j0, p.k);
    cp_async_commit();
  };
  load_tile<S::kRows, KP, kThreads>(q, qkv + part.first * stride, stride, part.len - part.first, p.k);
  load_keys(0);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int i0 = part.first + warp * 16;  // the warp's first query
  const u32 drop_stride = p.h * ((p.t + 7) / 8);  // Philox blocks between consecutive rows
  const u64 drop_row = (part.start + i0) * drop_stride + (u64)part.head * ((p.t + 7) / 8);
  const u32 step = *p.step;
  const float scale2 = p.scale * kLog2e;  // exp(scale*s) = exp2(scale2*s)
  // Per row (two rows per lane): the running maximum times scale2, and this lane's part of the row sum of
  // exp2(scale2*s - top).
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  float o[ND][4];
  acc_zero(o);

  const int seen = p.causal ? min(part.len, part.first + S::kRows) : part.len;
  const int tiles = (seen + kStep - 1) / kStep;
  for (int tile = 0; tile < tiles; tile++) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is visible, and the previous one, which the next load overwrites, is no longer read
    if (tile + 1 < tiles) load_keys(tile + 1);
    const int j0 = tile * kStep;
    if (i0 >= part.len) continue;  // warps past the end only help with loading
    const T *k = stages + tile % 2 * 2 * kStep * kLd, *v = k + kStep * kLd;

    float s[NB][4];
    acc_zero(s);
    gemm_nt<KP>(s, q + warp * 16 * kLd, kLd, k, kLd);
    if (j0 + kStep > part.len || (p.causal && j0 + kStep > i0)) {
#pragma unroll
      for (int nb = 0; nb < NB; nb++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int j = j0 + acc_col(lane, nb, i);
          if (j >= part.len || (p.causal && j > i0 + acc_row(lane, i))) s[nb][i] = -INFINITY;
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
      float high = -INFINITY;
#pragma unroll
      for (int nb = 0; nb < NB; nb++) high = fmaxf(high, fmaxf(s[nb][2 * half], s[nb][2 * half + 1]));
      // Every row attends to key 0, so `high` is finite from the first tile on: -inf - (-inf) does not occur.
      high = fmaxf(top[half], quad_max(high) * scale2);
      const float shrink = exp2_fast(top[half] - high);
      top[half] = high;
      sum[half] *= shrink;
#pragma unroll
      for (int nb = 0; nb < NB; nb++) {
        float &a = s[nb][2 * half], &b = s[nb][2 * half + 1];
        a = exp2_fast(fmaf(a, scale2, -high)), b = exp2_fast(fmaf(b, scale2, -high));
        sum[half] += a + b;
      }
#pragma unroll
      for (int nb = 0; nb < ND; nb++) o[nb][2 * half] *= shrink, o[nb][2 * half + 1] *= shrink;
    }

    // Dropout is applied after the sum: it masks the weights of v and does not renormalise them.
    if (p.drop.threshold) {
      const u32 keep = keep_by_query<NB>(p.drop, step, drop_row + j0 / 8, drop_stride);
#pragma unroll
      for (int nb = 0; nb < NB; nb++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (!kept_by_query<NB>(keep, nb, i)) s[nb][i] = 0.f;
    }
    gemm_rn<kStep>(o, s, v, kLd);
  }

  if (i0 >= part.len) return;
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float total = quad_sum(sum[half]);
    const int i = i0 + acc_row(lane, 2 * half);
    factor[half] = (p.drop.threshold ? p.drop.scale : 1.f) / total;
    if (lane % 4 == 0 && i < part.len) p.lse[part.head * p.n + part.start + i] = (top[half] + log2f(total)) * kLn2;
  }
  T* out = (T*)p.o + (part.start + i0) * d + (i64)part.head * p.k;
  store_acc(out, d, part.len - i0, p.k, o, factor[0], factor[1], false);
}

KERNEL(attention_fwd_k16_bf16, AttentionFwdParams, 128) { attention_fwd<bf16, 16>(p); }
KERNEL(attention_fwd_k32_bf16, AttentionFwdParams, 128) { attention_fwd<bf16, 32>(p); }
KERNEL(attention_fwd_k64_bf16, AttentionFwdParams, 128) { attention_fwd<bf16, 64>(p); }
KERNEL(attention_fwd_k128_bf16, AttentionFwdParams, 128) { attention_fwd<bf16, 128>(p); }

// Launch bounds: by default the compiler targets three blocks per multiprocessor and may spill a few registers.
KERNEL(attention_fwd_k16_f32, AttentionFwdParams, 128, 2) { attention_fwd<float, 16>(p); }
KERNEL(attention_fwd_k32_f32, AttentionFwdParams, 128, 2) { attention_fwd<float, 32>(p); }
KERNEL(attention_fwd_k64_f32, AttentionFwdParams, 128, 2) { attention_fwd<float, 64>(p); }
KERNEL(attention_fwd_k128_f32, AttentionFwdParams, 128, 2) { attention_fwd<float, 128>(p); }
