/*
sort_ids: groups rows with equal ids by sorting.
key   = the ids of id0 | id1 | id2 in ascending order       order, key (N) u32   id0 (N0), id1 (N1), id2 (N2) u32
order = their indices in id0 | id1 | id2; equal ids keep their order (stable)
Ids are below V. NO_ID (all bits set) marks padding and sorts last, as does any other value >= V.
Writes: order key, and between passes a second pair of them in scratch.   Saves: nothing.
Work: a least-significant-digit radix sort with eight bits per pass, and only as many passes as V needs (two below 65536
      items). A pass is three launches over tiles of 2048 keys:
      count    the number of keys per digit in each tile, with integer atomics in shared memory
      scan     the number of keys of a digit in earlier tiles; one block per digit
      scatter  the destination of each key: after the keys of smaller digits, then after the keys of its digit in
               earlier tiles, in earlier warps of the tile, in earlier rounds of the warp, and in earlier lanes. Each
               warp processes 256 adjacent keys, 32 per round. Eight ballots give each lane the set of lanes with the
               same digit. The tile is first ordered in shared memory, so that keys of one digit are written to
      consecutive addresses. A stable sort has a unique result: it does not depend on the tiles.
Limits: N < 2^31.   Numerics: integers.
Cost: each pass reads 4 N words (keys twice, indices once in all but the first pass) and writes 2 N. Memory bound; bound
      by launch latency for fewer than about 10^5 keys.
*/
#include "common/types.cuh"

struct SortIdsParams {
  u32* order;           // (N) output of this pass
  u32* key;             // (N)
  u32* count;           // (256,tiles) keys per digit and tile; after the scan, in earlier tiles
  u32* total;           // (256) keys per digit
  const u32* order_in;  // (N) output of the previous pass; null in the first pass
  const u32* key_in;    // (N)
  const u32* id0;       // (N0)
  const u32* id1;       // (N1)
  const u32* id2;       // (N2)
  u32 n0;
  u32 n1;  // N0 + N1
  u32 n;
  u32 v;
  u32 tiles;
  u32 shift;  // bit offset of the digit in a key
};

constexpr u32 kNoId = 0xffffffffu;
constexpr int kSortThreads = 256, kSortRounds = 8, kSortTile = kSortThreads * kSortRounds, kDigits = 256;

__device__ __forceinline__ u32 sort_key(const SortIdsParams& p, u32 i) {
  if (p.key_in) return p.key_in[i];
  const u32 id = i < p.n0 ? p.id0[i] : i < p.n1 ? p.id1[i - p.n0] : p.id2[i - p.n1];
  return id < p.v ? id : kNoId;
}

// V represents NO_ID, so that no more digits are needed than V has.
__device__ __forceinline__ u32 sort_digit(const SortIdsParams& p, u32 key) {
  return (key < p.v ? key : p.v) >> p.shift & (kDigits - 1);
}

// Exclusive prefix sum of x over the threads, and the sum over all threads in `total`. `scratch` holds 8 words. For
// blocks of 256 threads.
__device__ __forceinline__ u32 block_scan(u32 x, u32* scratch, u32& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 sum = x;
#pragma unroll
  for (int k = 1; k < 32; k *= 2) {
    const u32 other = __shfl_up_sync(kAllLanes, sum, k);
    if (lane >= k) sum += other;
  }
  __syncthreads();  // an earlier call may still read the scratch
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  u32 before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kSortThreads / 32; w++) {
    const u32 part = scratch[w];
    if (w < warp) before += part;
    total += part;
  }
  return before + sum - x;
}

// Launch: one block per tile.
KERNEL(sort_ids_count, SortIdsParams, 256) {
  STATIC_SMEM(u32, bins, kDigits);
  bins[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kSortRounds; r++) {
    const u32 i = blockIdx.x * kSortTile + r * kSortThreads + threadIdx.x;
    if (i < p.n) atomicAdd(&bins[sort_digit(p, sort_key(p, i))], 1u);
  }
  __syncthreads();
  p.count[threadIdx.x * p.tiles + blockIdx.x] = bins[threadIdx.x];
}

// Launch: one block per digit.
KERNEL(sort_ids_scan, SortIdsParams, 256) {
  STATIC_SMEM(u32, scratch, 8);
  u32* const count = p.count + blockIdx.x * p.tiles;
  u32 before = 0;
  for (u32 tile = 0; tile < p.tiles; tile += kSortThreads) {
    const u32 i = tile + threadIdx.x, x = i < p.tiles ? count[i] : 0;
    u32 total;
    const u32 mine = block_scan(x, scratch, total);
    if (i < p.tiles) count[i] = before + mine;
    before += total;
  }
  if (threadIdx.x == 0) p.total[blockIdx.x] = before;
}

// Launch: one block per tile. Threads represent keys (by warp) in some stages and digits in others.
KERNEL(sort_ids_scatter, SortIdsParams, 256) {
  STATIC_SMEM(u32, held, kSortThreads / 32 * kDigits);  // (8,256) keys per warp and digit so far; then their offset
  STATIC_SMEM(u32, keys, kSortTile);                    // the ordered tile
  STATIC_SMEM(u32, orders, kSortTile);
  STATIC_SMEM(u32, shift, kDigits);  // by digit: from the index in the ordered tile to the index in the output
  STATIC_SMEM(u32, scratch, 8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = threadIdx.x;
  const u32 tile = blockIdx.x * kSortTile, first = tile + warp * 32 * kSortRounds + lane;
  u32* const ours = held + warp * kDigits;
#pragma unroll
  for (int k = lane; k < kDigits; k += 32) ours[k] = 0;
  __syncwarp();

  u32 key[kSortRounds], rank[kSortRounds];
#pragma unroll
  for (int r = 0; r < kSortRounds; r++) {
    const u32 i = first + 32 * r;
    const bool inside = i < p.n;
    key[r] = inside ? sort_key(p, i) : kNoId;
    const u32 digit = sort_digit(p, key[r]);
    u32 same = __ballot_sync(kAllLanes, inside);
#pragma unroll
    for (int bit = 0; bit < 8; bit++) {
      const bool set = digit >> bit & 1;
      const u32 vote = __ballot_sync(kAllLanes, set);
      same &= set ? vote : ~vote;
    }
    const u32 lower = same & ((1u << lane) - 1);
    rank[r] = ours[digit] + __popc(lower);
    __syncwarp();  // all lanes have read the count that the first lane of each digit advances
    if (inside && lower == 0) ours[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();

  // Thread `mine` processes digit `mine`.
  u32 total, tile_count = 0;
#pragma unroll
  for (int w = 0; w < kSortThreads / 32; w++) {
    const u32 in_warp = held[w * kDigits + mine];
    held[w * kDigits + mine] = tile_count;
    tile_count += in_warp;
  }
  const u32 here = block_scan(tile_count, scratch, total);
  const u32 there = block_scan(p.total[mine], scratch, total) + p.count[mine * p.tiles + blockIdx.x];
#pragma unroll
  for (int w = 0; w < kSortThreads / 32; w++) held[w * kDigits + mine] += here;
  shift[mine] = there - here;  // modulo 2^32
  __syncthreads();

#pragma unroll
  for (int r = 0; r < kSortRounds; r++) {
    const u32 i = first + 32 * r;
    if (i >= p.n) continue;
    const u32 at = ours[sort_digit(p, key[r])] + rank[r];
    keys[at] = key[r];
    orders[at] = p.order_in ? p.order_in[i] : i;
  }
  __syncthreads();
  const u32 count = p.n - tile < kSortTile ? p.n - tile : kSortTile;
  for (u32 at = threadIdx.x; at < count; at += kSortThreads) {
    const u32 moved = keys[at], to = at + shift[sort_digit(p, moved)];
    p.key[to] = moved;
    p.order[to] = orders[at];
  }
}
