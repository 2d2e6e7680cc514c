/*
Philox 4x32-10 (Salmon et al., SC 2011): the same bits as src/base/rng.rs, and the dropout masks of src/ops/dropout.rs.

keep(i) of a dropout site: 16-bit random value i >= threshold. Value i is in word i%8/2 of block i/8, low half first.
A block is philox({block, step, site}, seed). The backward pass regenerates the values: no mask is stored.
*/
#pragma once
#include "types.cuh"

__device__ __forceinline__ uint4 philox(uint4 c, u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 hi0 = __umulhi(0xD2511F53u, c.x), lo0 = 0xD2511F53u * c.x;
    const u32 hi1 = __umulhi(0xCD9E8D57u, c.z), lo1 = 0xCD9E8D57u * c.z;
    c = make_uint4(hi1 ^ c.y ^ k0, lo1, hi0 ^ c.w ^ k1, lo0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return c;
}

// Parameters of a dropout site; a field of the kernel parameters. threshold = 0: keep all.
struct Drop {
  u32 threshold;
  u32 site;
  u32 seed_lo;
  u32 seed_hi;
  float scale;
};

// The four words with the random values of elements [8*block, 8*block + 8).
__device__ __forceinline__ uint4 drop_block(const Drop& d, u32 step, u64 block) {
  return philox(make_uint4((u32)block, (u32)(block >> 32), step, d.site), d.seed_lo, d.seed_hi);
}

// The factor of one 16-bit half of a word: d.scale or 0.
__device__ __forceinline__ float drop_factor(const Drop& d, u32 word, int half) {
  return (half ? word >> 16 : word & 0xffffu) >= d.threshold ? d.scale : 0.f;
}

// x[k] *= factor of element 8*block + k.
__device__ __forceinline__ void drop8(float (&x)[8], const Drop& d, u32 step, u64 block) {
  if (d.threshold == 0) return;
  const uint4 w = drop_block(d, step, block);
  const u32 word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] *= drop_factor(d, word[k / 2], k % 2);
}

// The same mask as eight flags: bit k is 1 if element 8*block + k is kept.
__device__ __forceinline__ u32 drop_keep8(const Drop& d, u32 step, u64 block) {
  const uint4 w = drop_block(d, step, block);
  const u32 word[4] = {w.x, w.y, w.z, w.w};
  u32 keep = 0;
#pragma unroll
  for (int k = 0; k < 8; k++) keep |= (u32)((k % 2 ? word[k / 2] >> 16 : word[k / 2] & 0xffffu) >= d.threshold) << k;
  return keep;
}
