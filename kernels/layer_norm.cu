/*
layer_norm: normalises each row to mean 0 and variance 1, then applies scale and shift.
fwd: y = (x - mean)*rstd*gamma + beta          x,y (N,D) act   gamma,beta (D) f32   mean,rstd (N) f32
bwd: dx = rstd*(g - mean_D(g) - xh*mean_D(g*xh)),  g = dy*gamma, xh = (x-mean)*rstd
     dgamma = sum_N dy*xh,  dbeta = sum_N dy
Writes: y mean rstd | dx dgamma dbeta (overwritten or accumulated, per Dst).   Saves for bwd: mean rstd.
Work: LANES lanes share a row and keep it in registers, VECS*8 elements per lane: 8 lanes for D <= 64, 16 for 128, 32
      for 256, 32 with two vectors for 512 and with four for 1024. Longer rows: one warp per row, which reads the row
      once per pass (from L1 or L2 after the first pass).
      bwd: a fixed number of blocks iterates over the rows. Each lane accumulates dgamma and dbeta of its columns in
      registers. Each block writes one partial row, and `finish` adds them in order: deterministic, no atomics.
Limits: any N, any D; N*D may exceed 2^31.   Numerics: f32 arithmetic, variance in a second pass over the registers.
Cost: fwd reads and writes N*D elements; bwd reads 2*N*D (3 when accumulating) and writes N*D. Memory bound.
*/
#include "common/rows.cuh"

struct LayerNormFwdParams {
  void* y;             // (N,D) act
  float* mean;         // (N)
  float* rstd;         // (N)
  const void* x;       // (N,D) act
  const float* gamma;  // (D)
  const float* beta;   // (D)
  i64 n;
  int d;
  float eps;
};

struct LayerNormBwdParams {
  void* dx;            // (N,D) act, null: not required
  float* partial;      // (2,parts,D): of dgamma, then of dbeta; null: not required
  const void* dy;      // (N,D) act
  const void* x;       // (N,D) act
  const float* gamma;  // (D)
  const float* mean;   // (N)
  const float* rstd;   // (N)
  i64 n;
  int d;
  int parts;  // number of partial rows: blocks of the row kernels, gridDim.y of `columns`
  int add_dx;
};

struct LayerNormFinishParams {
  float* dgamma;         // (D), null: not required
  float* dbeta;          // (D), null: not required
  const float* partial;  // (2,parts,D)
  int parts;
  int d;
  int add_dgamma;
  int add_dbeta;
};

// LANES*VECS*8 >= D. Groups without a row take part in the shuffles with zeros.
template <class T, int LANES, int VECS>
__device__ __forceinline__ void layer_norm_fwd(const LayerNormFwdParams& p) {
  const int lane = threadIdx.x % LANES;
  const i64 row = (i64)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
  const bool inside = row < p.n;
  const int d = inside ? p.d : 0;
  const bool vec = rows_aligned(p.x, p.d) && aligned16(p.y) && aligned16(p.gamma) && aligned16(p.beta);
  const T* from = (const T*)p.x + (inside ? row * p.d : 0);
  float x[VECS][8], sum = 0.f, squares = 0.f;
#pragma unroll
  for (int v = 0; v < VECS; v++) {
    load_row(x[v], from, (v * LANES + lane) * 8, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) sum += x[v][k];
  }
  const float mean = group_sum<LANES>(sum) / p.d;
#pragma unroll
  for (int v = 0; v < VECS; v++)
#pragma unroll
    for (int k = 0; k < 8; k++) {
      // Zeros past the end of the row are excluded from the variance.
      const float centred = (v * LANES + lane) * 8 + k < d ? x[v][k] - mean : 0.f;
      squares += centred * centred;
    }
  const float rstd = 1.f / sqrtf(group_sum<LANES>(squares) / p.d + p.eps);
  if (!inside) return;
  if (lane == 0) p.mean[row] = mean, p.rstd[row] = rstd;
#pragma unroll
  for (int v = 0; v < VECS; v++) {
    const int c = (v * LANES + lane) * 8;
    float gamma[8], beta[8];
    load_row(gamma, p.gamma, c, d, vec);
    load_row(beta, p.beta, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[v][k] = (x[v][k] - mean) * rstd * gamma[k] + beta[k];
    store_row((T*)p.y + row * p.d, x[v], c, d, vec);
  }
}

// Rows that do not fit into registers: one warp per row, three passes.
template <class T>
__device__ __forceinline__ void layer_norm_fwd_long(const LayerNormFwdParams& p) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.n) return;
  const int d = p.d, first = threadIdx.x % 32 * 8;
  const bool vec = rows_aligned(p.x, d) && aligned16(p.y) && aligned16(p.gamma) && aligned16(p.beta);
  const T* from = (const T*)p.x + row * d;
  float x[8], sum = 0.f, squares = 0.f;
  for (int c = first; c < d; c += 256) {
    load_row(x, from, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) sum += x[k];
  }
  const float mean = warp_sum(sum) / d;
  for (int c = first; c < d; c += 256) {
    load_row(x, from, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float centred = c + k < d ? x[k] - mean : 0.f;
      squares += centred * centred;
    }
  }
  const float rstd = 1.f / sqrtf(warp_sum(squares) / d + p.eps);
  if (first == 0) p.mean[row] = mean, p.rstd[row] = rstd;
  for (int c = first; c < d; c += 256) {
    float gamma[8], beta[8];
    load_row(x, from, c, d, vec);
    load_row(gamma, p.gamma, c, d, vec);
    load_row(beta, p.beta, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = (x[k] - mean) * rstd * gamma[k] + beta[k];
    store_row((T*)p.y + row * d, x, c, d, vec);
  }
}

// dx of eight elements from the two row means.
template <class T>
__device__ __forceinline__ void layer_norm_dx(const LayerNormBwdParams& p, i64 row, int c, bool vec, float rstd,
                                              const float (&g)[8], const float (&xh)[8], float mean_g, float mean_gx) {
  T* to = (T*)p.dx + row * p.d;
  float dx[8] = {};
  if (p.add_dx) load_row(dx, to, c, p.d, vec);
#pragma unroll
  for (int k = 0; k < 8; k++) dx[k] += rstd * (g[k] - mean_g - xh[k] * mean_gx);
  store_row(to, dx, c, p.d, vec);
}

// Adds the column sums of a block's groups in order; sums[v][k] is column (v*LANES + lane)*8 + k.
template <int THREADS, int LANES, int VECS>
__device__ __forceinline__ void layer_norm_partial(float* partial, int d, const float (&sums)[VECS][8], float* shared) {
  constexpr int kWidth = LANES * VECS * 8;
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  __syncthreads();  // the other sums may still be read
#pragma unroll
  for (int v = 0; v < VECS; v++) store8(shared + group * kWidth + (v * LANES + lane) * 8, sums[v]);
  __syncthreads();
  for (int c = threadIdx.x; c < d; c += THREADS) {
    float sum = 0.f;
#pragma unroll 8
    for (int g = 0; g < THREADS / LANES; g++) sum += shared[g * kWidth + c];
    partial[c] = sum;
  }
}

template <class T, int THREADS, int LANES, int VECS>
__device__ __forceinline__ void layer_norm_bwd(const LayerNormBwdParams& p) {
  constexpr int kGroups = THREADS / LANES;
  STATIC_SMEM(float, shared, THREADS * VECS * 8);
  const int lane = threadIdx.x % LANES;
  const bool vec = rows_aligned(p.x, p.d) && aligned16(p.dy) && aligned16(p.dx) && aligned16(p.gamma);
  float dgamma[VECS][8] = {}, dbeta[VECS][8] = {}, gamma[8];
  if (VECS == 1) load_row(gamma, p.gamma, lane * 8, p.d, vec);
  for (i64 first = (i64)blockIdx.x * kGroups; first < p.n; first += (i64)gridDim.x * kGroups) {
    const i64 row = first + threadIdx.x / LANES;
    const bool inside = row < p.n;
    const i64 at = inside ? row : first;
    const int d = inside ? p.d : 0;  // a group without a row reads only zeros
    const float mean = p.mean[at], rstd = p.rstd[at];
    float g[VECS][8], xh[VECS][8], sum_g = 0.f, sum_gx = 0.f;
#pragma unroll
    for (int v = 0; v < VECS; v++) {
      load_row(xh[v], (const T*)p.x + at * p.d, (v * LANES + lane) * 8, d, vec);
      load_row(g[v], (const T*)p.dy + at * p.d, (v * LANES + lane) * 8, d, vec);
    }
#pragma unroll
    for (int v = 0; v < VECS; v++) {
      // With several vectors there are no registers left for gamma; it is read from L1.
      if (VECS > 1) load_row(gamma, p.gamma, (v * LANES + lane) * 8, p.d, vec);
#pragma unroll
      for (int k = 0; k < 8; k++) {
        xh[v][k] = (xh[v][k] - mean) * rstd;
        dgamma[v][k] += g[v][k] * xh[v][k];
        dbeta[v][k] += g[v][k];
        g[v][k] *= gamma[k];
        sum_g += g[v][k];
        sum_gx += g[v][k] * xh[v][k];
      }
    }
    if (!p.dx) continue;
    const float mean_g = group_sum<LANES>(sum_g) / p.d, mean_gx = group_sum<LANES>(sum_gx) / p.d;
    if (!inside) continue;
#pragma unroll
    for (int v = 0; v < VECS; v++)
      layer_norm_dx<T>(p, row, (v * LANES + lane) * 8, vec, rstd, g[v], xh[v], mean_g, mean_gx);
  }
  if (!p.partial) return;
  layer_norm_partial<THREADS, LANES, VECS>(p.partial + (i64)blockIdx.x * p.d, p.d, dgamma, shared);
  layer_norm_partial<THREADS, LANES, VECS>(p.partial + (i64)(p.parts + blockIdx.x) * p.d, p.d, dbeta, shared);
}

// Rows that do not fit into registers: dx, one warp per row, two passes.
template <class T>
__device__ __forceinline__ void layer_norm_bwd_long(const LayerNormBwdParams& p) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.n) return;
  const int d = p.d, first = threadIdx.x % 32 * 8;
  const bool vec = rows_aligned(p.x, d) && aligned16(p.dy) && aligned16(p.dx) && aligned16(p.gamma);
  const float mean = p.mean[row], rstd = p.rstd[row];
  float g[8], xh[8], gamma[8], sum_g = 0.f, sum_gx = 0.f;
  const auto load = [&](int c) {
    load_row(xh, (const T*)p.x + row * d, c, d, vec);
    load_row(g, (const T*)p.dy + row * d, c, d, vec);
    load_row(gamma, p.gamma, c, d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] *= gamma[k], xh[k] = (xh[k] - mean) * rstd;
  };
  for (int c = first; c < d; c += 256) {
    load(c);
#pragma unroll
    for (int k = 0; k < 8; k++) sum_g += g[k], sum_gx += g[k] * xh[k];
  }
  const float mean_g = warp_sum(sum_g) / d, mean_gx = warp_sum(sum_gx) / d;
  for (int c = first; c < d; c += 256) {
    load(c);
    layer_norm_dx<T>(p, row, c, vec, rstd, g, xh, mean_g, mean_gx);
  }
}

// dgamma and dbeta of such rows: one thread per column, over every gridDim.y-th row.
template <class T>
__device__ __forceinline__ void layer_norm_columns(const LayerNormBwdParams& p) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x, d = p.d;
  if (c >= d) return;
  float dgamma = 0.f, dbeta = 0.f;
#pragma unroll 4
  for (i64 row = blockIdx.y; row < p.n; row += gridDim.y) {
    const float dy = to_f32(((const T*)p.dy)[row * d + c]);
    dgamma += dy * (to_f32(((const T*)p.x)[row * d + c]) - p.mean[row]) * p.rstd[row];
    dbeta += dy;
  }
  p.partial[(i64)blockIdx.y * d + c] = dgamma;
  p.partial[(i64)(p.parts + blockIdx.y) * d + c] = dbeta;
}

// Kernels for D <= 64, 128, 256, 512, 1024; then any D.
KERNEL(layer_norm_fwd_d64_bf16, LayerNormFwdParams, 256) { layer_norm_fwd<bf16, 8, 1>(p); }
KERNEL(layer_norm_fwd_d64_f32, LayerNormFwdParams, 256) { layer_norm_fwd<float, 8, 1>(p); }
KERNEL(layer_norm_fwd_d128_bf16, LayerNormFwdParams, 256) { layer_norm_fwd<bf16, 16, 1>(p); }
KERNEL(layer_norm_fwd_d128_f32, LayerNormFwdParams, 256) { layer_norm_fwd<float, 16, 1>(p); }
KERNEL(layer_norm_fwd_d256_bf16, LayerNormFwdParams, 256) { layer_norm_fwd<bf16, 32, 1>(p); }
KERNEL(layer_norm_fwd_d256_f32, LayerNormFwdParams, 256) { layer_norm_fwd<float, 32, 1>(p); }
KERNEL(layer_norm_fwd_d512_bf16, LayerNormFwdParams, 256) { layer_norm_fwd<bf16, 32, 2>(p); }
KERNEL(layer_norm_fwd_d512_f32, LayerNormFwdParams, 256) { layer_norm_fwd<float, 32, 2>(p); }
KERNEL(layer_norm_fwd_d1024_bf16, LayerNormFwdParams, 256) { layer_norm_fwd<bf16, 32, 4>(p); }
KERNEL(layer_norm_fwd_d1024_f32, LayerNormFwdParams, 256) { layer_norm_fwd<float, 32, 4>(p); }
KERNEL(layer_norm_fwd_long_bf16, LayerNormFwdParams, 256) { layer_norm_fwd_long<bf16>(p); }
KERNEL(layer_norm_fwd_long_f32, LayerNormFwdParams, 256) { layer_norm_fwd_long<float>(p); }

KERNEL(layer_norm_bwd_d64_bf16, LayerNormBwdParams, 256) { layer_norm_bwd<bf16, 256, 8, 1>(p); }
KERNEL(layer_norm_bwd_d64_f32, LayerNormBwdParams, 256) { layer_norm_bwd<float, 256, 8, 1>(p); }
KERNEL(layer_norm_bwd_d128_bf16, LayerNormBwdParams, 256) { layer_norm_bwd<bf16, 256, 16, 1>(p); }
KERNEL(layer_norm_bwd_d128_f32, LayerNormBwdParams, 256) { layer_norm_bwd<float, 256, 16, 1>(p); }
KERNEL(layer_norm_bwd_d256_bf16, LayerNormBwdParams, 256) { layer_norm_bwd<bf16, 256, 32, 1>(p); }
KERNEL(layer_norm_bwd_d256_f32, LayerNormBwdParams, 256) { layer_norm_bwd<float, 256, 32, 1>(p); }
// Several vectors of x, dy, dgamma and dbeta need many registers (32 per vector): smaller blocks let more than one fit.
KERNEL(layer_norm_bwd_d512_bf16, LayerNormBwdParams, 128) { layer_norm_bwd<bf16, 128, 32, 2>(p); }
KERNEL(layer_norm_bwd_d512_f32, LayerNormBwdParams, 128) { layer_norm_bwd<float, 128, 32, 2>(p); }
KERNEL(layer_norm_bwd_d1024_bf16, LayerNormBwdParams, 128) { layer_norm_bwd<bf16, 128, 32, 4>(p); }
KERNEL(layer_norm_bwd_d1024_f32, LayerNormBwdParams, 128) { layer_norm_bwd<float, 128, 32, 4>(p); }
KERNEL(layer_norm_bwd_long_bf16, LayerNormBwdParams, 256) { layer_norm_bwd_long<bf16>(p); }
KERNEL(layer_norm_bwd_long_f32, LayerNormBwdParams, 256) { layer_norm_bwd_long<float>(p); }
KERNEL(layer_norm_bwd_columns_bf16, LayerNormBwdParams, 128) { layer_norm_columns<bf16>(p); }
KERNEL(layer_norm_bwd_columns_f32, LayerNormBwdParams, 128) { layer_norm_columns<float>(p); }

// Launch: grid (ceil(D/32), 2): columns of dgamma, dbeta.
KERNEL(layer_norm_bwd_finish, LayerNormFinishParams, 512) {
  STATIC_SMEM(float, shared, 512);
  float* out = blockIdx.y ? p.dbeta : p.dgamma;
  if (!out) return;
  const float* partial = p.partial + (blockIdx.y ? (i64)p.parts * p.d : 0);
  finish_columns<512>(out, partial, p.parts, p.d, blockIdx.y ? p.add_dbeta : p.add_dgamma, shared);
}
