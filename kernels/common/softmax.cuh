/*
The loop over tiles of logits shared by cross_entropy and sampled_softmax, forward and backward.

A block of four warps owns 64 rows of one operand ("own", 16 rows per warp) and streams the rows of the other operand
("far") in tiles of 64. The tile z = own far^T stays in registers and is consumed there: no logit is written to memory.
The width D is processed in slices of 128 bytes per row, so that any width is supported:

  step      = one slice of one far tile: copied by cp.async while the previous step is computed
  resident  = all own rows are kept in shared memory if they fit; otherwise their slice is part of the step
  chunk     = two slices of D (128 columns of bf16, 64 of float: 32 more registers would spill the latter), for which
              the block accumulates the gradient. They are kept from each far tile until the second product, g far, has
              used them, and so rotate through one more buffer than there are slices.

Products are those of Warps (tile.cuh), or of Group (group.cuh) for the Hopper variants: E in the templates.

z is always summed over D in the same order, whichever operand is on the left, so that forward and backward compute
identical bits. p = exp(z - lse) - 1 of a dominant logit is accurate only because the rounding of z cancels that of lse.
Shared memory: 2 TileColumns (1,536 bytes), then slices of 9,216 bytes (swizzled: 2,048 and 8,192): own rows (all, or 2)
+ kept (the chunk's + 1, backward only) + 2 for the slices that are not kept, if any. The launcher chooses `resident`
and keeps the sum within 99 KiB. D = 64, 128, 256, 512 in bf16: forward 29, 38, 57, 94 KB, backward 29, 48, 84, 66 KB
(512 is not resident); swizzled 27, 35, 51, 84 and 27, 43, 76, 59.
Units: logits are natural. Each exponential is 2^((z - top) log2(e)), difference first, so that z = top gives 1.
*/
#pragma once
#include "group.cuh"
#include "reduce.cuh"
#include "tile.cuh"

constexpr int kWalkThreads = 128;
constexpr int kTile = 64;
constexpr int kChunkSlices = 2;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kInfinity = __builtin_huge_valf();
// Initial value of a running maximum: finite, so that rows without candidates give sum 0 and not NaN.
constexpr float kLowest = -1e38f;
// Ids that match nothing, for far columns and own rows past the end. They differ, so they do not match each other.
constexpr u32 kNoColumn = 0xffffffffu, kNoRow = 0xfffffffeu;

// Per-column data of the 64 far rows of a tile. Each pass defines which fields it uses, and for what.
struct TileColumns {
  float a[kTile];
  float b[kTile];
  u32 id[kTile];
};

// Storage of slices in shared memory and their products. Both types define: T, the element; kSlice, columns of a slice;
// kSize, elements of its buffer; kHead, bytes before the first buffer; at(), index of an element; ready(), called
// between the wait for copies and the barrier; scores(), z += own far^T of a slice; add(), acc += g far.

// Warp-level products, on any GPU: padded rows.
template <class Element>
struct Warps {
  using T = Element;
  static constexpr int kSlice = 128 / (int)sizeof(T), kLd = tile_ld<T>(kSlice), kSize = kTile * kLd;
  static constexpr int kHead = 2 * sizeof(TileColumns);
  static __device__ __forceinline__ int at(int row, int column) { return row * kLd + column; }
  static __device__ __forceinline__ void ready() {}
  static __device__ __forceinline__ void scores(float (&z)[kTile / 8][4], const T* own, const T* far) {
    gemm_nt<kSlice>(z, own + threadIdx.x / 32 * 16 * kLd, kLd, far, kLd);
  }
  // `slice(c)` is the buffer of slice c.
  template <class Slice>
  static __device__ __forceinline__ void add(float (&acc)[kChunkSlices][kSlice / 8][4], int count,
                                             const float (&g)[kTile / 8][4], Slice slice) {
#pragma unroll
    for (int c = 0; c < kChunkSlices; c++)
      if (c < count) gemm_rn<kTile>(acc[c], g, slice(c), kLd);
  }
};

#if defined(HAS_WGMMA)
// Warpgroup-level products (sm_90a): rows of 128 bytes, swizzled.
struct Group {
  using T = bf16;
  static constexpr int kSlice = 64, kSize = kGroupTile;
  static constexpr int kHead = 2048;  // tiles are aligned to 1,024 bytes
  static_assert(kHead >= 2 * sizeof(TileColumns) && kHead % 1024 == 0 && kSize * sizeof(T) % 1024 == 0);
  static __device__ __forceinline__ int at(int row, int column) { return group_at(row, column); }
  static __device__ __forceinline__ void ready() { group_ready(); }
  static __device__ __forceinline__ void scores(float (&z)[kTile / 8][4], const T* own, const T* far) {
    group_nt(z, own, far);
  }
  template <class Slice>
  static __device__ __forceinline__ void add(float (&acc)[kChunkSlices][kSlice / 8][4], int count,
                                             const float (&g)[kTile / 8][4], Slice slice) {
    u32 left[4][4];
    group_left(left, g);
#pragma unroll
    for (int c = 0; c < kChunkSlices; c++)
      if (c < count) group_rn(acc[c], left, slice(c));
  }
};
#endif

__device__ __forceinline__ float exp_of(float difference) { return exp2_fast(difference * kLog2e); }

// Starts to copy elements [first, first + 64) of a vector of which `valid` remain from there; writes `fill` past them.
// Done by the 16 threads from `thread` on.
template <class E>
__device__ __forceinline__ void load_column(E* shared, const E* global, int first, int valid, E fill, int thread) {
  const int k = ((int)threadIdx.x - thread) * 4;
  if (k < 0 || k >= kTile) return;
  const E* from = global + first + k;
  if (k + 4 <= valid && (uintptr_t)from % 16 == 0) {
    cp_async16(shared + k, from, true);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) shared[k + i] = k + i < valid ? from[i] : fill;
  }
}

// Slices of a tile that are kept past their step: [first, first + count).
struct Kept {
  int first;
  int count;

  // Buffer of slice first + c. `turn` is the tile index modulo count + 1: each tile starts one buffer before the
  // previous.
  __device__ __forceinline__ int place(int c, int turn) const { return c >= turn ? c - turn : c - turn + count + 1; }
  __device__ __forceinline__ int places() const { return count > 0 ? count + 1 : 0; }
};

template <class E>
struct Walk {
  using T = typename E::T;
  const T* own;  // first own row of the block
  const T* far;  // (far rows, D) from row 0
  int own_rows;  // valid own rows of the block, at most 64 are used
  int begin;     // far rows of this block: [begin, end)
  int end;
  int d;
  bool resident;
  Kept kept;
};

// Calls work.load(columns, at, valid) when the copies of far tile [at, at + 64) start, and work.take(z, columns, at,
// kept, turn) when its product is complete. `kept` points at the buffers of the kept slices.
template <class E, class Work>
__device__ __forceinline__ void walk(const Walk<E>& w, Work& work) {
  using T = typename E::T;
  DYN_SMEM(smem);
  TileColumns* const columns = (TileColumns*)smem;
  T* const own = (T*)(smem + E::kHead);
  const int slices = (w.d + E::kSlice - 1) / E::kSlice, passing = slices - w.kept.count;
  T* const far = own + (w.resident ? slices : 2) * E::kSize;
  const int tiles = w.end > w.begin ? (w.end - w.begin + kTile - 1) / kTile : 0;
  if (tiles == 0) return;

  const bool aligned = w.d % kChunk<T> == 0 && ((uintptr_t)w.own | (uintptr_t)w.far) % 16 == 0;

  // Buffer of a slice of a far tile: kept slices rotate, the others alternate between two buffers.
  const auto far_slice = [&](int tile, int turn, int slice) {
    const int c = slice - w.kept.first;
    if (c >= 0 && c < w.kept.count) return far + w.kept.place(c, turn) * E::kSize;
    const int number = tile * passing + (c < 0 ? slice : slice - w.kept.count);
    return far + (w.kept.places() + number % 2) * E::kSize;
  };
  // As load_tile, but not unrolled: registers limit the occupancy of these kernels.
  const auto copy_slice = [&](T* to, const T* from, int rows, int slice) {
    constexpr int kVec = kChunk<T>, kRow = E::kSlice / kVec, kStep = kWalkThreads / kRow;
    const int columns = w.d - slice * E::kSlice;
    from += slice * E::kSlice;
    if (aligned) {
      const int r = threadIdx.x / kRow, c = threadIdx.x % kRow * kVec;
#pragma unroll 1
      for (int row = r; row < kTile; row += kStep) {
        const bool inside = row < rows && c < columns;
        cp_async16(to + E::at(row, c), inside ? from + (i64)row * w.d + c : from, inside);
      }
    } else {
#pragma unroll 1
      for (int i = threadIdx.x; i < kTile * E::kSlice; i += kWalkThreads) {
        const int row = i / E::kSlice, c = i % E::kSlice;
        to[E::at(row, c)] = row < rows && c < columns ? from[(i64)row * w.d + c] : from_f32<T>(0.f);
      }
    }
  };
  const auto start_step = [&](int tile, int turn, int slice) {
    const int at = w.begin + tile * kTile;
    if (slice == 0) work.load(columns[tile % 2], at, w.end - at);
    copy_slice(far_slice(tile, turn, slice), w.far + (i64)at * w.d, w.end - at, slice);
    if (!w.resident) copy_slice(own + (tile * slices + slice) % 2 * E::kSize, w.own, w.own_rows, slice);
    cp_async_commit();
  };

  if (w.resident)
#pragma unroll 1
    for (int slice = 0; slice < slices; slice++) copy_slice(own + slice * E::kSize, w.own, w.own_rows, slice);
  start_step(0, 0, 0);
  int turn = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    const int next_turn = turn < w.kept.count ? turn + 1 : 0;
    float z[kTile / 8][4];
    acc_zero(z);
#pragma unroll 1
    for (int slice = 0; slice < slices; slice++) {
      cp_async_wait<0>();
      E::ready();
      // The data of this step is visible, and the previous step, whose buffers may be refilled, is no longer read.
      __syncthreads();
      if (slice + 1 < slices)
        start_step(tile, turn, slice + 1);
      else if (tile + 1 < tiles)
        start_step(tile + 1, next_turn, 0);
      const T* a = own + (w.resident ? slice : (tile * slices + slice) % 2) * E::kSize;
      E::scores(z, a, far_slice(tile, turn, slice));
    }
    work.take(z, columns[tile % 2], w.begin + tile * kTile, far, turn);
    turn = next_turn;
  }
}

// Negatives that a scored row masks: bit j % 32 of word j / 32 of its row of `own`.
struct LeftOut {
  const u32* words;  // of this row
  int count;         // number of words

  // The 64 bits of tile [at, at + 64); `at` is a multiple of 64.
  __device__ __forceinline__ void tile(u32 (&bits)[2], int at) const {
#pragma unroll
    for (int i = 0; i < 2; i++) bits[i] = at / 32 + i < count ? words[at / 32 + i] : 0;
  }
};

// The own row of accumulator half 0 or 1, relative to the block.
__device__ __forceinline__ int own_row(int half) { return threadIdx.x / 32 * 16 + acc_row(threadIdx.x % 32, 2 * half); }

// ------------------------------------------------------------------------------------------------------------- forward

// Far rows are candidates: a = their offset, -inf past the end. kSampled: id = their item. It is masked if it is the
// row's target, and with kOwn if its bit is set. Otherwise candidate j is item j, and the logit of the target is kept.
// Each lane keeps the maximum and the sum of its own columns; lanes are combined once, at the end.
template <bool kSampled, bool kOwn = false>
struct LogSumExp {
  const float* offset;
  const u32* id;
  u32 target[2];
  LeftOut own[2];
  float max[2] = {kLowest, kLowest};
  float sum[2] = {0.f, 0.f};
  float hit[2] = {0.f, 0.f};

  __device__ __forceinline__ void load(TileColumns& c, int at, int valid) {
    load_column(c.a, offset, at, valid, -kInfinity, 0);
    if (kSampled) load_column(c.id, id, at, valid, kNoColumn, 32);
  }

  template <class T>
  __device__ __forceinline__ void take(float (&z)[kTile / 8][4], const TileColumns& c, int at, const T*, int) {
    const int column = threadIdx.x % 4 * 2;
    float top[2] = {max[0], max[1]};
    u32 out[2][2];
    if (kOwn) own[0].tile(out[0], at), own[1].tile(out[1], at);
#pragma unroll
    for (int nb = 0; nb < kTile / 8; nb++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int j = nb * 8 + column + i % 2;
        z[nb][i] += c.a[j];
        if (kSampled && c.id[j] == target[i / 2]) z[nb][i] = -kInfinity;
        if (kOwn && out[i / 2][nb / 4] >> j % 32 & 1) z[nb][i] = -kInfinity;
        top[i / 2] = fmaxf(top[i / 2], z[nb][i]);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      // Few tiles contain the row's target; the others skip the search.
      if (!kSampled && target[half] - (u32)at < (u32)kTile)
#pragma unroll
        for (int nb = 0; nb < kTile / 8; nb++)
#pragma unroll
          for (int i = 0; i < 2; i++)
            if (at + nb * 8 + column + i == (int)target[half]) hit[half] = z[nb][2 * half + i];
      float s = sum[half] * exp_of(max[half] - top[half]);
#pragma unroll
      for (int nb = 0; nb < kTile / 8; nb++) {
        s += exp_of(z[nb][2 * half] - top[half]);
        s += exp_of(z[nb][2 * half + 1] - top[half]);
      }
      sum[half] = s, max[half] = top[half];
    }
  }

  // Combines the four lanes of a row.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float top = quad_max(max[half]);
      sum[half] = quad_sum(sum[half] * exp_of(max[half] - top));
      max[half] = top;
      hit[half] = quad_sum(hit[half]);
    }
  }
};

// ------------------------------------------------------------------------------------------------------------ backward

// acc (16 rows per warp, the chunk) += g (16,64) far[tile, chunk]: the second product of a tile.
template <class E>
struct Chunk {
  using T = typename E::T;
  float acc[kChunkSlices][E::kSlice / 8][4];
  Kept kept;  // slices of the chunk; none if no product is required

  // Selects chunk `index` of width d.
  __device__ __forceinline__ void start(int index, int d, bool wanted) {
    kept.first = index * kChunkSlices;
    kept.count = wanted ? min(kChunkSlices, (d + E::kSlice - 1) / E::kSlice - kept.first) : 0;
#pragma unroll
    for (int c = 0; c < kChunkSlices; c++) acc_zero(acc[c]);
  }

  __device__ __forceinline__ void add(const float (&g)[kTile / 8][4], const T* far, int turn) {
    E::add(acc, kept.count, g, [&](int c) { return far + kept.place(c, turn) * E::kSize; });
  }
};

// g = softmax - onehot for own rows that are scored rows (kSampled: softmax with hits masked; kOwn: and with the row's
// own items masked). dloss is applied at the end.
template <class E, bool kSampled, bool kOwn = false>
struct RowGradient {
  using T = typename E::T;
  Chunk<E> chunk;
  const float* offset;
  const u32* id;
  u32 target[2];
  LeftOut own[2];
  float lse[2];

  __device__ __forceinline__ void load(TileColumns& c, int at, int valid) {
    load_column(c.a, offset, at, valid, -kInfinity, 0);
    if (kSampled) load_column(c.id, id, at, valid, kNoColumn, 32);
  }

  __device__ __forceinline__ void take(float (&z)[kTile / 8][4], const TileColumns& c, int at, const T* far, int turn) {
    const int column = threadIdx.x % 4 * 2;
    u32 out[2][2];
    if (kOwn) own[0].tile(out[0], at), own[1].tile(out[1], at);
#pragma unroll
    for (int nb = 0; nb < kTile / 8; nb++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int j = nb * 8 + column + i % 2;
        z[nb][i] = exp_of(z[nb][i] + c.a[j] - lse[i / 2]);
        if (kSampled && c.id[j] == target[i / 2]) z[nb][i] = 0.f;
        if (kOwn && out[i / 2][nb / 4] >> j % 32 & 1) z[nb][i] = 0.f;
      }
    if (!kSampled)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (target[half] - (u32)at < (u32)kTile)
#pragma unroll
          for (int nb = 0; nb < kTile / 8; nb++)
#pragma unroll
            for (int i = 0; i < 2; i++)
              if (at + nb * 8 + column + i == (int)target[half]) z[nb][2 * half + i] -= 1.f;
    chunk.add(z, far, turn);
  }
};

// g^T for own rows that are candidates. Far rows are scored rows: a = lse (+inf past the end: g = 0), b = dloss, id =
// target. Their onehot is part of g unless kSampled; then a hit contributes 0. kOwn: the items that far rows mask also
// contribute 0; the 16 own rows of a warp share one word of the bit mask.
template <class E, bool kSampled, bool kOwn = false>
struct CandidateGradient {
  using T = typename E::T;
  Chunk<E> chunk;
  const float* lse;
  const float* dloss;
  const u32* target;
  const u32* own;  // that word in the first scored row
  int own_words;   // words per scored row
  int own_bit;     // bit of own row 0; own row 1 is 8 bits above
  int rows;        // number of scored rows
  u32 id[2];
  float offset[2];
  float sum[2] = {0.f, 0.f};  // sum of g over the lane's columns

  __device__ __forceinline__ void load(TileColumns& c, int at, int valid) {
    load_column(c.a, lse, at, valid, kInfinity, 0);
    load_column(c.b, dloss, at, valid, 0.f, 32);
    load_column(c.id, target, at, valid, kNoColumn, 64);
  }

  __device__ __forceinline__ void take(float (&z)[kTile / 8][4], const TileColumns& c, int at, const T* far, int turn) {
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int nb = 0; nb < kTile / 8; nb++) {
      u32 out[2] = {0, 0};
      if (kOwn)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int row = at + nb * 8 + column + i;
          if (row < rows) out[i] = own[(i64)row * own_words] >> own_bit;
        }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int j = nb * 8 + column + i % 2;
        float p = exp_of(z[nb][i] + offset[i / 2] - c.a[j]);
        if (c.id[j] == id[i / 2]) p = kSampled ? 0.f : p - 1.f;
        if (kOwn && out[i % 2] >> 8 * (i / 2) & 1) p = 0.f;
        z[nb][i] = c.b[j] * p;
        sum[i / 2] += z[nb][i];
      }
    }
    chunk.add(z, far, turn);
  }
};

// Stores of two adjacent elements of a row; `pair`: one vector store is possible.
__device__ __forceinline__ void store2(float* p, float x, float y) { *(float2*)p = make_float2(x, y); }
__device__ __forceinline__ void store2(bf16* p, float x, float y) { *(u32*)p = pack_bf16(x, y); }

template <class Out>
__device__ __forceinline__ void put2(Out* p, float x, float y, bool add, bool pair, bool second) {
  if (add) {
    x += to_f32(p[0]);
    if (second) y += to_f32(p[1]);
  }
  if (pair) return store2(p, x, y);
  p[0] = from_f32<Out>(x);
  if (second) p[1] = from_f32<Out>(y);
}

// out[row0 + own row][chunk] = or += scale[half] acc (+ extra[half] more[same index]), for the `rows` valid rows of the
// block.
template <class Out, class E>
__device__ __forceinline__ void write_chunk(Out* out, const Chunk<E>& chunk, i64 row0, int rows, int d, bool add,
                                            const float (&scale)[2], const typename E::T* more,
                                            const float (&extra)[2]) {
  const bool pair = d % 2 == 0 && (uintptr_t)out % (2 * sizeof(Out)) == 0;
#pragma unroll
  for (int c = 0; c < kChunkSlices; c++)
#pragma unroll
    for (int nb = 0; nb < E::kSlice / 8; nb++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int column = (chunk.kept.first + c) * E::kSlice + acc_col(threadIdx.x % 32, nb, 0);
        if (c >= chunk.kept.count || own_row(half) >= rows || column >= d) continue;
        const i64 at = (row0 + own_row(half)) * d + column;
        float x = scale[half] * chunk.acc[c][nb][2 * half], y = scale[half] * chunk.acc[c][nb][2 * half + 1];
        const bool second = column + 1 < d;
        if (more) {
          x += extra[half] * to_f32(more[at]);
          if (second) y += extra[half] * to_f32(more[at + 1]);
        }
        put2(out + at, x, y, add, pair, second);
      }
}
