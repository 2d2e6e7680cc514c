/*
negative_loss: losses of each scored row over its own candidates, the target first: binary cross-entropy (generalised by
beta), BPR, sampled softmax. Formulas: src/ops/negative_loss.rs.
fwd: z_mj = <h_m, table[id_mj]> + bias[id_mj], for negatives (j > 0) - (log_q[id_mj] - free[m]),  loss_m of z_m
     h (M,D) act   table (V,D) act   bias, log_q (V), free (M) f32   id (M,1+S)   z (M,1+S), loss (M) f32
bwd: g_mj = dloss_m dloss/dz_mj,  dh_m = sum_j g_mj table[id_mj]          g (M,1+S) f32   dh (M,D) act
Writes: loss z | g, dh (overwritten or accumulated, per Dst).   Saves for bwd: z.
Ids >= V are not items: z = g = 0. Rows without a target have loss 0.
Work: bound by the gather of M*(1+S) table rows, without reuse. Each warp processes a scored row. Each group of `lanes`
      lanes processes a candidate, eight elements per thread and iteration, so that a table row is one coalesced read of
      16-byte (f32: 32) pieces. Each group has four candidates in flight. Narrow rows share the warp: at D = 64, four
      groups have sixteen reads in flight. After the logits of the row are in z, lanes stride over them for the loss.
      The backward pass computes g from z alone and gathers each row once.
Limits: any M, D, S, V.   Numerics: f32; ln(1 + e^x) as max(x,0) + log1p(e^-|x|): no overflow, no cancellation. An
          unknown `contrast` gives NaN.
Cost: reads M*(1+S)*D elements, writes 4 bytes per candidate. Memory bound, from L2 if the table fits.
No atomics: every sum has one owner and a fixed order.
*/
#include "common/rows.cuh"

struct NegativeLossFwdParams {
  float* loss;         // (M)
  float* z;            // (M,1+S)
  const void* h;       // (M,D) act
  const void* table;   // (V,D) act
  const float* bias;   // (V)
  const float* log_q;  // (V), or null: no correction
  const float* free;   // (M), used if log_q is not null
  const u32* id;       // (M,1+S)
  int m;
  int d;
  int s;
  u32 v;
  int contrast;  // 0: bce, 1: bpr, 2: softmax
  float beta;    // for bce
  int lanes;     // lanes that share a table row: a power of two, at most 32
};

struct NegativeLossBwdParams {
  float* g;            // (M,1+S)
  void* dh;            // (M,D) act, or null
  const float* dloss;  // (M)
  const float* z;      // (M,1+S)
  const void* table;   // (V,D) act
  const u32* id;       // (M,1+S)
  int m;
  int d;
  int s;
  u32 v;
  int contrast;  // as above
  float beta;
  int lanes;
  int add;  // 1: accumulate into dh
};

constexpr int kBce = 0, kBpr = 1, kSoftmax = 2;
constexpr int kFlight = 4;  // candidates in flight per group

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// Row sums common to the loss and its gradient; the same in all lanes of the warp.
struct RowSums {
  float n;       // number of valid negatives
  float z0;      // logit of the target
  float max;     // softmax: maximum of all logits
  float target;  // softmax: e^(z_0 - max)
  float rest;    // softmax: sum of e^(z - max) over the negatives; otherwise sum of softplus

  template <class Params>
  __device__ __forceinline__ RowSums(const Params& p, const float* z, const u32* id, bool with_softplus) {
    const int lane = threadIdx.x % 32, width = 1 + p.s;
    const bool softmax = p.contrast == kSoftmax;
    n = rest = 0.f, z0 = max = z[0];
    if (softmax)
#pragma unroll 4
      for (int j = 1 + lane; j < width; j += 32) max = fmaxf(max, id[j] < p.v ? z[j] : max);
    max = warp_max(max);
#pragma unroll 2
    for (int j = 1 + lane; j < width; j += 32) {
      if (id[j] >= p.v) continue;
      n += 1.f;
      if (softmax) rest += expf(z[j] - max);
      else if (with_softplus) rest += softplus(p.contrast == kBpr ? z[j] - z0 : z[j]);
    }
    n = warp_sum(n), rest = warp_sum(rest);
    target = expf(z0 - max);
  }
};

template <class T>
__device__ __forceinline__ void negative_loss_fwd(const NegativeLossFwdParams& p) {
  const int lane = threadIdx.x % 32, member = lane % p.lanes, group = lane / p.lanes, groups = 32 / p.lanes;
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.m) return;
  const int width = 1 + p.s;
  const u32* id = p.id + row * width;
  const T* h = (const T*)p.h + row * p.d;
  float* z = p.z + row * width;
  const bool vec = rows_aligned(p.table, p.d) && aligned16(p.h);

  float own[8];  // the first columns of h stay in registers; only rows wider than lanes*8 need more
  load_row(own, h, member * 8, p.d, vec);
  for (int start = 0; start < width; start += groups * kFlight) {
    u32 item[kFlight];
    float dot[kFlight];
#pragma unroll
    for (int k = 0; k < kFlight; k++) {
      const int j = start + k * groups + group;
      item[k] = j < width ? id[j] : p.v;
      dot[k] = 0.f;
    }
    for (int c = member * 8; c < p.d; c += p.lanes * 8) {
      float x[kFlight][8];
#pragma unroll
      for (int k = 0; k < kFlight; k++) {
        if (item[k] < p.v) load_row(x[k], (const T*)p.table + (i64)item[k] * p.d, c, p.d, vec);
        else
#pragma unroll
          for (int e = 0; e < 8; e++) x[k][e] = 0.f;
      }
      if (c >= p.lanes * 8) load_row(own, h, c, p.d, vec);
#pragma unroll
      for (int k = 0; k < kFlight; k++)
#pragma unroll
        for (int e = 0; e < 8; e++) dot[k] = fmaf(own[e], x[k][e], dot[k]);
    }
    if (p.d > p.lanes * 8) load_row(own, h, member * 8, p.d, vec);
#pragma unroll
    for (int k = 0; k < kFlight; k++) {
      for (int step = p.lanes / 2; step; step /= 2) dot[k] += __shfl_xor_sync(kAllLanes, dot[k], step);
      const int j = start + k * groups + group;
      if (member != 0 || j >= width) continue;
      const bool there = item[k] < p.v;
      const float log_q = there && p.log_q && j > 0 ? p.log_q[item[k]] - p.free[row] : 0.f;
      z[j] = there ? dot[k] + p.bias[item[k]] - log_q : 0.f;
    }
  }

  __syncwarp();  // the row's logits are visible to all its lanes
  const RowSums sums(p, z, id, true);
  if (lane != 0) return;
  float loss;
  if (p.contrast == kBce) loss = (p.beta * softplus(-sums.z0) + sums.rest) / (1.f + sums.n);
  else if (p.contrast == kBpr) loss = sums.n > 0.f ? sums.rest / sums.n : 0.f;
  else if (p.contrast == kSoftmax)  // accurate for a dominant target
    loss = sums.max - sums.z0 + log1pf(sums.rest + (sums.target - 1.f));
  else loss = unknown_variant();
  p.loss[row] = id[0] < p.v ? loss : 0.f;
}

template <class T>
__device__ __forceinline__ void negative_loss_bwd(const NegativeLossBwdParams& p) {
  const int lane = threadIdx.x % 32, member = lane % p.lanes, group = lane / p.lanes, groups = 32 / p.lanes;
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.m) return;
  const int width = 1 + p.s;
  const u32* id = p.id + row * width;
  const float* z = p.z + row * width;
  float* g = p.g + row * width;

  // The slopes of the negatives, then that of the target.
  const bool scored = id[0] < p.v;
  const float dloss = scored ? p.dloss[row] : 0.f;
  const RowSums sums(p, z, id, false);
  const bool softmax = p.contrast == kSoftmax;
  float scale;
  if (p.contrast == kBce) scale = 1.f / (1.f + sums.n);
  else if (p.contrast == kBpr) scale = 1.f / fmaxf(sums.n, 1.f);
  else if (softmax) scale = 1.f / (sums.rest + sums.target);
  else scale = unknown_variant();
  float total = 0.f;
#pragma unroll 2
  for (int j = 1 + lane; j < width; j += 32) {
    float slope = 0.f;
    if (id[j] < p.v && scored)
      slope = scale * (softmax ? expf(z[j] - sums.max) : sigmoid(p.contrast == kBpr ? z[j] - sums.z0 : z[j]));
    total += slope;
    g[j] = dloss * slope;
  }
  total = warp_sum(total);
  if (lane == 0) {
    // The slope of the target is minus the sum of the negatives' slopes; for softmax this is accurate where 1 - p
    // cancels.
    const float slope = p.contrast == kBce ? -p.beta * scale * sigmoid(-sums.z0) : -total;
    g[0] = scored ? dloss * slope : 0.f;
  }
  __syncwarp();  // g is visible to all lanes
  if (!p.dh) return;

  T* dh = (T*)p.dh + row * p.d;
  const bool vec = rows_aligned(p.table, p.d) && aligned16(p.dh);
  for (int base = 0; base < p.d; base += p.lanes * 8) {
    const int c = base + member * 8;
    float sum[8] = {};
    for (int start = group; start < width; start += groups * kFlight) {
      float x[kFlight][8], weight[kFlight];
#pragma unroll
      for (int k = 0; k < kFlight; k++) {
        const int j = start + k * groups;
        const u32 item = j < width ? id[j] : p.v;
        weight[k] = item < p.v ? g[j] : 0.f;
        if (item < p.v) load_row(x[k], (const T*)p.table + (i64)item * p.d, c, p.d, vec);
        else
#pragma unroll
          for (int e = 0; e < 8; e++) x[k][e] = 0.f;
      }
#pragma unroll
      for (int k = 0; k < kFlight; k++)
#pragma unroll
        for (int e = 0; e < 8; e++) sum[e] = fmaf(weight[k], x[k][e], sum[e]);
    }
    // Sum over the groups.
#pragma unroll
    for (int e = 0; e < 8; e++)
      for (int step = p.lanes; step < 32; step *= 2) sum[e] += __shfl_xor_sync(kAllLanes, sum[e], step);
    if (group != 0) continue;
    if (p.add) {
      float old[8];
      load_row(old, dh, c, p.d, vec);
#pragma unroll
      for (int e = 0; e < 8; e++) sum[e] += old[e];
    }
    store_row(dh, sum, c, p.d, vec);
  }
}

// Launch bounds with a minimum number of blocks: by default the compiler targets more blocks and spills.
KERNEL(negative_loss_fwd_bf16, NegativeLossFwdParams, 256, 2) { negative_loss_fwd<bf16>(p); }
KERNEL(negative_loss_fwd_f32, NegativeLossFwdParams, 256, 2) { negative_loss_fwd<float>(p); }
KERNEL(negative_loss_bwd_bf16, NegativeLossBwdParams, 256, 3) { negative_loss_bwd<bf16>(p); }
KERNEL(negative_loss_bwd_f32, NegativeLossBwdParams, 256, 3) { negative_loss_bwd<float>(p); }
