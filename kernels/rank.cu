/*
rank: how many candidates of a user score at least as high as each target (count_at_least of src/ops/rank.rs).
count_t = number of candidates of b with s_bv >= score_t, for the targets target_start_b <= t < target_start_b+1
bad (B): the first item with a score that is NaN or infinite (no candidate), else NO_ROW.   count, score (N) of the targets
Writes: count bad (score comes from score_items).   Saves: nothing.
Work: the walk of common/scores.cuh over rows of a user and up to 8 of its targets; users of more take several rows, which
  rank_rows lays out, so that one held-out item costs no more for there being users with hundreds. A thread compares its 64
  scores with the thresholds of their rows and counts in bytes, four to a register, which every 31 tiles are added to
  shared memory.
  The walk counts excluded items too; rank_excluded takes them off again: it scores each of them alone, to the same bits.
  That is B x history pairs, where masks would touch every tile.
  Counts are integers: their atomic sums do not depend on the order.
Limits: any sizes.   Numerics: common/scores.cuh.
Cost: 2 D operations a row and item that are not fused, and two for each threshold. Compute bound.
*/
#include "common/scores.cuh"

constexpr int kTargets = 8;

// One block: lays out the rows, and sets count and bad to their beginnings.
struct RankRowsParams {
  u32* user;          // (R) scratch: kNoId behind the last
  u32* first;         // (R) scratch: the first target of a row
  u32* count;         // (N)
  u32* bad;           // (B)
  const u32* target;  // (B+1) where each user's targets start
  int rows;           // R >= B + N/8
  int b;
  int n;
};

// grid (row tiles, 1, splits)
struct RankCountParams {
  u32* count;          // (N) added to
  u32* bad;            // (B)
  const float* score;  // (N) of the targets
  const float* x;      // (R, ld)
  const float* table;  // (V, D)
  const float* bias;   // (V)
  const u32* user;     // (R)
  const u32* first;    // (R)
  const u32* target;   // (B+1)
  int rows;
  int d;
  int ld;
  int v;
  int per_split;  // items, a multiple of 128
};

// A thread an excluded item.
struct RankExcludedParams {
  u32* count;                 // (N) taken from
  const float* score;         // (N)
  const void* h;              // (B, D) act
  const float* table;         // (V, D)
  const float* bias;          // (V)
  const u32* target;          // (B+1)
  const u32* excluded;        // (E)
  const u32* excluded_start;  // (B+1)
  int b;
  int d;
  int e;
};

KERNEL(rank_rows, RankRowsParams, 256) {
  STATIC_SMEM(int, sums, 8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int t = threadIdx.x; t < p.n; t += 256) p.count[t] = 0;
  for (int u = threadIdx.x; u < p.b; u += 256) p.bad[u] = kNoId;
  int base = 0;  // rows of earlier groups of users
  for (int group = 0; group < p.b; group += 256) {
    const int u = group + threadIdx.x;
    const u32 start = u < p.b ? p.target[u] : 0, targets = u < p.b ? p.target[u + 1] - start : 0;
    // A user without targets has a row too: its scores are looked through.
    const int mine = u < p.b ? max(1, (int)((targets + kTargets - 1) / kTargets)) : 0;
    int through = mine;  // rows up to and with this user, in the warp
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = __shfl_up_sync(kAllLanes, through, delta);
      if (lane >= delta) through += other;
    }
    if (lane == 31) sums[warp] = through;
    __syncthreads();
    int before = base;
    for (int w = 0; w < 8; w++) {
      if (w < warp) before += sums[w];
      base += sums[w];
    }
    for (int r = 0; r < mine; r++) {
      p.user[before + through - mine + r] = u;
      p.first[before + through - mine + r] = start + r * kTargets;
    }
    __syncthreads();  // the sums are written again
  }
  for (int r = base + threadIdx.x; r < p.rows; r += 256) p.user[r] = kNoId;
}

// What a block counts.
struct AtLeast {
  const float* threshold;  // shared (64, kTargets), NaN where there is none
  u32* total;              // shared (64, kTargets)
  u32* bad;                // shared (64)
  int most;                // targets of any of the rows
  int tiles = 0;           // since the bytes were emptied
  u32 bytes[kRowsEach][kTargets / 4] = {};

  __device__ __forceinline__ void empty() {
#pragma unroll
    for (int i = 0; i < kRowsEach; i++)
#pragma unroll
      for (int part = 0; part < kTargets / 4; part++) {
        if (part * 4 >= most) continue;
#pragma unroll
        for (int q = 0; q < 4; q++)
          atomicAdd(total + score_row(i) * kTargets + part * 4 + q, bytes[i][part] >> 8 * q & 255u);
        bytes[i][part] = 0;
      }
    tiles = 0;
  }

  __device__ __forceinline__ void take(float (&score)[kRowsEach][kItemsEach], int item, int inside) {
    bool odd = false;
#pragma unroll
    for (int i = 0; i < kRowsEach; i++)
#pragma unroll
      for (int j = 0; j < kItemsEach; j++) odd |= score_item(j) < inside && !is_finite(score[i][j]);
    if (odd) note_bad(bad, score, item, inside);
    // What is not there, or no number to compare with, reaches no threshold.
#pragma unroll
    for (int i = 0; i < kRowsEach; i++)
#pragma unroll
      for (int j = 0; j < kItemsEach; j++)
        if (score_item(j) >= inside || !is_finite(score[i][j])) score[i][j] = __uint_as_float(0x7fffffffu);
#pragma unroll
    for (int part = 0; part < kTargets / 4; part++) {
      if (part * 4 >= most) continue;
#pragma unroll
      for (int i = 0; i < kRowsEach; i++) {
        const float4 four = *(const float4*)(threshold + score_row(i) * kTargets + part * 4);
        const float t[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int q = 0; q < 4; q++) {
          u32 reached = 0;
#pragma unroll
          for (int j = 0; j < kItemsEach; j++) reached += score[i][j] >= t[q];
          bytes[i][part] += reached << 8 * q;
        }
      }
    }
    if (++tiles == 255 / kItemsEach) empty();
  }
};

KERNEL(rank_count, RankCountParams, 128, 3) {
  DYN_SMEM(shared);
  STATIC_SMEM(int, most, 1);
  float* panels = (float*)shared;
  float* threshold = panels + kScorePanels;
  u32* total = (u32*)(threshold + kScoreRows * kTargets);
  u32* bad = total + kScoreRows * kTargets;
  const int row0 = blockIdx.x * kScoreRows, begin = blockIdx.z * p.per_split, rows = min(kScoreRows, p.rows - row0);
  if (p.user[row0] == kNoId) return;  // all rows behind it are none either
  if (threadIdx.x == 0) *most = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < kScoreRows * kTargets; i += kScoreThreads) {
    const int row = i / kTargets, slot = i % kTargets;
    const u32 user = row < rows ? p.user[row0 + row] : kNoId;
    const u32 t = user == kNoId ? 0 : p.first[row0 + row] + slot;
    const bool there = user != kNoId && t < p.target[user + 1];
    threshold[i] = there ? p.score[t] : __uint_as_float(0x7fffffffu);
    total[i] = 0;
    if (slot == 0) bad[row] = kNoId;
    if (there) atomicMax(most, slot + 1);
  }
  __syncthreads();
  AtLeast work;
  work.threshold = threshold, work.total = total, work.bad = bad, work.most = *most;
  const ScoreWalk w = {p.x + (i64)row0 * p.ld, p.table, p.bias, rows, begin, min(p.v, begin + p.per_split), p.d, p.ld};
  score_walk(w, panels, work);
  work.empty();
  __syncthreads();
  for (int i = threadIdx.x; i < rows * kTargets; i += kScoreThreads) {
    const int row = i / kTargets, slot = i % kTargets;
    const u32 user = p.user[row0 + row];
    if (user == kNoId) continue;
    const u32 t = p.first[row0 + row] + slot;
    if (t < p.target[user + 1] && total[i] > 0) atomicAdd(p.count + t, total[i]);
    if (slot == 0 && bad[row] != kNoId) atomicMin(p.bad + user, bad[row]);
  }
}

template <class T>
__device__ __forceinline__ void rank_excluded(const RankExcludedParams& p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.e) return;
  const i64 user = owner_of(p.excluded_start, p.b, i), item = p.excluded[i];
  const u32 start = p.target[user], end = p.target[user + 1];
  if (start == end) return;
  const float score = score_pair((const T*)p.h + user * p.d, p.table + item * p.d, p.bias[item], p.d);
  if (!is_finite(score)) return;  // it was not counted
  for (u32 t = start; t < end; t++)
    if (score >= p.score[t]) atomicSub(p.count + t, 1u);
}

KERNEL(rank_excluded_bf16, RankExcludedParams, 128) { rank_excluded<bf16>(p); }
KERNEL(rank_excluded_f32, RankExcludedParams, 128) { rank_excluded<float>(p); }
