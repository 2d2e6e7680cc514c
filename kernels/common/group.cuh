/*
Products of tiles by a warpgroup: wgmma (sm_90a), which reads its operands from shared memory itself. The accumulators lie
as those of tile.cuh, warp w with rows 16w .. 16w + 15, so that what a kernel does with them is the same text for both.

A tile here is 64 rows of 128 bytes (64 columns of bf16) without padding, at a multiple of 1,024 bytes; chunk c of 16
bytes of row r lies at chunk c ^ r % 8 (the swizzle of 128 bytes), so that eight rows of a column meet different banks.
Read with its columns as the summed index it is an operand "K-major"; with its rows, "MN-major". In both, eight rows are
1,024 bytes from the next eight: the one stride that a descriptor says (CUTLASS, mma_sm90_desc.hpp: canonical layouts).

Order of a product: copies waited for, group_ready() by every thread that copied, __syncthreads, products. They have
ended, and the tiles may be overwritten after the next barrier, when group_nt or group_rn returns.
*/
#pragma once
#include "tile.cuh"

#if defined(HAS_WGMMA)
constexpr int kGroupTile = 64 * 64;  // elements

// Where element (row, column) of a tile lies.
__device__ __forceinline__ int group_at(int row, int column) {
  return row * 64 + ((column / 8 ^ row % 8) * 8 + column % 8);
}

// PTX, matrix descriptor: bits 0-13 address, 16-29 leading and 32-45 stride offset, all in 16 bytes; 62-63 swizzle, 1 = 128
// bytes. The leading offset leads to columns beyond the 64 of a tile: there are none.
__device__ __forceinline__ u64 group_operand(const bf16* tile) {
  return (u64)(smem_address(tile) >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// What was copied to shared memory becomes visible to wgmma.
__device__ __forceinline__ void group_ready() { fence_async(); }

// acc (64,64) += A (64,64) B (64,64)^T, tiles with the summed index along their rows.
__device__ __forceinline__ void group_nt(float (&acc)[8][4], const bf16* a, const bf16* b) {
  const u64 x = group_operand(a), y = group_operand(b);
  wgmma_hold(acc);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_nt(acc, x + k * 2, y + k * 2);  // 16 columns are 32 bytes
  wgmma_wait();
  wgmma_hold(acc);
}

// The left operand of group_rn, from accumulators of an earlier product.
__device__ __forceinline__ void group_left(u32 (&left)[4][4], const float (&p)[8][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) left[k][i] = pack_bf16(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
}

// acc (64,64) += P (64,64) B (64,64), P in registers, the summed index down B's rows.
__device__ __forceinline__ void group_rn(float (&acc)[8][4], const u32 (&left)[4][4], const bf16* b) {
  const u64 y = group_operand(b);
  wgmma_hold(acc);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_rn(acc, left[k], y + k * 128);  // 16 rows are 2,048 bytes
  wgmma_wait();
  wgmma_hold(acc);
}
#endif
