/*
dilated_conv_bwd: the backward pass of dilated_conv.cu, from dy, z, mean, rstd.
bwd: xh = (z - mean)*rstd,  g = dy where xh*gamma + beta > 0, else 0;   dgamma = sum_N g*xh,  dbeta = sum_N g
     dz = rstd*(g gamma - mean_O(g gamma) - xh*mean_O(g gamma xh)),  db = sum_N dz
     dx_s = sum_w dz_{s - offset(w)} W_w^T,  dW_w = sum_t x_{t + offset(w)}^T dz_t,  offset(w) = w*R - lead
Writes: dx dW db dgamma dbeta (overwritten or accumulated, per Dst).   Scratch: dz (N,O) act, partial sums f32.
Work:
  norm    iterates over the rows like layer_norm_bwd; writes dz and partial rows of three column sums
  finish  adds the partial rows in order
  dx      the forward product with mirrored taps and unchanged weights: in W_w (I,O) the reduction index is contiguous
  dw      each block computes one tap, one tile of (I,O) and one part of the rows; steps of 32 rows in which no row has
          the tap are skipped
  sum     adds the parts of dw in order
All splits depend on the sizes only: deterministic, no atomics.
Limits: as the forward pass.   Numerics: f32 sums; dz is rounded to act for the two products, but not for db.
Cost: 4*N*W*I*O flop; reads dy, z, dz, x, writes dz, dx.
*/
#include "common/conv.cuh"

struct DilatedConvNormParams {
  void* dz;            // (N,O) act, null: not required
  float* partial;      // (3,parts,O): of dgamma, dbeta, db; null: not required
  float* means;        // (2,N): mean_O(g gamma), mean_O(g gamma xh), for `columns`; null in the kernels for O <= 256
  const void* dy;      // (N,O) act
  const void* z;       // (N,O) act
  const float* gamma;  // (O)
  const float* beta;   // (O)
  const float* mean;   // (N)
  const float* rstd;   // (N)
  i64 n;
  int o;
  int parts;  // number of partial rows: blocks of the row kernels, gridDim.y of `columns`
};

struct DilatedConvFinishParams {
  float* dgamma;         // (O), null: not required
  float* dbeta;          // (O), null: not required
  float* db;             // (O), null: not required
  const float* partial;  // (3,parts,O)
  int parts;
  int o;
  int add_dgamma;
  int add_dbeta;
  int add_db;
};

struct DilatedConvDxParams {
  void* dx;        // (N,I) act
  const void* dz;  // (N,O) act
  const void* w;   // (W,I,O) act
  const u32* cu;   // (B+1)
  i64 n;
  int b;
  int i;
  int o;
  int taps;
  int dilation;
  int lead;
  int add;
};

struct DilatedConvDwParams {
  float* out;      // (parts,W,I,O); dW itself if there is one part
  const void* x;   // (N,I) act
  const void* dz;  // (N,O) act
  const u32* cu;   // (B+1)
  i64 n;
  i64 rows;  // rows per part, a multiple of kSpan
  int b;
  int i;
  int o;
  int taps;
  int dilation;
  int lead;
  int add;  // 1: accumulate into out
};

struct DilatedConvSumParams {
  float* dw;             // (W,I,O)
  const float* partial;  // (parts,W,I,O)
  i64 len;               // W*I*O
  int parts;
  int add;
};

// ---------------------------------------------------------------------------------------------------------- norm, ReLU

// xh = (z - mean)*rstd and g = dy through the ReLU, for eight columns. Same mask as the forward pass; NaN propagates.
__device__ __forceinline__ void masked(float (&g)[8], float (&xh)[8], const float (&gamma)[8], const float (&beta)[8],
                                       float mean, float rstd) {
#pragma unroll
  for (int k = 0; k < 8; k++) {
    xh[k] = (xh[k] - mean) * rstd;
    if (xh[k] * gamma[k] + beta[k] <= 0.f) g[k] = 0.f;
  }
}

// Adds the column sums of a block's groups in order; sums[k] is column lane*8 + k.
template <int THREADS, int LANES>
__device__ __forceinline__ void norm_partial(float* partial, int o, const float (&sums)[8], float* shared) {
  __syncthreads();  // the other sums may still be read
  store8(shared + threadIdx.x * 8, sums);
  __syncthreads();
  for (int c = threadIdx.x; c < o; c += THREADS) {
    float sum = 0.f;
#pragma unroll 8
    for (int g = 0; g < THREADS / LANES; g++) sum += shared[g * LANES * 8 + c];
    partial[c] = sum;
  }
}

// O <= LANES*8: LANES lanes share a row and keep it in registers. A fixed number of blocks iterates over the rows.
template <class T, int LANES>
__device__ __forceinline__ void conv_norm(const DilatedConvNormParams& p) {
  constexpr int kThreads = 256, kGroups = kThreads / LANES;
  STATIC_SMEM(float, shared, kThreads * 8);
  const int c = threadIdx.x % LANES * 8;
  const bool vec = rows_aligned(p.z, p.o) && aligned16(p.dy) && aligned16(p.dz) && aligned16(p.gamma) &&
                   aligned16(p.beta);
  float dgamma[8] = {}, dbeta[8] = {}, db[8] = {}, gamma[8], beta[8];
  load_row(gamma, p.gamma, c, p.o, vec);
  load_row(beta, p.beta, c, p.o, vec);
  for (i64 first = (i64)blockIdx.x * kGroups; first < p.n; first += (i64)gridDim.x * kGroups) {
    const i64 row = first + threadIdx.x / LANES;
    const bool inside = row < p.n;
    const i64 at = inside ? row : first;
    const int o = inside ? p.o : 0;  // a group without a row reads only zeros
    const float mean = p.mean[at], rstd = p.rstd[at];
    float g[8], xh[8], sum_g = 0.f, sum_gx = 0.f;
    load_row(xh, (const T*)p.z + at * p.o, c, o, vec);
    load_row(g, (const T*)p.dy + at * p.o, c, o, vec);
    masked(g, xh, gamma, beta, mean, rstd);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      dgamma[k] += g[k] * xh[k];
      dbeta[k] += g[k];
      g[k] *= gamma[k];
      sum_g += g[k];
      sum_gx += g[k] * xh[k];
    }
    const float mean_g = group_sum<LANES>(sum_g) / p.o, mean_gx = group_sum<LANES>(sum_gx) / p.o;
    if (!inside) continue;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      g[k] = rstd * (g[k] - mean_g - xh[k] * mean_gx);
      if (c + k < p.o) db[k] += g[k];
    }
    if (p.dz) store_row((T*)p.dz + row * p.o, g, c, p.o, vec);
  }
  if (!p.partial) return;
  float* partial = p.partial + (i64)blockIdx.x * p.o;
  const i64 kind = (i64)p.parts * p.o;
  norm_partial<kThreads, LANES>(partial, p.o, dgamma, shared);
  norm_partial<kThreads, LANES>(partial + kind, p.o, dbeta, shared);
  norm_partial<kThreads, LANES>(partial + 2 * kind, p.o, db, shared);
}

// Rows that do not fit into registers: dz and the two means of each row. One warp per row, two passes.
template <class T>
__device__ __forceinline__ void conv_norm_long(const DilatedConvNormParams& p) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.n) return;
  const int o = p.o, first = threadIdx.x % 32 * 8;
  const bool vec = rows_aligned(p.z, o) && aligned16(p.dy) && aligned16(p.dz) && aligned16(p.gamma) &&
                   aligned16(p.beta);
  const float mean = p.mean[row], rstd = p.rstd[row];
  float g[8], xh[8], sum_g = 0.f, sum_gx = 0.f;
  const auto load = [&](int c) {
    float gamma[8], beta[8];
    load_row(xh, (const T*)p.z + row * o, c, o, vec);
    load_row(g, (const T*)p.dy + row * o, c, o, vec);
    load_row(gamma, p.gamma, c, o, vec);
    load_row(beta, p.beta, c, o, vec);
    masked(g, xh, gamma, beta, mean, rstd);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] *= gamma[k];
  };
  for (int c = first; c < o; c += 256) {
    load(c);
#pragma unroll
    for (int k = 0; k < 8; k++) sum_g += g[k], sum_gx += g[k] * xh[k];
  }
  const float mean_g = warp_sum(sum_g) / o, mean_gx = warp_sum(sum_gx) / o;
  if (first == 0) p.means[row] = mean_g, p.means[p.n + row] = mean_gx;
  if (!p.dz) return;
  for (int c = first; c < o; c += 256) {
    load(c);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] = rstd * (g[k] - mean_g - xh[k] * mean_gx);
    store_row((T*)p.dz + row * o, g, c, o, vec);
  }
}

// Column sums for such rows: one thread per column, over every gridDim.y-th row.
template <class T>
__device__ __forceinline__ void conv_norm_columns(const DilatedConvNormParams& p) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x, o = p.o;
  if (c >= o) return;
  const float gamma = p.gamma[c], beta = p.beta[c];
  float dgamma = 0.f, dbeta = 0.f, db = 0.f;
#pragma unroll 4
  for (i64 row = blockIdx.y; row < p.n; row += gridDim.y) {
    const float rstd = p.rstd[row], xh = (to_f32(((const T*)p.z)[row * o + c]) - p.mean[row]) * rstd;
    const float dy = to_f32(((const T*)p.dy)[row * o + c]), g = xh * gamma + beta <= 0.f ? 0.f : dy;
    dgamma += g * xh;
    dbeta += g;
    db += rstd * (g * gamma - p.means[row] - xh * p.means[p.n + row]);
  }
  float* partial = p.partial + (i64)blockIdx.y * o + c;
  const i64 kind = (i64)p.parts * o;
  partial[0] = dgamma, partial[kind] = dbeta, partial[2 * kind] = db;
}

// ------------------------------------------------------------------------------------------------------------------ dx

// Launch: grid (row tiles, ceil(I/COLS)).
template <class T, int COLS>
__device__ __forceinline__ void conv_dx(const DilatedConvDxParams& p) {
  using S = ConvTiles<T, COLS>;
  DYN_SMEM(smem);
  STATIC_SMEM(int2, bounds, S::kRows);
  STATIC_SMEM(int, ends, S::kRows / 16);
  const i64 row0 = (i64)blockIdx.x * S::kRows;
  const int column0 = blockIdx.y * COLS;
  find_bounds<S::kRows, S::kThreads>(bounds, p.cu, p.b, row0);
  const Taps taps = {p.taps, p.dilation, p.lead, -1};
  const ShiftedProduct<T> product = {(const T*)p.dz + row0 * p.o, (const T*)p.w, bounds, ends, taps, p.o, p.i, column0};
  float acc[2][S::NB][4];
  shifted_product<T, COLS, true>(product, smem, acc);
  const bool even = even_rows((const T*)p.dx, p.i);
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i64 row = row0 + conv_row<T, COLS>(m, 2 * half);
      if (row >= p.n) continue;
      T* to = (T*)p.dx + row * p.i;
#pragma unroll
      for (int nb = 0; nb < S::NB; nb++) {
        const int c = column0 + conv_col<T, COLS>(nb, 0);
        float x = acc[m][nb][2 * half], y = acc[m][nb][2 * half + 1];
        if (p.add) {
          const float2 old = load_pair(to, c, p.i, even);
          x += old.x, y += old.y;
        }
        store_pair(to, c, p.i, even, x, y);
      }
    }
}

// ------------------------------------------------------------------------------------------------------------------ dW

constexpr int kSpan = 512;  // rows with their bounds in shared memory at a time, in a `dw` block
constexpr int kStep = 32;   // rows per step

// Each block owns SIZE channels of x by SIZE channels of dz, each warp 32 channels of x by SIZE/2 of dz.
template <class T, int SIZE>
struct DwTiles {
  static constexpr int kThreads = SIZE * 2;
  static constexpr int kStages = sizeof(T) == 2 ? 3 : 2;
  static constexpr int NB = SIZE / 16;
};

// Launch: grid (tiles of I x tiles of O x taps, parts).
template <class T, int SIZE>
__device__ __forceinline__ void conv_dw(const DilatedConvDwParams& p) {
  using S = DwTiles<T, SIZE>;
  constexpr int kThreads = S::kThreads, kStages = S::kStages, kLd = tile_ld<T>(SIZE), kSize = kStep * kLd, NB = S::NB;
  DYN_SMEM(smem);
  STATIC_SMEM(int2, bounds, kSpan);
  STATIC_SMEM(int, live, kSpan / kStep);
  T* stages = (T*)smem;
  const int tiles_o = (p.o + SIZE - 1) / SIZE, tiles_i = (p.i + SIZE - 1) / SIZE;
  const int o0 = blockIdx.x % tiles_o * SIZE, i0 = blockIdx.x / tiles_o % tiles_i * SIZE;
  const int tap = blockIdx.x / tiles_o / tiles_i;
  const int columns_i = min(SIZE, p.i - i0), columns_o = min(SIZE, p.o - o0);
  const int offset = tap_offset(Taps{p.taps, p.dilation, p.lead, 1}, tap);
  const bool vec = p.i % kChunk<T> == 0 && aligned16(p.x);
  const i64 begin = (i64)blockIdx.y * p.rows;
  const int rows = (int)min(p.rows, p.n - begin);
  const int warp = threadIdx.x / 32, own_i = warp / 2 * 32, own_o = warp % 2 * NB * 8;
  float acc[2][NB][4];
  acc_zero2(acc);

#pragma unroll 1
  for (int at = 0; at < rows; at += kSpan) {
    __syncthreads();  // the bounds and stages of the previous rows are no longer read
    find_bounds<kSpan, kThreads>(bounds, p.cu, p.b, begin + at);
    // Each warp finds the bounds of the 32 rows of one step. The same lanes test whether one of them has the tap.
    for (int r = threadIdx.x; r < kSpan; r += kThreads) {
      const int2 ends = bounds[r];
      const int any = __any_sync(kAllLanes, ends.x <= r + offset && r + offset < ends.y);
      if (r % 32 == 0) live[r / kStep] = any;
    }
    __syncthreads();
    u32 waiting = 0;  // steps with a contribution that are not loaded yet
#pragma unroll
    for (int s = 0; s < kSpan / kStep; s++) waiting |= (live[s] ? 1u : 0u) << s;
    const T *x = (const T*)p.x + (begin + at) * p.i + i0, *dz = (const T*)p.dz + (begin + at) * p.o + o0;
    const auto load = [&](int stage) {
      const int first = (__ffs((int)waiting) - 1) * kStep;
      waiting &= waiting - 1;
      T *a = stages + stage * 2 * kSize, *b = a + kSize;
      load_shifted<kStep, SIZE, kThreads>(a, x, p.i, bounds, first, offset, columns_i, vec);
      load_tile<kStep, SIZE, kThreads>(b, dz + (i64)first * p.o, p.o, min(kStep, rows - at - first), columns_o);
    };
    const int steps = __popc(waiting);
#pragma unroll
    for (int s = 0; s < kStages - 1; s++) {
      if (waiting) load(s);
      cp_async_commit();
    }
    int stage = 0;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // as in shifted_product
      if (waiting) load(stage == 0 ? kStages - 1 : stage - 1);
      cp_async_commit();
      const T *a = stages + stage * 2 * kSize, *b = a + kSize;
      gemm_32_tn<kStep>(acc, a + own_i, kLd, b + own_o, kLd);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
  }

  float* out = p.out + ((i64)blockIdx.y * p.taps + tap) * p.i * p.o;
  const bool even = even_rows(p.out, p.o);
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = i0 + own_i + m * 16 + acc_row(threadIdx.x % 32, 2 * half);
      if (i >= p.i) continue;
      float* to = out + (i64)i * p.o;
#pragma unroll
      for (int nb = 0; nb < NB; nb++) {
        const int c = o0 + own_o + acc_col(threadIdx.x % 32, nb, 0);
        float a = acc[m][nb][2 * half], b = acc[m][nb][2 * half + 1];
        if (p.add) {
          const float2 old = load_pair(to, c, p.o, even);
          a += old.x, b += old.y;
        }
        store_pair(to, c, p.o, even, a, b);
      }
    }
}

// ------------------------------------------------------------------------------------------------------------- kernels

// Kernels for O <= 64, 128, 256; then any O.
KERNEL(dilated_conv_bwd_norm_c64_bf16, DilatedConvNormParams, 256) { conv_norm<bf16, 8>(p); }
KERNEL(dilated_conv_bwd_norm_c64_f32, DilatedConvNormParams, 256) { conv_norm<float, 8>(p); }
KERNEL(dilated_conv_bwd_norm_c128_bf16, DilatedConvNormParams, 256) { conv_norm<bf16, 16>(p); }
KERNEL(dilated_conv_bwd_norm_c128_f32, DilatedConvNormParams, 256) { conv_norm<float, 16>(p); }
KERNEL(dilated_conv_bwd_norm_c256_bf16, DilatedConvNormParams, 256) { conv_norm<bf16, 32>(p); }
KERNEL(dilated_conv_bwd_norm_c256_f32, DilatedConvNormParams, 256) { conv_norm<float, 32>(p); }
KERNEL(dilated_conv_bwd_norm_long_bf16, DilatedConvNormParams, 256) { conv_norm_long<bf16>(p); }
KERNEL(dilated_conv_bwd_norm_long_f32, DilatedConvNormParams, 256) { conv_norm_long<float>(p); }
KERNEL(dilated_conv_bwd_columns_bf16, DilatedConvNormParams, 128) { conv_norm_columns<bf16>(p); }
KERNEL(dilated_conv_bwd_columns_f32, DilatedConvNormParams, 128) { conv_norm_columns<float>(p); }

// Launch: grid (ceil(O/32), 3): columns of dgamma, dbeta, db.
KERNEL(dilated_conv_bwd_finish, DilatedConvFinishParams, 512) {
  STATIC_SMEM(float, shared, 512);
  const int kind = blockIdx.y;
  float* out = kind == 0 ? p.dgamma : kind == 1 ? p.dbeta : p.db;
  if (!out) return;
  const int add = kind == 0 ? p.add_dgamma : kind == 1 ? p.add_dbeta : p.add_db;
  finish_columns<512>(out, p.partial + (i64)kind * p.parts * p.o, p.parts, p.o, add, shared);
}

// Kernels for I <= 64, 128; then any I, in tiles of 256. Launch bounds as in dilated_conv.cu: chosen to avoid spills.
KERNEL(dilated_conv_bwd_dx_c64_bf16, DilatedConvDxParams, 256) { conv_dx<bf16, 64>(p); }
KERNEL(dilated_conv_bwd_dx_c64_f32, DilatedConvDxParams, 128) { conv_dx<float, 64>(p); }
KERNEL(dilated_conv_bwd_dx_c128_bf16, DilatedConvDxParams, 256) { conv_dx<bf16, 128>(p); }
KERNEL(dilated_conv_bwd_dx_c128_f32, DilatedConvDxParams, 128, 3) { conv_dx<float, 128>(p); }
KERNEL(dilated_conv_bwd_dx_c256_bf16, DilatedConvDxParams, 512) { conv_dx<bf16, 256>(p); }
KERNEL(dilated_conv_bwd_dx_c256_f32, DilatedConvDxParams, 256) { conv_dx<float, 256>(p); }

// Kernels for I and O <= 64; then any.
KERNEL(dilated_conv_bwd_dw_c64_bf16, DilatedConvDwParams, 128, 6) { conv_dw<bf16, 64>(p); }
KERNEL(dilated_conv_bwd_dw_c64_f32, DilatedConvDwParams, 128) { conv_dw<float, 64>(p); }
KERNEL(dilated_conv_bwd_dw_c128_bf16, DilatedConvDwParams, 256, 2) { conv_dw<bf16, 128>(p); }
KERNEL(dilated_conv_bwd_dw_c128_f32, DilatedConvDwParams, 256, 1) { conv_dw<float, 128>(p); }

// One thread per element.
KERNEL(dilated_conv_bwd_sum, DilatedConvSumParams, 256) {
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= p.len) return;
  float sum = 0.f;
#pragma unroll 4
  for (int part = 0; part < p.parts; part++) sum += p.partial[part * p.len + at];
  p.dw[at] = p.add ? p.dw[at] + sum : sum;
}
