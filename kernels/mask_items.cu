/*
mask_items: the input corruption of masked item prediction.
item = raw, except that some rows of each sequence are masked: 80 % of them get [MASK] (id `items`), 10 % a random item,
10 % the original item.    row = the masked rows in order, target = their original items, weight = 1 / their number.
pos = T - length + index in the sequence.    raw,item,pos (N)  row,target (M)  weight (M) f32
A fraction `mask_last` of the sequences masks only its last row, with [MASK]. The others mask scored[b+1] - scored[b]
rows, the first ones of a Fisher-Yates shuffle, in order. A sequence without such rows is unchanged. Rows after scored_B
are padding: row 2^32-1, target 0, weight 0.
Writes: item pos row target weight.   Saves: nothing.
Draws: Philox stream (seed, Mask, epoch) from draw user*2^22 on, see src/ops/mask_items.rs.
Launch: grid (B+1), block (32). One warp per sequence; block B writes the padding.
Work: the counter-based generator lets a warp compute all its draws in parallel. Only the swaps of the shuffle are
      sequential, by one lane in shared memory. Ballots count and order the masked rows, 32 positions at a time.
Limits: sequences of at most T positions, with 9*T bytes of shared memory.   Numerics: integers, and one comparison of a
        24-bit uniform number in f32.
Cost: reads and writes N + M ids. Latency bound, a few microseconds per step.
*/
#include "common/philox.cuh"

struct MaskItemsParams {
  u32* item;          // (N)
  u32* pos;           // (N)
  u32* row;           // (M)
  u32* target;        // (M)
  float* weight;      // (M)
  const u32* raw;     // (N)
  const u32* cu;      // (B+1)
  const u32* scored;  // (B+1)
  const u32* user;    // (B)
  const u32* epoch;   // (1)
  u32 items;
  float mask_last;
  u32 seed_lo;
  u32 seed_hi;
  int b;
  int m;
  int t;
};

// Purpose::Mask of src/base/rng.rs, and the draws reserved per user.
constexpr u32 kMaskStream = 4;
constexpr u64 kMaskDraws = 1 << 22;

// Draw number i of a user's stream, 32 bits.
struct MaskDraws {
  u64 first;
  u32 epoch, seed_lo, seed_hi;

  __device__ __forceinline__ u32 bits(u32 i) const {
    const u64 block = (first + i) / 4;
    const uint4 w = philox(make_uint4((u32)block, (u32)(block >> 32), epoch, kMaskStream), seed_lo, seed_hi);
    const u32 half[2] = {i % 2 ? w.y : w.x, i % 2 ? w.w : w.z};  // first is a multiple of 4
    return i % 4 < 2 ? half[0] : half[1];
  }

  // Uniform in [0, 1) with 24 bits.
  __device__ __forceinline__ float uniform(u32 i) const { return (float)(bits(i) >> 8) * (1.f / 16777216.f); }

  // Uniform in [0, n), n > 0, from draws i (the high word) and i + 1: the upper 64 of the 96 bits of their product with
  // n.
  __device__ __forceinline__ u32 below(u32 i, u32 n) const {
    const u64 high = (u64)bits(i) * n, low = (u64)bits(i + 1) * n;
    return (u32)((high + (low >> 32)) >> 32);
  }
};

// One warp per block and one block per sequence; the last block writes the padding.
KERNEL(mask_items, MaskItemsParams, 32) {
  DYN_SMEM(shared);
  u32* position = (u32*)shared;                    // (T) the permutation
  u32* swap = position + p.t;                      // (T) swap partner of position i
  unsigned char* hidden = (unsigned char*)(swap + p.t);  // (T) 1: masked
  const int lane = threadIdx.x, b = blockIdx.x;
  if (b == p.b) {
    for (u32 i = p.scored[b] + lane; i < (u32)p.m; i += 32) p.row[i] = 0xffffffffu, p.target[i] = 0, p.weight[i] = 0.f;
    return;
  }
  const u32 first = p.cu[b], length = p.cu[b + 1] - first, at = p.scored[b], count = p.scored[b + 1] - at;
  if (length == 0) return;
  const MaskDraws draw = {p.user[b] * kMaskDraws, *p.epoch, p.seed_lo, p.seed_hi};
  const bool last = count && draw.uniform(0) < p.mask_last;
  const float weight = 1.f / (float)p.scored[p.b];

  for (u32 i = lane; i < length; i += 32) {
    position[i] = i;
    hidden[i] = last && i + 1 == length;
  }
  if (!last) {
    for (u32 i = lane; i < count; i += 32) swap[i] = i + draw.below(1 + 2 * i, length - i);
    __syncwarp();
    if (lane == 0) {
      for (u32 i = 0; i < count; i++) {
        const u32 j = swap[i], picked = position[j];
        position[j] = position[i];  // positions before i are not read again
        hidden[picked] = 1;
      }
    }
  }
  __syncwarp();

  u32 before = 0;  // masked rows of earlier groups
  for (u32 start = 0; start < length; start += 32) {
    const u32 i = start + lane;
    const bool inside = i < length, hide = inside && hidden[i];
    const u32 group = __ballot_sync(kAllLanes, hide), k = before + __popc(group & ((1u << lane) - 1));
    before += __popc(group);
    if (!inside) continue;
    const u32 was = p.raw[first + i];
    u32 shown = was;
    if (hide) {
      p.row[at + k] = first + i;
      p.target[at + k] = was;
      p.weight[at + k] = weight;
      const u32 draws = 1 + 2 * count + 3 * k;
      const float kind = last ? 0.f : draw.uniform(draws);
      if (kind < 0.8f) shown = p.items;
      else if (kind < 0.9f) shown = draw.below(draws + 1, p.items);
    }
    p.item[first + i] = shown;
    p.pos[first + i] = p.t - length + i;
  }
}
