/*
row_adamw: AdamW for tables of which a step uses few rows, with the results of AdamW on all rows.
catch_up_rows:  rows in `key` take steps last+1 ..= step-1 with gradient 0;   last = step-1
adamw_rows:     rows in `key` take step `step` with the clipped gradients in g;  last = step
p,m,v (V,D) f32   last (V) u32   key (N) u32 sorted: the first position of a run of equal keys owns the row; keys >= V
are skipped
history (R,4) f32, step t in row t mod R: [lr, c1, c2, sum of ln(1 - lr*wd) so far]   g (N,D) f32   ok (1): 0 disables
The first 32 missed steps are applied one by one. For the k others, with r = b1/sqrt(b2),
  m b1^k,  v b2^k,  p exp(decay_end - decay_start) - sum over stretches of  weight m / (sqrt(v c2) + eps b2^(-i/2))
A stretch is steps [a, a+l) with weight = (r^a + ... + r^(a+l-1)) * (lr c1 exp(decay_end - decay)). The second factor
and c2 are taken at the centre of mass i of the powers, with linear interpolation between steps. l is 8, 12, 18, ...;
see src/ops/row_adamw.rs for the derivation.
Updates: p m v last.   Writes: shadow (V,D) bf16, the copy of p that tensor cores read (null if activations are f32).
Work: `lanes` threads per position (a power of two, at most 32), eight weights per thread and iteration. Most positions
      own no row and exit after reading two keys. With `all`, a position is a row.
Limits: a row is at most R steps behind; b1^2 < b2; N, V < 2^32; V*D may exceed it.
Numerics: f32, IEEE division and root; powers by exp2f.
Cost: reads and writes p, m, v of the affected rows, 24 bytes per weight and 2 of shadow. Memory bound; a row far behind
      takes about 40 roots and divisions per weight.
*/
#include "common/rows.cuh"

struct CatchUpRowsParams {
  float* p;              // (V,D)
  float* m;              // (V,D)
  float* v;              // (V,D)
  void* shadow;          // (V,D) bf16, may be null
  u32* last;             // (V)
  const u32* key;        // (N)
  const float* history;  // (R,4)
  const float* ok;       // (1)
  const u32* step;       // (1)
  u32 n;                 // number of positions; with `all`, V
  u32 rows;              // V
  u32 ring;              // R
  int d;
  int lanes;
  int all;
  float beta1;
  float beta2;
  float eps;
  float weight_decay;
  float log_beta1;  // base 2
  float log_beta2;
  float log_ratio;  // of r
  float odds;       // r / (1-r)
};

struct AdamwRowsParams {
  float* p;            // (V,D)
  float* m;            // (V,D)
  float* v;            // (V,D)
  void* shadow;        // (V,D) bf16, may be null
  u32* last;           // (V)
  const float* g;      // (N,D)
  const u32* key;      // (N)
  const float* norm;   // (1)
  const float* ok;     // (1)
  const float* hyper;  // (3)
  const u32* step;     // (1)
  u32 n;
  u32 rows;
  int d;
  int lanes;
  float beta1;
  float beta2;
  float eps;
  float weight_decay;
  float max_norm;
};

constexpr u32 kExactSteps = 32, kFirstStretch = 8;

// The position of this thread's group of lanes.
__device__ __forceinline__ i64 place_of(int lanes) {
  return (i64)blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;
}

// True if position i is the first of a run of an id below `rows`.
__device__ __forceinline__ bool owns_row(const u32* key, i64 i, u32 n, u32 rows) {
  return i < n && key[i] < rows && (i == 0 || key[i - 1] != key[i]);
}

// Eight weights of a row and their moments, from column c on.
struct EightWeights {
  float w[8], m[8], v[8];

  template <class P>
  __device__ __forceinline__ void load(const P& p, i64 row, int c, bool vec) {
    load_row(w, p.p + row, c, p.d, vec);
    load_row(m, p.m + row, c, p.d, vec);
    load_row(v, p.v + row, c, p.d, vec);
  }
  template <class P>
  __device__ __forceinline__ void store(const P& p, i64 row, int c, bool vec) const {
    store_row(p.p + row, w, c, p.d, vec);
    store_row(p.m + row, m, c, p.d, vec);
    store_row(p.v + row, v, c, p.d, vec);
    if (p.shadow) store_row((bf16*)p.shadow + row, w, c, p.d, vec);
  }
};

template <class P>
__device__ __forceinline__ bool table_aligned(const P& p) {
  return rows_aligned(p.p, p.d) && aligned16(p.m) && aligned16(p.v) && aligned16(p.shadow);
}

KERNEL(catch_up_rows, CatchUpRowsParams, 256) {
  const i64 i = place_of(p.lanes);
  const u32 step = *p.step;
  const bool mine = *p.ok != 0.f && (p.all ? i < p.n : owns_row(p.key, i, p.n, p.rows));
  const u32 row = mine ? p.all ? (u32)i : p.key[i] : 0;
  const u32 last = mine ? p.last[row] : step;
  __syncwarp();  // all lanes of the row have read `last` before one of them writes it
  if (last + 1 >= step) return;
  const int lane = threadIdx.x % p.lanes;
  if (lane == 0) p.last[row] = step - 1;
  const u32 missed = step - 1 - last, exact = missed < kExactSteps ? missed : kExactSteps, rest = missed - exact;
  const u32 start = last + exact;
  const bool vec = table_aligned(p);
  const i64 from = (i64)row * p.d;
  for (int c = lane * 8; c < p.d; c += p.lanes * 8) {
    EightWeights x;
    x.load(p, from, c, vec);
    u32 slot = last % p.ring;
#pragma unroll 1
    for (u32 t = 0; t < exact; t++) {
      slot = slot + 1 == p.ring ? 0 : slot + 1;
      const float* const h = p.history + (i64)slot * 4;
      const float lr = h[0], c1 = h[1], c2 = h[2];
#pragma unroll
      for (int k = 0; k < 8; k++) {
        x.m[k] *= p.beta1;
        x.v[k] *= p.beta2;
        x.w[k] -= lr * (x.m[k] * c1 / (sqrtf(x.v[k] * c2) + p.eps) + p.weight_decay * x.w[k]);
      }
    }
    if (rest) {
      const float end = p.history[(i64)(slot + rest % p.ring) % p.ring * 4 + 3];
      const float decay = expf(end - p.history[(i64)slot * 4 + 3]);
#pragma unroll
      for (int k = 0; k < 8; k++) x.w[k] *= decay;
      // Steps [a, a + len) after `start`; powers of r below 2^-30 are neglected.
      u32 len = kFirstStretch;
#pragma unroll 1
      for (u32 a = 1; a <= rest && (float)(a - 1) * p.log_ratio > -30.f; a += len, len += len / 2) {
        const u32 l = len < rest - a + 1 ? len : rest - a + 1;
        const float power = exp2f((float)l * p.log_ratio), left = 1.f - power;
        const float sum = exp2f((float)a * p.log_ratio) * left * (p.odds + 1.f);
        const float offset = fminf(fmaxf(p.odds - (float)l * power / left, 0.f), (float)(l - 1));  // centre minus a
        const u32 whole = (u32)offset, low = a + whole, high = low + 1 < rest ? low + 1 : rest;
        const float part = offset - (float)whole;
        const float* const h0 = p.history + (i64)((start + low) % p.ring) * 4;
        const float* const h1 = p.history + (i64)((start + high) % p.ring) * 4;
        const float rate0 = h0[0] * h0[1] * expf(end - h0[3]), rate1 = h1[0] * h1[1] * expf(end - h1[3]);
        const float weight = sum * (rate0 + part * (rate1 - rate0)), c2 = h0[2] + part * (h1[2] - h0[2]);
        const float eps = p.eps * exp2f(-0.5f * ((float)a + offset) * p.log_beta2);
#pragma unroll
        for (int k = 0; k < 8; k++) x.w[k] -= weight * x.m[k] / (sqrtf(x.v[k] * c2) + eps);
      }
      const float b1 = exp2f((float)rest * p.log_beta1), b2 = exp2f((float)rest * p.log_beta2);
#pragma unroll
      for (int k = 0; k < 8; k++) x.m[k] *= b1, x.v[k] *= b2;
    }
    x.store(p, from, c, vec);
  }
}

KERNEL(adamw_rows, AdamwRowsParams, 256) {
  const i64 i = place_of(p.lanes);
  if (*p.ok == 0.f || !owns_row(p.key, i, p.n, p.rows)) return;
  const float lr = p.hyper[0], c1 = p.hyper[1], c2 = p.hyper[2];
  const float clip = p.max_norm > 0.f ? fminf(p.max_norm / (*p.norm + 1e-6f), 1.f) : 1.f;
  const int lane = threadIdx.x % p.lanes;
  const u32 row = p.key[i];
  if (lane == 0) p.last[row] = *p.step;
  const bool vec = table_aligned(p) && aligned16(p.g);
  const i64 from = (i64)row * p.d;
  for (int c = lane * 8; c < p.d; c += p.lanes * 8) {
    EightWeights x;
    float g[8];
    x.load(p, from, c, vec);
    load_row(g, p.g + i * p.d, c, p.d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float clipped = g[k] * clip;
      x.m[k] = p.beta1 * x.m[k] + (1.f - p.beta1) * clipped;
      x.v[k] = p.beta2 * x.v[k] + (1.f - p.beta2) * clipped * clipped;
      x.w[k] -= lr * (x.m[k] * c1 / (sqrtf(x.v[k] * c2) + p.eps) + p.weight_decay * x.w[k]);
    }
    x.store(p, from, c, vec);
  }
}
