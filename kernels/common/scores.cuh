/*
Scores of rows (users) against a catalogue, with the exact arithmetic of src/ops/top_k.rs: the sum over d ascending of
x_d * table_d from 0, with every product and every sum rounded to f32, plus the bias. No fused multiply-add and no
tensor cores: ranks are identical on all machines. Padding with zeros does not change the result, since a sum that
starts at +0 is never -0.

Each block owns 64 rows and iterates over a range of items, 128 at a time. Vectors and table rows are loaded in slabs of
16 columns into two stages of shared memory with cp.async. Each thread keeps the sums of 8 rows by 8 items in registers.
`Work` consumes the scores of each tile.
*/
#pragma once
#include "tile.cuh"

// Keep in sync with src/backend/simt/scores.rs.
constexpr int kScoreRows = 64, kScoreItems = 128, kScoreThreads = 128;

constexpr int kScoreSlab = 16, kScoreLd = tile_ld<float>(kScoreSlab);
constexpr int kScoreStage = (kScoreRows + kScoreItems) * kScoreLd, kScorePanels = 2 * kScoreStage;

// A thread computes rows score_row(i) and items score_item(j). Rows and items of adjacent lanes are adjacent in shared
// memory, so that eight 16-byte reads are free of bank conflicts.
constexpr int kRowsEach = 8, kItemsEach = 8;
__device__ __forceinline__ int score_row(int i) { return threadIdx.x / 16 + i * (kScoreRows / kRowsEach); }
__device__ __forceinline__ int score_item(int j) { return threadIdx.x % 16 + j * (kScoreItems / kItemsEach); }

constexpr u32 kNoId = 0xffffffffu;
__device__ __forceinline__ float score_infinity() { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < score_infinity(); }

// One multiplication and one addition of a score, each rounded.
__device__ __forceinline__ float score_step(float sum, float x, float y) { return __fadd_rn(sum, __fmul_rn(x, y)); }

struct ScoreWalk {
  const float* x;      // (rows, ld) vectors of the block, zeros from d on; ld is a multiple of 4
  const float* table;  // (V, d)
  const float* bias;   // (V)
  int rows;            // valid rows of the block
  int begin;           // range of items
  int end;
  int d;
  int ld;
};

// Starts the copies of one step: slab `slab` of the vectors and of the 128 items from `item` on. Elements past the
// valid part are zeros.
__device__ __forceinline__ void score_load(const ScoreWalk& w, float* stage, int item, int slab) {
  const int c = slab * kScoreSlab;
  load_tile<kScoreRows, kScoreSlab, kScoreThreads>(stage, w.x + c, w.ld, w.rows, min(kScoreSlab, w.ld - c));
  load_tile<kScoreItems, kScoreSlab, kScoreThreads>(stage + kScoreRows * kScoreLd, w.table + (i64)item * w.d + c, w.d,
                                                    min(kScoreItems, w.end - item), min(kScoreSlab, w.d - c));
}

// sum += the products of one slab, in the order of its columns.
__device__ __forceinline__ void score_slab(float (&sum)[kRowsEach][kItemsEach], const float* stage) {
  const float* x = stage + score_row(0) * kScoreLd;
  const float* y = stage + (kScoreRows + score_item(0)) * kScoreLd;
#pragma unroll 1
  for (int k = 0; k < kScoreSlab; k += 4) {
    float4 b[kItemsEach];
#pragma unroll
    for (int j = 0; j < kItemsEach; j++) b[j] = *(const float4*)(y + j * (kScoreItems / kItemsEach) * kScoreLd + k);
#pragma unroll
    for (int i = 0; i < kRowsEach; i++) {
      const float4 a = *(const float4*)(x + i * (kScoreRows / kRowsEach) * kScoreLd + k);
#pragma unroll
      for (int j = 0; j < kItemsEach; j++)
        sum[i][j] = score_step(score_step(score_step(score_step(sum[i][j], a.x, b[j].x), a.y, b[j].y), a.z, b[j].z),
                               a.w, b[j].w);
    }
  }
}

// Iterates over the range and calls work.take(score, item, inside) for every tile: score[i][j] is the score of row
// score_row(i) and item `item` + score_item(j), valid if score_item(j) < inside. All threads of the block call it
// together. `panels` is shared memory of kScorePanels floats.
template <class Work>
__device__ __forceinline__ void score_walk(const ScoreWalk& w, float* panels, Work& work) {
  const int slabs = (w.d + kScoreSlab - 1) / kScoreSlab;
  float sum[kRowsEach][kItemsEach] = {};
  int item = w.begin, slab = 0, turn = 0;
  if (item < w.end) score_load(w, panels, item, slab);
  cp_async_commit();
  while (item < w.end) {
    const int next_slab = slab + 1 < slabs ? slab + 1 : 0, next_item = next_slab ? item : item + kScoreItems;
    if (next_item < w.end) score_load(w, panels + (turn ^ 1) * kScoreStage, next_item, next_slab);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    score_slab(sum, panels + turn * kScoreStage);
    if (next_slab == 0) {
      const int inside = min(kScoreItems, w.end - item);
#pragma unroll
      for (int j = 0; j < kItemsEach; j++) {
        const float bias = score_item(j) < inside ? w.bias[item + score_item(j)] : 0.f;
#pragma unroll
        for (int i = 0; i < kRowsEach; i++) sum[i][j] = __fadd_rn(sum[i][j], bias);
      }
      work.take(sum, item, inside);
#pragma unroll
      for (int i = 0; i < kRowsEach; i++)
#pragma unroll
        for (int j = 0; j < kItemsEach; j++) sum[i][j] = 0.f;
    }
    __syncthreads();  // the stage is refilled in the next iteration
    item = next_item, slab = next_slab, turn ^= 1;
  }
  cp_async_wait<0>();
}

// bad[row] = min(bad[row], first item of the tile with a NaN or infinite score). Rare.
__device__ __forceinline__ void note_bad(u32* bad, const float (&score)[kRowsEach][kItemsEach], int item, int inside) {
#pragma unroll
  for (int i = 0; i < kRowsEach; i++)
#pragma unroll
    for (int j = 0; j < kItemsEach; j++)
      if (score_item(j) < inside && !is_finite(score[i][j])) atomicMin(bad + score_row(i), (u32)(item + score_item(j)));
}

// The score of a single pair, bitwise equal.
template <class T>
__device__ __forceinline__ float score_pair(const T* h, const float* row, float bias, int d) {
  float sum = 0.f;
  if (d % 4 == 0 && (uintptr_t)row % 16 == 0) {
#pragma unroll 4
    for (int k = 0; k < d; k += 4) {
      const float4 y = *(const float4*)(row + k);
      sum = score_step(sum, to_f32(h[k]), y.x);
      sum = score_step(sum, to_f32(h[k + 1]), y.y);
      sum = score_step(sum, to_f32(h[k + 2]), y.z);
      sum = score_step(sum, to_f32(h[k + 3]), y.w);
    }
  } else {
    for (int k = 0; k < d; k++) sum = score_step(sum, to_f32(h[k]), row[k]);
  }
  return __fadd_rn(sum, bias);
}

// Index of the list that contains element i: the last one that starts at or before i.
__device__ __forceinline__ int owner_of(const u32* start, int b, u32 i) {
  int low = 0, high = b;  // start[low] <= i < start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (start[middle] <= i) low = middle;
    else high = middle;
  }
  return low;
}
