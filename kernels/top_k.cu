/*
top_k: the best k items of the catalogue for each of B vectors, without ever a matrix of scores.
item, score (B,K): candidates with the highest scores, best first, of equal ones the smaller id; NO_ROW and -inf where there
are fewer than K.   bad (B): the first item with a score that is NaN or infinite (no candidate), else NO_ROW.
Candidates: all items but excluded[excluded_start_b .. excluded_start_b+1], ascending and distinct.
Writes: item score bad.   Saves: nothing.
Work: the walk of common/scores.cuh: a block owns 64 users and sees a range of items. A score that beats the user's k-th best
  goes to the user's queue in shared memory (32 places, taken by an integer atomic: the set decides, not the order). A
  full queue is emptied by a warp: excluded items drop out (a binary search each, so that the walk need not know of them),
  the rest is sorted by counting and merged into the user's list, which lies in global memory and stays in the L2 cache:
  each element's new place is its own plus the number of elements of the other side before it. Once the k-th best is
  good, almost nothing passes, and the walk runs at the speed of the multiply-adds.
  Ranges are split so that few users fill a GPU too; a second kernel merges the lists of all ranges, two by two, by the
  same counting of places.
  A key is (score, ~id) in 64 bits that compare as integers: keys are all different, so that the result does not depend
  on who comes first.
Limits: K up to what the launcher says; the longer the lists, the more the merging costs.   Numerics: common/scores.cuh.
Cost: 2 BDV operations that are not fused: half the rate of multiply-adds. Compute bound from a few users on.
*/
#include "common/scores.cuh"

// grid (row tiles, 1, splits)
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
  int per_split;  // items, a multiple of 128
};

// A block a user.
struct TopKMergeParams {
  u32* item;            // (B, K)
  float* score;         // (B, K)
  u32* bad;             // (B)
  u64* part;            // (splits, B, K)
  u64* spare;           // (splits, B, K) scratch: merged lists go to and fro
  const u32* part_bad;  // (splits, B)
  int b;
  int k;
  int splits;
};

constexpr int kQueue = 32;

// -inf and NO_ROW: what stands where there is no item. Smaller than the key of any finite score.
constexpr u64 kNoKey = 0x007fffffull << 32;

// Floats as integers of the same order: negative ones turned over, the others moved above them.
__device__ __forceinline__ u64 key_of(float score, u32 item) {
  const u32 bits = __float_as_uint(score);
  return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (u32)~item;
}
__device__ __forceinline__ float score_of(u64 key) {
  const u32 order = (u32)(key >> 32);
  return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

// How many of `n` keys, best first, are before `key`.
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
  float* limit;  // shared (64): score of the k-th best, -inf while there are fewer, +inf of a row that is no user
  int* queued;  // shared (64): may count beyond kQueue those that found no place
  int* listed;  // shared (64)
  u32* bad;     // shared (64)

  __device__ __forceinline__ u64* list(int row) const {
    return p.part + ((i64)blockIdx.z * p.b + blockIdx.x * kScoreRows + row) * p.k;
  }

  // Merges a row's queue into its list; the 32 lanes of a warp together.
  __device__ __forceinline__ void empty(int row) {
    const int lane = threadIdx.x % 32, count = min(queued[row], kQueue), user = blockIdx.x * kScoreRows + row;
    u64 *mine = queue + row * kQueue, *out = list(row), key = kNoKey;
    const u32* excluded = p.excluded + p.excluded_start[user];
    if (lane < count) key = mine[lane];
    if (key != kNoKey && holds(excluded, p.excluded_start[user + 1] - p.excluded_start[user], (u32)~key)) key = kNoKey;
    const int fresh = __popc(__ballot_sync(kAllLanes, key != kNoKey)), had = listed[row];

    // Sorts by counting who is before whom.
    if (lane < count) mine[lane] = key;
    __syncwarp();
    int place = 0;
    for (int i = 0; i < count; i++) place += mine[i] > key;
    __syncwarp();
    if (key != kNoKey) mine[place] = key;
    __syncwarp();
    if (key != kNoKey) place += keys_before(out, had, key);

    // The list moves up from its end: a place is read before anything is moved to it.
    for (int first = (had - 1) / 32 * 32; first >= 0 && had > 0; first -= 32) {
      const int i = first + lane;
      const u64 old = i < had ? out[i] : kNoKey;
      const int by = i < had ? keys_before(mine, fresh, old) : 0;
      __syncwarp();
      if (by > 0 && i + by < p.k) out[i + by] = old;
      // Nothing was put before this group: nothing is put before earlier ones.
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
    u64 waiting = 0;  // bit i*8 + j: the score has passed and has no place yet
    bool odd = false;
#pragma unroll
    for (int i = 0; i < kRowsEach; i++) {
      const float least = limit[score_row(i)];
#pragma unroll
      for (int j = 0; j < kItemsEach; j++) {
        const bool there = score_item(j) < inside;
        odd |= there && !is_finite(score[i][j]);
        // Items ascend: one with the score of the k-th best comes behind it.
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
            // The list may hold later items of this tile by now, so that an equal score still has to be compared.
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
      // What fills up a list comes behind all items of both; that of the first list alone reaches to the end.
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
