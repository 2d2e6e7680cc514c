/*
sort_ids: which rows share an id, told by sorting.
key   = the ids of id0 | id1 | id2 in ascending order       order, key (N) u32   id0 (N0), id1 (N1), id2 (N2) u32
order = where each stood in id0 | id1 | id2; equal ids keep their order (stable)
Ids are below V; NO_ID (all bits set) marks padding and sorts last, as does anything else that is not below V.
Writes: order key, and between the passes a second pair of them in scratch.   Saves: nothing.
Work: a radix sort from the lowest digit on, eight bits a pass, only as many passes as V needs (two below 65536 items).
      A pass is three launches over tiles of 2048 keys:
      count    how many keys of each digit a tile holds, by integer atomics in shared memory
      scan     how many keys of a digit stand in earlier tiles; a block a digit
      scatter  where each key goes: keys of smaller digits, then keys of its digit in earlier tiles, in earlier warps of the
               tile, in earlier rounds of the warp, in earlier lanes. A warp takes 256 neighbouring keys, 32 a round; eight
               ballots tell a lane which others hold its digit. The tile is put in order in shared memory first, so that
               keys of one digit leave as one run of neighbours.
      A stable sort has one result: nothing in it depends on the cut.
Limits: N < 2^31.   Numerics: integers.
Cost: each pass reads 4 N words (keys twice, places once in all but the first pass) and writes 2 N: memory bound, and for
      less than about 10^5 keys bound by the launches.
*/
#include "common/types.cuh"

struct SortIdsParams {
  u32* order;           // (N) of this pass
  u32* key;             // (N)
  u32* count;           // (256,tiles) keys of a digit in a tile; after the scan, in the tiles before it
  u32* total;           // (256) keys of a digit
  const u32* order_in;  // (N) of the pass before; null in the first
  const u32* key_in;    // (N)
  const u32* id0;       // (N0)
  const u32* id1;       // (N1)
  const u32* id2;       // (N2)
  u32 n0;
  u32 n1;  // N0 + N1
  u32 n;
  u32 v;
  u32 tiles;
  u32 shift;  // of the digit in a key
};

constexpr u32 kNoId = 0xffffffffu;
constexpr int kSortThreads = 256, kSortRounds = 8, kSortTile = kSortThreads * kSortRounds, kDigits = 256;

__device__ __forceinline__ u32 sort_key(const SortIdsParams& p, u32 i) {
  if (p.key_in) return p.key_in[i];
  const u32 id = i < p.n0 ? p.id0[i] : i < p.n1 ? p.id1[i - p.n0] : p.id2[i - p.n1];
  return id < p.v ? id : kNoId;
}

// V stands for NO_ID, so that no more digits are needed than V has.
__device__ __forceinline__ u32 sort_digit(const SortIdsParams& p, u32 key) {
  return (key < p.v ? key : p.v) >> p.shift & (kDigits - 1);
}

// The sum of x over the threads before this one, and over all in `total`; `scratch` holds 8 words. For 256 threads.
__device__ __forceinline__ u32 block_scan(u32 x, u32* scratch, u32& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 sum = x;
#pragma unroll
  for (int k = 1; k < 32; k *= 2) {
    const u32 other = __shfl_up_sync(kAllLanes, sum, k);
    if (lane >= k) sum += other;
  }
  __syncthreads();  // the scratch may still be read by an earlier call
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

// A block a tile.
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

// A block a digit.
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

// A block a tile. Threads are warps of keys in some stages, digits in others: there are as many of one as of the other.
KERNEL(sort_ids_scatter, SortIdsParams, 256) {
  STATIC_SMEM(u32, held, kSortThreads / 32 * kDigits);  // (8,256) keys of a digit in a warp so far; later, where they begin
  STATIC_SMEM(u32, keys, kSortTile);                    // the tile in order
  STATIC_SMEM(u32, orders, kSortTile);
  STATIC_SMEM(u32, shift, kDigits);  // from a place in the ordered tile to its place in the list, by digit
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
    __syncwarp();  // all have read what the first lane of each digit now moves on
    if (inside && lower == 0) ours[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();

  // Thread `mine` sees to digit `mine`.
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
