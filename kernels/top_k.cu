/*
top_k: the best k items of the catalogue for each of B vectors, without a score matrix in memory.
item, score (B,K): the candidates with the highest scores, best first, ties in favour of the smaller id; NO_ROW and -inf
if there are fewer than K.   bad (B): the first item with a NaN or infinite score (not a candidate), else NO_ROW.
Candidates: all items except excluded[excluded_start_b .. excluded_start_b+1], ascending and distinct.
Writes: item score bad.   Saves: nothing.
Work: the loop of common/scores.cuh: each block owns 64 users and processes a range of items. A score above the user's
  k-th best is appended to the user's queue in shared memory (32 slots, assigned by an integer atomic: the result
  depends on the set, not on the order). A warp empties a full queue. It drops excluded items (one binary search each,
  so that the loop does not need the exclusion list), sorts the rest by counting and merges it into the user's list,
  which is in global memory and stays in L2. The new index of each element is its own index plus the number of elements
  of the other side before it. Once the k-th best is high, few scores pass, and the loop runs at the rate of its
  multiplications and additions. Ranges are split so that few users also fill a GPU. A second kernel merges the lists of
  all ranges pairwise, by the same counting.
  A key is (score, ~id) in 64 bits that compare as integers. All keys are distinct, so the result does not depend on the
  order of the threads.
Limits: K up to the limit of the launcher; longer lists cost more to merge.   Numerics: common/scores.cuh.
Cost: 2 BDV unfused operations: half the rate of fused multiply-adds. Compute bound from a few users on.
*/
#include "common/scores.cuh"

// Launch: grid (row tiles, 1, splits).
struct TopKParams {
  u64* part;                  // (splits, B, K) scratch: keys, best first
  u32* part_bad;              // (splits, B) scratch
  const float* x;             // (B, ld)
  const float* table;         // (V, D)
  const float* bias;          // (V)
  const u32* excluded;        // (E)
  const u32* excluded_start;  // (B+1)
  int b;
  int d;
  int ld;
  int v;
  int k;
  int per_split;  // items per split, a multiple of 128
};

// Launch: one block per user.
struct TopKMergeParams {
  u32* item;            // (B, K)
  float* score;         // (B, K)
  u32* bad;             // (B)
  u64* part;            // (splits, B, K)
  u64* spare;           // (splits, B, K) scratch: double buffer of the merged lists
  const u32* part_bad;  // (splits, B)
  int b;
  int k;
  int splits;
};

constexpr int kQueue = 32;

// -inf and NO_ROW: the entry for "no item". Smaller than the key of any finite score.
constexpr u64 kNoKey = 0x007fffffull << 32;

// Maps floats to integers of the same order: negative values are inverted, the others are moved above them.
__device__ __forceinline__ u64 key_of(float score, u32 item) {
  const u32 bits = __float_as_uint(score);
  return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (u32)~item;
}
__device__ __forceinline__ float score_of(u64 key) {
  const u32 order = (u32)(key >> 32);
  return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

// Number of keys of `list` (n keys, best first) that precede `key`.
__device__ __forceinline__ int keys_before(const u64* list, int n, u64 key) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (list[middle] > key) low = middle + 1;
    else high = middle;
  }
  return low;
}

__device__ __forceinline__ bool holds(const u32* ids, u32 n, u32 id) {
  u32 low = 0, high = n;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < n && ids[low] == id;
}

// The queues and lists of a block's users.
struct BestOf {
  TopKParams p;
  u64* queue;   // shared (64, kQueue)
  float* limit;  // shared (64): score of the k-th best, -inf if there are fewer, +inf for rows without a user
  int* queued;  // shared (64): may exceed kQueue, counting entries that found no slot
  int* listed;  // shared (64)
  u32* bad;     // shared (64)

  __device__ __forceinline__ u64* list(int row) const {
    return p.part + ((i64)blockIdx.z * p.b + blockIdx.x * kScoreRows + row) * p.k;
  }

  // Merges a row's queue into its list. Called by all 32 lanes of a warp.
  __device__ __forceinline__ void empty(int row) {
    const int lane = threadIdx.x % 32, count = min(queued[row], kQueue), user = blockIdx.x * kScoreRows + row;
    u64 *mine = queue + row * kQueue, *out = list(row), key = kNoKey;
    const u32* excluded = p.excluded + p.excluded_start[user];
    if (lane < count) key = mine[lane];
    if (key != kNoKey && holds(excluded, p.excluded_start[user + 1] - p.excluded_start[user], (u32)~key)) key = kNoKey;
    const int fresh = __popc(__ballot_sync(kAllLanes, key != kNoKey)), had = listed[row];

    // Sorts by counting the keys before each key.
    if (lane < count) mine[lane] = key;
    __syncwarp();
    int place = 0;
    for (int i = 0; i < count; i++) place += mine[i] > key;
    __syncwarp();
    if (key != kNoKey) mine[place] = key;
    __syncwarp();
    if (key != kNoKey) place += keys_before(out, had, key);

    // Moves list elements from the end on: each slot is read before it is overwritten.
    for (int first = (had - 1) / 32 * 32; first >= 0 && had > 0; first -= 32) {
      const int i = first + lane;
      const u64 old = i < had ? out[i] : kNoKey;
      const int by = i < had ? keys_before(mine, fresh, old) : 0;
      __syncwarp();
      if (by > 0 && i + by < p.k) out[i + by] = old;
      // If nothing is inserted before this group, nothing is inserted before earlier groups.
      if (!__any_sync(kAllLanes, by > 0)) break;
    }
    __syncwarp();
    if (key != kNoKey && place < p.k) out[place] = key;
    __syncwarp();
    if (lane == 0) {
      const int now = min(p.k, had + fresh);
      listed[row] = now;
      queued[row] = 0;
      if (now == p.k) limit[row] = score_of(out[p.k - 1]);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void take(const float (&score)[kRowsEach][kItemsEach], int item, int inside) {
    u64 waiting = 0;  // bit i*8 + j: the score has passed and is not queued yet
    bool odd = false;
#pragma unroll
    for (int i = 0; i < kRowsEach; i++) {
      const float least = limit[score_row(i)];
#pragma unroll
      for (int j = 0; j < kItemsEach; j++) {
        const bool there = score_item(j) < inside;
        odd |= there && !is_finite(score[i][j]);
        // Items ascend: an item that ties with the k-th best ranks after it.
        if (there && score[i][j] > least && score[i][j] < score_infinity()) waiting |= 1ull << (i * kItemsEach + j);
      }
    }
    if (odd) note_bad(bad, score, item, inside);

    for (bool again = false;; again = true) {
      if (again) {
        for (int row = threadIdx.x / 32; row < kScoreRows; row += kScoreThreads / 32)
          if (queued[row] >= kQueue) empty(row);
        __syncthreads();
      }
      if (waiting) {
#pragma unroll
        for (int i = 0; i < kRowsEach; i++)
#pragma unroll
          for (int j = 0; j < kItemsEach; j++) {
            const u64 bit = 1ull << (i * kItemsEach + j);
            if (!(waiting & bit)) continue;
            const int row = score_row(i);
            // The list may contain later items of this tile by now, so that ties must still be compared.
            const int place = score[i][j] < limit[row] ? -1 : atomicAdd(queued + row, 1);
            if (place >= kQueue) continue;
            if (place >= 0) queue[row * kQueue + place] = key_of(score[i][j], item + score_item(j));
            waiting &= ~bit;
          }
      }
      if (!__syncthreads_or(waiting != 0)) break;
    }
  }
};

KERNEL(top_k, TopKParams, 128, 3) {
  DYN_SMEM(shared);
  BestOf work;
  work.p = p;
  work.queue = (u64*)shared;
  float* panels = (float*)(work.queue + kScoreRows * kQueue);
  work.limit = panels + kScorePanels;
  work.queued = (int*)(work.limit + kScoreRows);
  work.listed = work.queued + kScoreRows;
  work.bad = (u32*)(work.listed + kScoreRows);
  const int row0 = blockIdx.x * kScoreRows, begin = blockIdx.z * p.per_split, rows = min(kScoreRows, p.b - row0);
  for (int row = threadIdx.x; row < kScoreRows; row += kScoreThreads) {
    work.limit[row] = row < rows ? -score_infinity() : score_infinity();
    work.queued[row] = work.listed[row] = 0;
    work.bad[row] = kNoId;
  }
  const ScoreWalk w = {p.x + (i64)row0 * p.ld, p.table, p.bias, rows, begin, min(p.v, begin + p.per_split), p.d, p.ld};
  score_walk(w, panels, work);
  for (int row = threadIdx.x / 32; row < rows; row += kScoreThreads / 32) {
    if (work.queued[row] > 0) work.empty(row);
    u64* list = work.list(row);
    for (int i = work.listed[row] + threadIdx.x % 32; i < p.k; i += 32) list[i] = kNoKey;
    if (threadIdx.x % 32 == 0) p.part_bad[(i64)blockIdx.z * p.b + row0 + row] = work.bad[row];
  }
}

KERNEL(top_k_merge, TopKMergeParams, 256) {
  const i64 user = blockIdx.x, stride = (i64)p.b * p.k;
  u64 *from = p.part + user * p.k, *to = p.spare + user * p.k;
  for (int lists = p.splits; lists > 1; lists = (lists + 1) / 2) {
    for (i64 at = threadIdx.x; at < (i64)lists * p.k; at += blockDim.x) {
      const int list = (int)(at / p.k), i = (int)(at % p.k), other = list ^ 1;
      const u64 key = from[list * stride + i];
      const int before = other < lists ? keys_before(from + other * stride, p.k, key) : 0;
      // Fill entries rank after the items of both lists; those of the first list alone fill the rest of the output.
      if (i + before < p.k && (key != kNoKey || list % 2 == 0)) to[list / 2 * stride + i + before] = key;
    }
    __syncthreads();
    u64* swap = from;
    from = to, to = swap;
  }
  for (int i = threadIdx.x; i < p.k; i += blockDim.x) {
    p.item[user * p.k + i] = (u32)~from[i];
    p.score[user * p.k + i] = score_of(from[i]);
  }
  if (threadIdx.x > 0) return;
  u32 bad = kNoId;
  for (int s = 0; s < p.splits; s++) bad = min(bad, p.part_bad[(i64)s * p.b + user]);
  p.bad[user] = bad;
}
