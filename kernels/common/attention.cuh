/*
Common parts of the attention kernels, forward and backward: the assignment of rows to blocks, tile sizes, dropout of
probabilities in mma accumulators, and stores of accumulators.

Each block owns kRows rows (queries or keys) of one head of one sequence, 16 per warp. It iterates over the other side
in tiles of kStep rows, which cp.async loads into two alternating stages. The head dimension is padded with zeros to KP
= 16, 32, 64 or 128. Rows past the end of the sequence are zeros in shared memory.
*/
#pragma once
#include "philox.cuh"
#include "reduce.cuh"
#include "tile.cuh"

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Tile sizes: two stages fit into 99 KiB of shared memory, the maximum per block on sm_89 and sm_120, and accumulators
// fit into registers. Keep in sync with src/backend/simt/attention.rs.
template <class T, int KP>
struct FwdTiles {
  static constexpr int kRows = 64, kThreads = 2 * kRows;
  static constexpr int kStep = KP == 128 ? 32 : 64;
};
template <class T, int KP>
struct BwdTiles {
  static constexpr bool kWide = sizeof(T) == 4 && KP >= 64;
  static constexpr int kRows = kWide ? 32 : 64;
  static constexpr int kStep = kWide ? 16 : sizeof(T) == 4 || KP == 128 ? 32 : 64;
  // Warps that share 16 rows: each computes the scores, and its own part of the gradient columns.
  static constexpr int kSplit = sizeof(T) == 4 && KP == 128 ? 2 : 1, kThreads = 2 * kRows * kSplit;
};

// Rows [first, first + kRows) of a sequence of `len` rows that starts at packed row `start`.
struct Part {
  i64 start;
  int len;
  int head;
  int first;
};

// Launch: one-dimensional grid of B * H * ceil(t / rows) blocks. The tiles of one head are adjacent, so that their
// common inputs hit the L2 cache. Blocks with first >= len exit at once.
__device__ __forceinline__ Part find_part(const u32* cu, int h, int t, int rows) {
  const u32 tiles = (t + rows - 1) / rows, pair = blockIdx.x / tiles, b = pair / h;
  Part part;
  part.start = cu[b];
  part.len = (int)(cu[b + 1] - cu[b]);
  part.head = pair % h;
  part.first = blockIdx.x % tiles * rows;
  return part;
}

// ------------------------------------------------------------------------------------------------ dropout in a product
//
// Eight adjacent keys of one query share one Philox block. In an accumulator its values are spread over several lanes:
// each lane computes NB/2 distinct blocks and packs each as 8 flags into one word. Lanes then exchange words with
// shuffles, so no block is computed twice in a warp. The result is one word per lane, one flag per accumulator value.

// Rows are queries (16 per warp), columns are 8*NB keys: the values of a Philox block are spread over a quad. `block`
// is the Philox block index of (first query of the warp, first key of the tile), `stride` the step between queries.
template <int NB>
__device__ __forceinline__ u32 keep_by_query(const Drop& d, u32 step, u64 block, u32 stride) {
  const int lane = threadIdx.x % 32;
  u32 mine = 0, keep = 0;
#pragma unroll 1
  for (int k = 0; k < NB / 2; k++) {
    // Blocks of the quad in the order (key block, upper or lower row), NB/2 per lane.
    const int e = lane % 4 * (NB / 2) + k, row = lane / 4 + e % 2 * 8;
    mine |= drop_keep8(d, step, block + (u64)row * stride + e / 2) << 8 * k;
  }
  // Each lane needs the two flags of its columns from every block: bits 0, 1 of each byte, shifted to make room for the
  // next word.
#pragma unroll
  for (int s = 0; s < 4; s++)
    keep |= (__shfl_sync(kAllLanes, mine, (lane & ~3) + s) >> lane % 4 * 2 & 0x03030303u) << 2 * s;
  return keep;
}

template <int NB>
__device__ __forceinline__ bool kept_by_query(u32 keep, int nb, int i) {
  const int e = nb * 2 + i / 2;
  return keep >> (e % (NB / 2) * 8 + e / (NB / 2) * 2 + i % 2) & 1;
}

// Rows are keys (16 per warp, two Philox blocks), columns are 8*NB queries: the values of a block are spread over the
// lanes with equal lane%4.
template <int NB>
__device__ __forceinline__ u32 keep_by_key(const Drop& d, u32 step, u64 block, u32 stride) {
  const int lane = threadIdx.x % 32;
  u32 mine = 0, keep = 0;
#pragma unroll 1
  for (int k = 0; k < NB / 2; k++) {
    // Blocks of the warp in the order (query, upper or lower eight keys), NB/2 per lane.
    const int e = lane * (NB / 2) + k;
    mine |= drop_keep8(d, step, block + (u64)(e / 2) * stride + e % 2) << 8 * k;
  }
  // The four blocks of a lane for one nb are (16*nb + lane%4*4) + 0..3, held by 8/NB adjacent lanes. From each block
  // the lane needs the flag of its row: bit 0 of each byte, shifted by nb.
#pragma unroll
  for (int s = 0; s < 8; s++) {
    constexpr int kLanes = 8 / NB;
    const int nb = s / kLanes, e = 16 * nb + lane % 4 * 4;
    const u32 word = __shfl_sync(kAllLanes, mine, e / (NB / 2) + s % kLanes) >> lane / 4;
    keep |= (word & 0x01010101u) << (nb + s % kLanes * (NB / 2) * 8);
  }
  return keep;
}

__device__ __forceinline__ bool kept_by_key(u32 keep, int nb, int i) {
  return keep >> (nb + (i % 2 * 2 + i / 2) * 8) & 1;
}

// -------------------------------------------------------------------------------------------------------------- stores

__device__ __forceinline__ float2 load2(const float* p) { return *(const float2*)p; }
__device__ __forceinline__ float2 load2(const bf16* p) {
  const u32 raw = *(const u32*)p;
  return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
}
__device__ __forceinline__ void store2(float* p, float x, float y) { *(float2*)p = make_float2(x, y); }
__device__ __forceinline__ void store2(bf16* p, float x, float y) { *(u32*)p = pack_bf16(x, y); }

// Stores (or accumulates) the upper left (rows, columns) part of a warp's accumulators, scaled by `upper` in the upper
// eight rows and by `lower` in the others. Uses two-element stores if the width is even: every row is then aligned.
template <int NB, class T>
__device__ __forceinline__ void store_acc(T* out, i64 stride, int rows, int columns, const float (&acc)[NB][4],
                                          float upper, float lower, bool add) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = acc_row(lane, 2 * half);
    const float factor = half ? lower : upper;
    if (row >= rows) continue;
#pragma unroll
    for (int nb = 0; nb < NB; nb++) {
      const int column = acc_col(lane, nb, 0);
      T* at = out + row * stride + column;
      float x = acc[nb][2 * half] * factor, y = acc[nb][2 * half + 1] * factor;
      if (columns % 2 == 0) {
        if (column >= columns) continue;
        if (add) {
          const float2 old = load2(at);
          x += old.x, y += old.y;
        }
        store2(at, x, y);
      } else {
        if (column < columns) at[0] = from_f32<T>(add ? to_f32(at[0]) + x : x);
        if (column + 1 < columns) at[1] = from_f32<T>(add ? to_f32(at[1]) + y : y);
      }
    }
  }
}
