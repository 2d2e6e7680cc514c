/*
rank: the number of candidates of a user that score at least as high as each target (count_at_least of src/ops/rank.rs).
count_t = number of candidates of b with s_bv >= score_t, for the targets target_start_b <= t < target_start_b+1
bad (B): the first item with a NaN or infinite score (not a candidate), else NO_ROW.   count, score (N) of the targets
Writes: count bad (score is computed by score_items).   Saves: nothing.
Work: the loop of common/scores.cuh over rows, each a user with up to 8 of its targets. Users with more targets get
  several rows, assigned by rank_rows, so that evaluation with one held-out item per user has no extra cost. Each thread
  compares its 64 scores with the thresholds of their rows and counts in bytes, four per register. Every 31 tiles the
  bytes are added to shared memory.
  The loop also counts excluded items. rank_excluded subtracts them: it recomputes their scores one by one, bitwise
  equal. These are B x history pairs, whereas masks would affect every tile.
  Counts are integers: the order of their atomic additions does not matter.
Limits: any sizes.   Numerics: common/scores.cuh.
Cost: 2 D unfused operations per row and item, and two per threshold. Compute bound.
*/
#include "common/scores.cuh"

constexpr int kTargets = 8;

// Launch: one block. Assigns the rows and initialises count and bad.
struct RankRowsParams {
  u32* user;          // (R) scratch: kNoId after the last row
  u32* first;         // (R) scratch: first target of a row
  u32* count;         // (N)
  u32* bad;           // (B)
  const u32* target;  // (B+1) first target of each user
  int rows;           // R >= B + N/8
  int b;
  int n;
};

// Launch: grid (row tiles, 1, splits).
struct RankCountParams {
  u32* count;          // (N) accumulated
  u32* bad;            // (B)
  const float* score;  // (N) scores of the targets
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
  int per_split;  // items per split, a multiple of 128
};

// One thread per excluded item.
struct RankExcludedParams {
  u32* count;                 // (N) decremented
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
    // A user without targets also has a row, since its scores are checked for NaN and infinity.
    const int mine = u < p.b ? max(1, (int)((targets + kTargets - 1) / kTargets)) : 0;
    int through = mine;  // inclusive prefix sum of rows in the warp
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
    __syncthreads();  // the sums are overwritten in the next iteration
  }
  for (int r = base + threadIdx.x; r < p.rows; r += 256) p.user[r] = kNoId;
}

// The counters of a block.
struct AtLeast {
  const float* threshold;  // shared (64, kTargets), NaN for unused slots
  u32* total;              // shared (64, kTargets)
  u32* bad;                // shared (64)
  int most;                // maximum number of targets over the rows
  int tiles = 0;           // tiles since the byte counters were flushed
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
    // Items past the range and non-finite scores become NaN, which reaches no threshold.
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
  if (p.user[row0] == kNoId) return;  // all later rows are unused too
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
