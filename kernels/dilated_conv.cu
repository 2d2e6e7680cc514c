/*
dilated_conv: a convolution over time with W taps at dilation R, then layer norm, ReLU and the residual, in one pass
over the rows: half of the residual block of NextItNet (Yuan et al. 2019) and PeterRec (Yuan et al. 2020). The backward
pass is in dilated_conv_bwd.cu.
fwd: z_t = b + sum_w x_{t + w*R - lead} W_w        x (N,I) act  W (W,I,O) act  z,y,r (N,O) act  b,gamma,beta (O) f32
     y = relu((z - mean)*rstd*gamma + beta) (+ r)  mean,rstd (N) f32   taps past the ends of a sequence are zero
Writes: y z mean rstd.   Saves for bwd: z mean rstd.
Work: each block computes 128 rows (f32: 64) and, for O <= 256, all columns, so that norm, ReLU and residual are fused
      on the f32 accumulators. It iterates over taps and channels in steps of 32 (f32: 16), with rows and weights in
      three cp.async stages. Each warp owns 32 rows; sums over a row use shared memory where several warps share the
      row. The kernel finds the sequence of each row itself (find_bounds): two rounds of loads, instead of one more
      launch or 8 bytes per row.
      O > 256: each block computes 256 columns of z, with the mean and variance of its part of each row, taken from the
      f32 accumulators. A second kernel, one warp per row, combines the parts (Chan et al. 1979) and applies norm, ReLU
      and residual.
Limits: any N, I, O, W, R with (W-1)*R < 2^30; N*O may exceed 2^31.   Numerics: f32 sums, variance from centred values.
Cost: 2*N*W*I*O flop; reads x (once per tap, from L2 after the first read) and r, writes y and z.
*/
#include "common/conv.cuh"

struct DilatedConvFwdParams {
  void* y;               // (N,O) act
  void* z;               // (N,O) act
  float* mean;           // (N)
  float* rstd;           // (N)
  const void* x;         // (N,I) act
  const void* w;         // (W,I,O) act
  const float* bias;     // (O)
  const float* gamma;    // (O)
  const float* beta;     // (O)
  const void* residual;  // (N,O) act, null: none
  const u32* cu;         // (B+1)
  float* stats;          // (2,ceil(O/256),N): mean, sum of squared deviations; null if O <= 256
  i64 n;
  int b;
  int i;
  int o;
  float by_o;  // 1/O
  int taps;
  int dilation;
  int lead;
  float eps;
};

// relu(u) that propagates NaN; fmaxf would drop it.
__device__ __forceinline__ float relu(float u) { return u < 0.f ? 0.f : u; }

// Computes z of the block's rows and columns, with the bias, in acc; zeros past the last column.
template <class T, int COLS>
__device__ __forceinline__ void conv_z(const DilatedConvFwdParams& p, int column0, unsigned char* smem,
                                       float (&acc)[2][ConvTiles<T, COLS>::NB][4]) {
  using S = ConvTiles<T, COLS>;
  STATIC_SMEM(int2, bounds, S::kRows);
  STATIC_SMEM(int, ends, S::kRows / 16);
  const i64 row0 = (i64)blockIdx.x * S::kRows;
  find_bounds<S::kRows, S::kThreads>(bounds, p.cu, p.b, row0);
  const Taps taps = {p.taps, p.dilation, p.lead, 1};
  const ShiftedProduct<T> product = {(const T*)p.x + row0 * p.i, (const T*)p.w, bounds, ends, taps, p.i, p.o, column0};
  shifted_product<T, COLS, false>(product, smem, acc);
#pragma unroll
  for (int nb = 0; nb < S::NB; nb++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int c = column0 + conv_col<T, COLS>(nb, i);
      const float bias = c < p.o ? p.bias[c] : 0.f;
#pragma unroll
      for (int m = 0; m < 2; m++) acc[m][nb][i] += bias, acc[m][nb][2 + i] += bias;
    }
}

// Row sums over a block. sum: in, each lane's part of its four rows; out, the row sums. `shared`: (kAcross, kRows).
template <class T, int COLS>
__device__ __forceinline__ void row_sums(float (&sum)[2][2], float* shared) {
  using S = ConvTiles<T, COLS>;
  const int across = threadIdx.x / 32 % S::kAcross;
  __syncthreads();  // earlier sums have been read
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mine = quad_sum(sum[m][half]);
      if (threadIdx.x % 4 == 0) shared[across * S::kRows + conv_row<T, COLS>(m, 2 * half)] = mine;
    }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      sum[m][half] = 0.f;
#pragma unroll
      for (int w = 0; w < S::kAcross; w++) sum[m][half] += shared[w * S::kRows + conv_row<T, COLS>(m, 2 * half)];
    }
}

// For each of a lane's four rows: the mean of the first `columns` columns of the block, and the sum of their squared
// deviations. by_columns = 1/columns. Columns past them are zeros.
template <class T, int COLS>
__device__ __forceinline__ void row_stats(const float (&acc)[2][ConvTiles<T, COLS>::NB][4], int columns,
                                          float by_columns, float* shared, float (&mean)[2][2],
                                          float (&squares)[2][2]) {
  constexpr int NB = ConvTiles<T, COLS>::NB;
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      mean[m][half] = squares[m][half] = 0.f;
#pragma unroll
      for (int nb = 0; nb < NB; nb++) mean[m][half] += acc[m][nb][2 * half] + acc[m][nb][2 * half + 1];
    }
  row_sums<T, COLS>(mean, shared);
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      mean[m][half] *= by_columns;
#pragma unroll
      for (int nb = 0; nb < NB; nb++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const float centred = conv_col<T, COLS>(nb, i) < columns ? acc[m][nb][2 * half + i] - mean[m][half] : 0.f;
          squares[m][half] += centred * centred;
        }
    }
  row_sums<T, COLS>(squares, shared);
}

// True for the one lane that writes the per-row outputs.
template <class T, int COLS>
__device__ __forceinline__ bool row_writer() {
  return threadIdx.x % 4 == 0 && threadIdx.x / 32 % ConvTiles<T, COLS>::kAcross == 0;
}

// Applies norm, ReLU and residual to the accumulators. kEven: vector access to two columns. `affine`: gamma, beta.
template <class T, int COLS, bool kEven>
__device__ __forceinline__ void finish_rows(const DilatedConvFwdParams& p, const float* affine,
                                            const float (&acc)[2][ConvTiles<T, COLS>::NB][4], const float (&mean)[2][2],
                                            const float (&squares)[2][2]) {
  using S = ConvTiles<T, COLS>;
  affine += conv_col<T, COLS>(0, 0);
  const int left = p.o - conv_col<T, COLS>(0, 0);  // number of columns from the lane's first column on
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i64 row = (i64)blockIdx.x * S::kRows + conv_row<T, COLS>(m, 2 * half);
      if (row >= p.n) continue;
      const float mu = mean[m][half], scale = 1.f / sqrtf(squares[m][half] * p.by_o + p.eps);
      if (row_writer<T, COLS>()) p.mean[row] = mu, p.rstd[row] = scale;
      const i64 first = row * p.o + conv_col<T, COLS>(0, 0);
#pragma unroll
      for (int nb = 0; nb < S::NB; nb++) {
        // Volatile: read again for every row, since there are no registers to keep all values.
        const volatile float *gamma = affine + nb * 8, *beta = gamma + COLS;
        const float zx = acc[m][nb][2 * half], zy = acc[m][nb][2 * half + 1];
        float yx = relu((zx - mu) * scale * gamma[0] + beta[0]);
        float yy = relu((zy - mu) * scale * gamma[1] + beta[1]);
        if (p.residual) {
          const float2 r = load_pair((const T*)p.residual + first, nb * 8, left, kEven);
          yx += r.x, yy += r.y;
        }
        store_pair((T*)p.z + first, nb * 8, left, kEven, zx, zy);
        store_pair((T*)p.y + first, nb * 8, left, kEven, yx, yy);
      }
    }
}

// O <= COLS: each block owns whole rows.
template <class T, int COLS>
__device__ __forceinline__ void dilated_conv_fwd(const DilatedConvFwdParams& p) {
  using S = ConvTiles<T, COLS>;
  DYN_SMEM(smem);
  STATIC_SMEM(float, sums, S::kAcross * S::kRows);
  STATIC_SMEM(float, affine, 2 * COLS);  // gamma, then beta, zero-padded: read for every row
  for (int c = threadIdx.x; c < COLS; c += S::kThreads) {
    affine[c] = c < p.o ? p.gamma[c] : 0.f;
    affine[COLS + c] = c < p.o ? p.beta[c] : 0.f;
  }
  float acc[2][S::NB][4], mean[2][2], squares[2][2];
  conv_z<T, COLS>(p, 0, smem, acc);
  row_stats<T, COLS>(acc, p.o, p.by_o, sums, mean, squares);
  if (even_rows((const T*)p.z, p.o) && even_rows((const T*)p.y, p.o) && even_rows((const T*)p.residual, p.o))
    finish_rows<T, COLS, true>(p, affine, acc, mean, squares);
  else
    finish_rows<T, COLS, false>(p, affine, acc, mean, squares);
}

// O > 256: z and the statistics of a part of each row. Launch: grid (row tiles, ceil(O/256)).
template <class T>
__device__ __forceinline__ void dilated_conv_z(const DilatedConvFwdParams& p) {
  constexpr int COLS = 256;
  using S = ConvTiles<T, COLS>;
  DYN_SMEM(smem);
  STATIC_SMEM(float, sums, S::kAcross * S::kRows);
  const int column0 = blockIdx.y * COLS;
  float acc[2][S::NB][4], mean[2][2], squares[2][2];
  conv_z<T, COLS>(p, column0, smem, acc);
  const int columns = min(COLS, p.o - column0);
  row_stats<T, COLS>(acc, columns, 1.f / columns, sums, mean, squares);
  const bool even = even_rows((const T*)p.z, p.o);
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i64 row = (i64)blockIdx.x * S::kRows + conv_row<T, COLS>(m, 2 * half);
      if (row >= p.n) continue;
      if (row_writer<T, COLS>()) {
        p.stats[blockIdx.y * p.n + row] = mean[m][half];
        p.stats[(gridDim.y + blockIdx.y) * p.n + row] = squares[m][half];
      }
#pragma unroll
      for (int nb = 0; nb < S::NB; nb++)
        store_pair((T*)p.z + row * p.o, column0 + conv_col<T, COLS>(nb, 0), p.o, even, acc[m][nb][2 * half],
                   acc[m][nb][2 * half + 1]);
    }
}

// O > 256: norm, ReLU and residual. One warp per row.
template <class T>
__device__ __forceinline__ void dilated_conv_norm(const DilatedConvFwdParams& p) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.n) return;
  const int o = p.o, first = threadIdx.x % 32 * 8, parts = (o + 255) / 256;
  const bool vec = rows_aligned(p.z, o) && aligned16(p.y) && aligned16(p.gamma) && aligned16(p.beta) &&
                   aligned16(p.residual);
  float mean = 0.f, squares = 0.f;
  for (int t = 0; t < parts; t++) mean += p.stats[t * p.n + row] * min(256, o - t * 256);
  mean /= o;
  for (int t = 0; t < parts; t++) {
    const float apart = p.stats[t * p.n + row] - mean;
    squares += p.stats[(parts + t) * p.n + row] + apart * apart * min(256, o - t * 256);
  }
  const float rstd = 1.f / sqrtf(squares / o + p.eps);
  if (first == 0) p.mean[row] = mean, p.rstd[row] = rstd;
  for (int c = first; c < o; c += 256) {
    float x[8], gamma[8], beta[8], r[8] = {};
    load_row(x, (const T*)p.z + row * o, c, o, vec);
    load_row(gamma, p.gamma, c, o, vec);
    load_row(beta, p.beta, c, o, vec);
    if (p.residual) load_row(r, (const T*)p.residual + row * o, c, o, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = relu((x[k] - mean) * rstd * gamma[k] + beta[k]) + r[k];
    store_row((T*)p.y + row * o, x, c, o, vec);
  }
}

// Kernels for O <= 64, 128, 256; then z and norm for any O. Launch bounds with a minimum number of blocks: by default
// the compiler targets more blocks and spills a few registers.
KERNEL(dilated_conv_fwd_c64_bf16, DilatedConvFwdParams, 256) { dilated_conv_fwd<bf16, 64>(p); }
KERNEL(dilated_conv_fwd_c64_f32, DilatedConvFwdParams, 128, 4) { dilated_conv_fwd<float, 64>(p); }
KERNEL(dilated_conv_fwd_c128_bf16, DilatedConvFwdParams, 256) { dilated_conv_fwd<bf16, 128>(p); }
KERNEL(dilated_conv_fwd_c128_f32, DilatedConvFwdParams, 128) { dilated_conv_fwd<float, 128>(p); }
KERNEL(dilated_conv_fwd_c256_bf16, DilatedConvFwdParams, 512) { dilated_conv_fwd<bf16, 256>(p); }
KERNEL(dilated_conv_fwd_c256_f32, DilatedConvFwdParams, 256, 1) { dilated_conv_fwd<float, 256>(p); }
KERNEL(dilated_conv_fwd_z_bf16, DilatedConvFwdParams, 512) { dilated_conv_z<bf16>(p); }
KERNEL(dilated_conv_fwd_z_f32, DilatedConvFwdParams, 256) { dilated_conv_z<float>(p); }
KERNEL(dilated_conv_fwd_norm_bf16, DilatedConvFwdParams, 256) { dilated_conv_norm<bf16>(p); }
KERNEL(dilated_conv_fwd_norm_f32, DilatedConvFwdParams, 256) { dilated_conv_norm<float>(p); }
