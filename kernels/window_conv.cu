/*
window_conv: the horizontal convolutions of Caser (Tang and Wang 2018): F filters of every height h = 1..L over the
window of the L most recent rows, and the maximum of each over the window.
fwd: c_h[s,f] = b_hf + sum_{k<h} x_{s-h+1+k} w_hk[:,f]     x (N,D) act  w (L(L+1)/2,D,F) act  b (L,F) f32
     y[t,(h,f)] = max over s = t-L+h .. t of relu(c_h[s,f])   y (N,L*F) act   at (N,L*F) u32: t - s, NO_ROW if y is 0
bwd: dc_h[s,f] = sum of dy[t,(h,f)] over at[t,(h,f)] = t - s       dx, dw: those of the convolution      db: column sums
Writes: y at | dx dw db (overwritten or accumulated, per Dst).   Saves for bwd: at.
Scratch: all taps as one matrix per tap, act; dc (N,C) act; partial sums.
Work: all heights together are one causal convolution of L taps from D to L*F channels. Its tap o rows back is 0 for
      heights up to o. `expand` writes these weights (a few thousand elements), with the columns rounded up to C, a
      multiple of 8, for 16-byte loads. Nearly half of them are zeros. In return, every row of x is read once per tap
      for all heights, and the products are those of dilated_conv, forward and backward. `fwd` keeps c in f32 from the
      accumulators to shared memory and computes the maxima there. The first L-1 rows of c of a block serve only the
      windows of later rows. Backward: `route` gathers dc (each element from at most L windows) and computes partial
      rows of db, followed by the `dx` and `dw` kernels of dilated_conv_bwd.cu. `dw` here selects the existing taps and
      adds their parts in order. All splits depend on the sizes only: deterministic, no atomics.
Limits: L <= 32, so that a tile of f32 has more rows of its own than rows before them; any N, D, F.
Numerics: f32 sums; the maximum is taken over unrounded c, so that bf16 causes no ties; dc is rounded to act, db is not.
Cost: 2*N*L*D*C flop forward, twice that backward; moves x, y, at (4 bytes per element) and, backward, dy, dc. Memory
      bound at the sizes of Caser (L 5, F 16, D 50).
*/
#include "common/conv.cuh"

constexpr u32 kNoRow = 0xffffffffu;

struct WindowConvExpandParams {
  void* out;      // (L,D,C) act, oldest tap first
  const void* w;  // (L(L+1)/2,D,F) act
  int d;
  int l;
  int f;
  int columns;  // C
};

struct WindowConvFwdParams {
  void* y;            // (N,L*F) act
  u32* at;            // (N,L*F)
  const void* x;      // (N,D) act
  const void* w;      // (L,D,C) act, the output of `expand`
  const float* bias;  // (L*F)
  const u32* cu;      // (B+1)
  i64 n;
  int b;
  int d;
  int l;
  int f;
  int columns;  // C
  int step;     // rows of y per block: the rows of its tile minus L-1
};

struct WindowConvRouteParams {
  void* dc;         // (N,C) act, null: not required
  float* partial;   // (parts,L*F) of db, null: not required
  const void* dy;   // (N,L*F) act
  const u32* at;    // (N,L*F)
  const u32* cu;    // (B+1)
  i64 n;
  i64 rows;  // rows per part, a multiple of kTile
  int b;
  int l;
  int f;
  int columns;  // C
};

struct WindowConvDwParams {
  float* dw;             // (L(L+1)/2,D,F)
  const float* partial;  // (parts,L,D,C)
  i64 len;               // number of elements of dw
  i64 part;              // L*D*C
  int parts;
  int d;
  int l;
  int f;
  int columns;  // C
  int add;
};

// One thread per element of `out`.
template <class T>
__device__ __forceinline__ void window_conv_expand(const WindowConvExpandParams& p) {
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)p.l * p.d * p.columns) return;
  const int column = at % p.columns, back = p.l - 1 - (int)(at / p.columns / p.d);
  const i64 i = at / p.columns % p.d;
  // The tap `back` rows back is tap height-1-back of its height, oldest first.
  const int height = column / p.f + 1;
  const bool there = height > back && column < p.l * p.f;
  const i64 tap = (i64)height * (height - 1) / 2 + height - 1 - back;
  ((T*)p.out)[at] = there ? ((const T*)p.w)[(tap * p.d + i) * p.f + column % p.f] : from_f32<T>(0.f);
}

// Updates the running maximum with c from `back` rows back. NaN counts as larger and propagates.
__device__ __forceinline__ void larger(float& best, int& at, float c, int back) {
  if (c > best || c != c) best = c, at = back;
}

// Launch: grid (ceil(N/step), column tiles).
template <class T, int COLS>
__device__ __forceinline__ void window_conv_fwd(const WindowConvFwdParams& p) {
  using S = ConvTiles<T, COLS>;
  constexpr int kLd = COLS + 8;  // rows of c are eight banks apart: no bank conflicts between the pairs of a quad
  DYN_SMEM(smem);
  STATIC_SMEM(int2, bounds, S::kRows);
  STATIC_SMEM(int, ends, S::kRows / 16);
  const int column0 = blockIdx.y * COLS, columns = p.l * p.f;
  const i64 own = (i64)blockIdx.x * p.step, row0 = max(own - (p.l - 1), (i64)0);
  find_bounds<S::kRows, S::kThreads>(bounds, p.cu, p.b, row0);
  // Taps past the greatest height of the tile are zeros in all its columns.
  const int height = min((column0 + COLS - 1) / p.f + 1, p.l);
  const Taps taps = {height, 1, height - 1, 1};
  const T* w = (const T*)p.w + (i64)(p.l - height) * p.d * p.columns;
  const ShiftedProduct<T> product = {(const T*)p.x + row0 * p.d, w, bounds, ends, taps, p.d, p.columns, column0};
  float acc[2][S::NB][4];
  shifted_product<T, COLS, false>(product, smem, acc);
  __syncthreads();  // the stages are no longer read; c overwrites them
  float* c = (float*)smem;
#pragma unroll
  for (int nb = 0; nb < S::NB; nb++) {
    const int column = conv_col<T, COLS>(nb, 0);
    const float left = column0 + column < columns ? p.bias[column0 + column] : 0.f;
    const float right = column0 + column + 1 < columns ? p.bias[column0 + column + 1] : 0.f;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float* to = c + conv_row<T, COLS>(m, 2 * half) * kLd + column;
        *(float2*)to = make_float2(acc[m][nb][2 * half] + left, acc[m][nb][2 * half + 1] + right);
      }
  }
  __syncthreads();

  // Each thread processes one column; the columns of a warp are adjacent.
  const int column = threadIdx.x % COLS, at_column = column0 + column;
  if (at_column >= columns) return;
  const int reach = p.l - 1 - at_column / p.f;  // positions of a window other than its newest
  const float bias = p.bias[at_column];
  const int first = (int)(own - row0), rows = (int)min((i64)p.step, p.n - own);
  for (int r = first + threadIdx.x / COLS; r < first + rows; r += S::kThreads / COLS) {
    const int2 sequence = bounds[r];
    float best = 0.f;
    u32 where = kNoRow;
    if (sequence.x < sequence.y) {
      const int before = r - sequence.x;
      int back = 0;
      best = c[r * kLd + column];
      for (int j = 1; j <= min(reach, before); j++) larger(best, back, c[(r - j) * kLd + column], j);
      // All positions before the start have the same value; the newest of them represents all.
      if (before < reach) larger(best, back, bias, before + 1);
      if (best <= 0.f)
        best = 0.f;
      else
        where = back;
    }
    const i64 to = (row0 + r) * columns + at_column;
    ((T*)p.y)[to] = from_f32<T>(best);
    p.at[to] = where;
  }
}

constexpr int kTile = 64;  // rows with their bounds in shared memory at a time, in a `route` block

// Launch: grid (ceil(C/64), parts), block (256). One thread per column; four threads share the rows of a tile.
template <class T>
__device__ __forceinline__ void window_conv_route(const WindowConvRouteParams& p) {
  STATIC_SMEM(int2, bounds, kTile);
  STATIC_SMEM(float, shared, 256);
  const int column = blockIdx.x * 64 + threadIdx.x % 64, group = threadIdx.x / 64, width = p.l * p.f;
  const int reach = p.l - 1 - column / p.f;
  const bool real = column < width;  // the columns past `width` are zeros in dc
  const i64 begin = blockIdx.y * p.rows, end = min(begin + p.rows, p.n);
  float sum = 0.f;
  for (i64 tile = begin; tile < end; tile += kTile) {
    __syncthreads();  // the bounds of the previous tile are no longer read
    find_bounds<kTile, 256>(bounds, p.cu, p.b, tile);
    __syncthreads();
    for (int r = group * (kTile / 4); r < (group + 1) * (kTile / 4) && tile + r < end; r++) {
      const i64 s = tile + r, place = s * width + column;
      float dc = 0.f;
      if (real) {
        if (p.partial && p.at[place] != kNoRow) sum += to_f32(((const T*)p.dy)[place]);
        const int after = p.dc ? bounds[r].y - 1 - r : -1;  // rows after s in its sequence; negative: in no sequence
        for (int j = 0; j <= min(reach, after); j++) {
          const i64 from = place + (i64)j * width;
          if (p.at[from] == (u32)j) dc += to_f32(((const T*)p.dy)[from]);
        }
      }
      if (p.dc && column < p.columns) ((T*)p.dc)[s * p.columns + column] = from_f32<T>(dc);
    }
  }
  if (!p.partial) return;
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (group || !real) return;
#pragma unroll
  for (int g = 1; g < 4; g++) sum += shared[g * 64 + threadIdx.x];
  p.partial[(i64)blockIdx.y * width + column] = sum;
}

KERNEL(window_conv_expand_bf16, WindowConvExpandParams, 256) { window_conv_expand<bf16>(p); }
KERNEL(window_conv_expand_f32, WindowConvExpandParams, 256) { window_conv_expand<float>(p); }

// Kernels for L*F <= 64; then any, in tiles of 128.
KERNEL(window_conv_fwd_c64_bf16, WindowConvFwdParams, 256) { window_conv_fwd<bf16, 64>(p); }
KERNEL(window_conv_fwd_c64_f32, WindowConvFwdParams, 128) { window_conv_fwd<float, 64>(p); }
KERNEL(window_conv_fwd_c128_bf16, WindowConvFwdParams, 256) { window_conv_fwd<bf16, 128>(p); }
KERNEL(window_conv_fwd_c128_f32, WindowConvFwdParams, 128) { window_conv_fwd<float, 128>(p); }

KERNEL(window_conv_route_bf16, WindowConvRouteParams, 256) { window_conv_route<bf16>(p); }
KERNEL(window_conv_route_f32, WindowConvRouteParams, 256) { window_conv_route<float>(p); }

// One thread per element of dw.
KERNEL(window_conv_dw, WindowConvDwParams, 256) {
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= p.len) return;
  int height = 1, tap = (int)(at / p.f / p.d);
  while (tap >= height) tap -= height, height++;
  const i64 row = (i64)(p.l - height + tap) * p.d + at / p.f % p.d;
  const float* from = p.partial + row * p.columns + (height - 1) * p.f + at % p.f;
  float sum = 0.f;
#pragma unroll 4
  for (int part = 0; part < p.parts; part++) sum += from[part * p.part];
  p.dw[at] = p.add ? p.dw[at] + sum : sum;
}
