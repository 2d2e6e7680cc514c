/*
draw_negatives: samples negative items.
draw_negatives:  negative (S), shared by the batch: uniform, from an alias table, or each item at most once
draw_candidates: id (M,1+S): each scored row's target, then its own negatives. No negative is the target or, if slots >
                 0, an item of the row's sequence. kNoId in the padding rows, from scored[B] on
                 free (M): ln of the probability that a draw is not an excluded item of the row; 0 in the padding rows
mark_own:        own (M,ceil(S/32)), one bit per shared negative: set if it is an item of the row's sequence
Writes: negative | id, free | own.   Saves: nothing.
Draws: Philox stream (seed, Negative, step). src/ops/draw_negatives.rs defines which block produces which draw, and why
       a unique item is included with probability S/V. The index of a draw depends on its position only, so any thread
       can compute any draw.
Work: draw_negatives: one thread per negative. draw_candidates: one block per sequence. Its items are inserted into a
      hash table in shared memory that is at least half empty, so that a draw is checked with one or two reads for any
      sequence length. The threads then stride over the candidates of its rows, which are contiguous.
Limits: V <= 2^32 - 2; sequences of at most 8,192 items if they are excluded.   Numerics: integers; free is the
        logarithm of a sum of integers and does not depend on the order of the threads.
Cost: writes S or M*(1+S) ids. With an alias table, bound by one random 8-byte read per draw.
*/
#include "common/philox.cuh"

struct DrawNegativesParams {
  u32* negative;     // (S)
  const u32* alias;  // (V,2) threshold and other item of each cell, or null: uniform
  const u32* step;   // (1)
  u32 v;
  u32 seed_lo;
  u32 seed_hi;
  int s;
  int unique;  // 1: no item twice
};

struct DrawCandidatesParams {
  u32* id;            // (M,1+S)
  float* free;        // (M), or null: not required
  const u32* target;  // (M)
  const u32* raw;     // (N) items
  const u32* cu;      // (B+1) where each sequence starts in raw
  const u32* scored;  // (B+1) where its rows start in target
  const u32* alias;   // (V,2) or null
  const u32* mass;    // (V,2) mass of each item, or null: uniform, or free is null
  const u32* step;    // (1)
  u32 v;
  u32 seed_lo;
  u32 seed_hi;
  int m;
  int s;
  int b;
  int slots;  // table of own items: a power of two above twice the longest sequence; 0: no exclusion
};

struct MarkOwnParams {
  u32* own;             // (M,ceil(S/32))
  const u32* negative;  // (S)
  const u32* raw;       // (N) items
  const u32* cu;        // (B+1)
  const u32* scored;    // (B+1)
  int m;
  int s;
  int b;
  int slots;  // size of the table of own items
};

// Purpose::Negative of src/base/rng.rs, the attempts per candidate, and the id of "no item".
constexpr u32 kNegativeStream = 5;
constexpr int kTries = 64;
constexpr u64 kCell = 1ull << 32;  // the mass of a cell, and of an item if all items are equally likely
constexpr u32 kNoId = 0xffffffffu;

// Uniform in [0, n) from two words: the upper 64 of the 96 bits of their product with n.
__device__ __forceinline__ u32 below(u32 high, u32 low, u32 n) {
  return (u32)(((u64)high * n + ((u64)low * n >> 32)) >> 32);
}

struct Draws {
  const uint2* alias;
  u32 v, step, seed_lo, seed_hi;

  __device__ __forceinline__ uint4 words(u64 block) const {
    return philox(make_uint4((u32)block, (u32)(block >> 32), step, kNegativeStream), seed_lo, seed_hi);
  }

  // With replacement: a cell, or the other item of the cell if the draw is not below its threshold.
  __device__ __forceinline__ u32 item(u64 block) const {
    const uint4 w = words(block);
    const u32 cell = below(w.x, w.y, v);
    if (!alias) return cell;
    const uint2 shared = alias[cell];
    return w.z < shared.x ? cell : shared.y;
  }

  // Item k of s distinct items: one item of its stratum, rotated by the common offset of this step.
  __device__ __forceinline__ u32 unique(u32 k, u32 s) const {
    const uint4 w = words(k), turn = words(0);
    const u32 first = (u32)((u64)k * v / s), next = (u32)((u64)(k + 1) * v / s);
    return (u32)(((u64)first + below(w.x, w.y, next - first) + below(turn.z, turn.w, v)) % v);
  }
};

// Draw number `block` over all items that are not hits, in proportion to their mass in the table; kNoId if none is
// left. Two passes: the remaining mass, then the item at the drawn position. Rare, so not inlined: inlining would spill
// registers in the sampling loop. Arguments are passed by value, since references would force them onto the stack.
template <class Hit>
__attribute__((noinline)) __device__ u32 draw_of_the_rest(const Draws draw, u64 block, const Hit hit) {
  u64 all = 0, at = 0;
  for (int walk = 0; walk < 2; walk++) {
    for (u32 cell = 0; cell < draw.v; cell++) {
      uint2 shared = {0u, cell};
      if (draw.alias) shared = draw.alias[cell];
      const u64 own = draw.alias ? (u64)shared.x : kCell;
      for (int half = 0; half < 2; half++) {
        const u32 item = half ? shared.y : cell;
        const u64 mass = half ? kCell - own : own;
        if (mass == 0 || hit(item)) continue;
        if (walk == 0) all += mass;
        else if (at < mass) return item;
        else at -= mass;
      }
    }
    const uint4 w = draw.words(block);
    at = __umul64hi((u64)w.x << 32 | w.y, all);
  }
  return kNoId;
}

KERNEL(draw_negatives, DrawNegativesParams, 128) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= p.s) return;
  const Draws draw = {(const uint2*)p.alias, p.v, *p.step, p.seed_lo, p.seed_hi};
  p.negative[k] = p.unique ? draw.unique((u32)k, (u32)p.s) : draw.item(k);
}

// The items of a sequence: a hash table in shared memory with linear probing.
struct OwnItems {
  u32* slots;
  int count;  // number of slots; 0: none

  __device__ __forceinline__ u32 first_place(u32 item) const {
    return (item * 0x9E3779B9u) >> (32 - __popc(count - 1));
  }
  __device__ __forceinline__ u32 next_place(u32 at) const { return (at + 1) & (count - 1); }

  // The slot of an item depends on the order of the threads; the set of items does not.
  __device__ __forceinline__ void insert(u32 item) const {
    for (u32 at = first_place(item);; at = next_place(at)) {
      const u32 was = atomicCAS(slots + at, kNoId, item);
      if (was == kNoId || was == item) return;
    }
  }

  // Replaces the contents by items first <= i < end of a sequence. All threads of the block must call it.
  __device__ __forceinline__ void fill(const u32* raw, u32 first, u32 end) const {
    for (int i = threadIdx.x; i < count; i += blockDim.x) slots[i] = kNoId;
    __syncthreads();
    if (count)
      for (u32 i = first + threadIdx.x; i < end; i += blockDim.x) insert(raw[i]);
    __syncthreads();
  }

  __device__ __forceinline__ bool has(u32 item) const {
    if (count == 0 || item == kNoId) return false;
    for (u32 at = first_place(item);; at = next_place(at)) {
      if (slots[at] == item) return true;
      if (slots[at] == kNoId) return false;
    }
  }
};

// The mass of an item; 0 for ids past V.
__device__ __forceinline__ u64 mass_of(const DrawCandidatesParams& p, u32 item) {
  if (item >= p.v) return 0;
  return p.mass ? (u64)p.mass[2 * (i64)item + 1] << 32 | p.mass[2 * (i64)item] : kCell;
}

// Writes `free` for the rows of sequence b. The table contains each own item once. Masses are integers, so the result
// does not depend on the order of the threads.
__device__ __forceinline__ void write_free(const DrawCandidatesParams& p, const OwnItems& own, u64* sums, int b) {
  const int thread = threadIdx.x, threads = blockDim.x;
  u64 sum = 0;
  for (int i = thread; i < own.count; i += threads)
    if (own.slots[i] != kNoId) sum += mass_of(p, own.slots[i]);
  sums[thread] = sum;
  __syncthreads();
  u64 excluded = 0;
  for (int i = 0; i < threads; i++) excluded += sums[i];
  const u64 all = (u64)p.v * kCell;
  for (u32 row = p.scored[b] + thread; row < p.scored[b + 1]; row += threads) {
    const u32 target = p.target[row];
    const u64 gone = excluded + (own.has(target) ? 0 : mass_of(p, target));
    p.free[row] = gone < all ? logf((float)((double)(all - gone) / (double)all)) : 0.f;
  }
}

// Launch: one block per sequence, at least one.
KERNEL(draw_candidates, DrawCandidatesParams, 128) {
  DYN_SMEM(shared);
  u64* const sums = (u64*)shared;  // one per thread
  const OwnItems own = {(u32*)(sums + 128), p.slots};
  const int width = 1 + p.s, thread = threadIdx.x, threads = blockDim.x, b = blockIdx.x;
  if (b < p.b) {
    own.fill(p.raw, p.cu[b], p.cu[b + 1]);
    if (p.free) write_free(p, own, sums, b);
    const Draws draw = {(const uint2*)p.alias, p.v, *p.step, p.seed_lo, p.seed_hi};
    const i64 row0 = p.scored[b];
    const int count = (int)(p.scored[b + 1] - (u32)row0) * width;
    for (int i = thread; i < count; i += threads) {
      const int j = i % width;
      const i64 row = row0 + i / width;
      const u32 target = p.target[row];
      u32 id = target;
      if (j > 0) {
        const u64 first = ((u64)row * p.s + j - 1) * kTries;
        const auto hit = [=](u32 item) { return item == target || own.has(item); };
        int attempt = 0;
        do id = draw.item(first + attempt);
        while (hit(id) && ++attempt < kTries - 1);
        if (attempt == kTries - 1) id = draw_of_the_rest(draw, first + attempt, hit);
      }
      p.id[row0 * width + i] = id;
    }
  }

  // Padding rows, by all blocks.
  const i64 all = (i64)p.m * width, stride = (i64)gridDim.x * threads;
  for (i64 i = (i64)p.scored[p.b] * width + (i64)b * threads + thread; i < all; i += stride) p.id[i] = kNoId;
  if (p.free)
    for (i64 i = (i64)p.scored[p.b] + (i64)b * threads + thread; i < p.m; i += stride) p.free[i] = 0.f;
}

// Launch: one block per sequence. Computes the bits once, then copies them to the rows of the sequence.
KERNEL(mark_own, MarkOwnParams, 128) {
  DYN_SMEM(shared);
  const OwnItems own = {(u32*)shared, p.slots};
  u32* const bits = own.slots + p.slots;
  const int words = (p.s + 31) / 32, thread = threadIdx.x, threads = blockDim.x, b = blockIdx.x;
  if (b < p.b) {
    own.fill(p.raw, p.cu[b], p.cu[b + 1]);
    for (int word = thread / 32; word < words; word += threads / 32) {
      const int j = word * 32 + thread % 32;
      const u32 marked = __ballot_sync(kAllLanes, j < p.s && own.has(p.negative[j]));
      if (thread % 32 == 0) bits[word] = marked;
    }
    __syncthreads();
    const i64 row0 = p.scored[b];
    const int count = (int)(p.scored[b + 1] - (u32)row0) * words;
    for (int i = thread; i < count; i += threads) p.own[row0 * words + i] = bits[i % words];
  }

  // Padding rows have no own items.
  const i64 all = (i64)p.m * words, stride = (i64)gridDim.x * threads;
  for (i64 i = (i64)p.scored[p.b] * words + (i64)b * threads + thread; i < all; i += stride) p.own[i] = 0;
}
