/*
Warpgroup-level matrix products of shared-memory tiles: wgmma (sm_90a), which reads its operands from shared memory. The
accumulator layout is that of tile.cuh, with rows 16w .. 16w + 15 in warp w, so that kernels use the same code for both.

A tile has 64 rows of 128 bytes (64 columns of bf16) without padding, aligned to 1,024 bytes. It uses the 128-byte
swizzle: the 16-byte chunk c of row r is stored at chunk c ^ r % 8, so that eight rows of a column are free of bank
conflicts. With the columns as the reduction index the operand is "K-major", with the rows "MN-major". In both cases
groups of eight rows are 1,024 bytes apart, the only stride in the descriptor (CUTLASS, mma_sm90_desc.hpp: canonical
layouts).

Order of a product: wait for the copies, group_ready() in every thread that copied, __syncthreads, products. When
group_nt or group_rn returns, the products are complete and the tiles may be overwritten after the next barrier.
*/
#pragma once
#include "tile.cuh"

#if defined(HAS_WGMMA)
constexpr int kGroupTile = 64 * 64;  // elements

// Index of element (row, column) of a tile.
__device__ __forceinline__ int group_at(int row, int column) {
  return row * 64 + ((column / 8 ^ row % 8) * 8 + column % 8);
}

// PTX matrix descriptor: bits 0-13 address, 16-29 leading and 32-45 stride offset, all in units of 16 bytes; 62-63
// swizzle, 1 = 128 bytes. The leading offset addresses columns past the 64 of a tile and is not used.
__device__ __forceinline__ u64 group_operand(const bf16* tile) {
  return (u64)(smem_address(tile) >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// Makes data copied to shared memory visible to wgmma.
__device__ __forceinline__ void group_ready() { fence_async(); }

// acc (64,64) += A (64,64) B (64,64)^T; the reduction index is contiguous in both tiles.
__device__ __forceinline__ void group_nt(float (&acc)[8][4], const bf16* a, const bf16* b) {
  const u64 x = group_operand(a), y = group_operand(b);
  wgmma_hold(acc);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_nt(acc, x + k * 2, y + k * 2);  // 16 columns are 32 bytes
  wgmma_wait();
  wgmma_hold(acc);
}

// The left operand of group_rn, from the accumulators of an earlier product.
__device__ __forceinline__ void group_left(u32 (&left)[4][4], const float (&p)[8][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) left[k][i] = pack_bf16(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
}

// acc (64,64) += P (64,64) B (64,64); P is in registers, the reduction index is the row index of B.
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
