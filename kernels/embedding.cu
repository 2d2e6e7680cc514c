/*
embedding: sum of item and position embeddings, and the gradient of the position table.
embedding_fwd: y_n = item_table[item_n] + pos_table[pos_n]     y (N,D) act   item_table (V,D), pos_table (T,D) act
               zeros if item_n is NO_ID (padding)
position_sum:  dtable[p] = sum over sequences b of at least T-p rows of dy[cu_b+1 - (T-p)], b ascending; or accumulated
               dtable (T,D) f32   dy (N,D) act   cu (B+1): the last row of a sequence is at position T-1
Writes: y | dtable (overwritten or accumulated, per Dst).   Saves for bwd: nothing.
gather_table is gather_rows of rows.cu. The gradient of the item table is in segment.cu.
Work: fwd: `lanes` threads per row. position_sum: positions are counted from the end of a sequence, so each sufficiently
      long sequence has exactly one row per position and no search is needed. Each block computes one position and 64
      columns. Its eight warps share the sequences, and their sums are added in order: bitwise reproducible.
Limits: any N, D, V; V*D and N*D may exceed 2^31.   Numerics: f32 sums.
Cost: fwd reads 2*N*D and writes N*D elements; position_sum reads N*D and writes T*D. Memory bound.
*/
#include "common/columns.cuh"

struct EmbeddingFwdParams {
  void* y;                 // (N,D) act
  const void* item_table;  // (V,D) act
  const void* pos_table;   // (T,D) act
  const u32* item;         // (N)
  const u32* pos;          // (N)
  i64 n;
  int d;
  int lanes;
};

struct PositionSumParams {
  float* dtable;   // (T,D)
  const void* dy;  // (N,D) act
  const u32* cu;   // (B+1)
  int b;
  int d;
  int t;
  int add;
};

constexpr u32 kNoId = 0xffffffffu;

template <class T>
__device__ __forceinline__ void embedding_fwd(const EmbeddingFwdParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.n) return;
  const bool vec = rows_aligned(p.item_table, p.d) && aligned16(p.pos_table) && aligned16(p.y);
  const u32 id = p.item[i];
  const T* item = (const T*)p.item_table + (i64)id * p.d;
  const T* pos = (const T*)p.pos_table + (i64)p.pos[i] * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8] = {}, y[8] = {};
    if (id != kNoId) {
      load_row(x, item, c, p.d, vec);
      load_row(y, pos, c, p.d, vec);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] += y[k];
    store_row((T*)p.y + i * p.d, x, c, p.d, vec);
  }
}

// Launch: grid (T, ceil(D/64)), block (256).
template <class T>
__device__ __forceinline__ void position_sum(const PositionSumParams& p) {
  STATIC_SMEM(float2, shared, 256);
  const int lane = threadIdx.x % 32, c = blockIdx.y * 64 + lane * 2;
  const u32 back = p.t - blockIdx.x;  // distance from this position to the end of a sequence
  const bool mine = c < p.d, second = c + 1 < p.d;
  const bool both = second && p.d % 2 == 0 && aligned16(p.dy) && aligned16(p.dtable);
  float2 sum = make_float2(0.f, 0.f);
  if (mine) {
#pragma unroll 4
    for (int b = threadIdx.x / 32; b < p.b; b += 8) {
      const u32 end = p.cu[b + 1];
      if (end - p.cu[b] < back) continue;
      const float2 x = load2((const T*)p.dy + (i64)(end - back) * p.d + c, both, second);
      sum.x += x.x, sum.y += x.y;
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || !mine) return;
  sum = make_float2(0.f, 0.f);
#pragma unroll
  for (int w = 0; w < 8; w++) sum.x += shared[w * 32 + lane].x, sum.y += shared[w * 32 + lane].y;
  float* const row = p.dtable + (i64)blockIdx.x * p.d + c;
  const float2 old = p.add ? load2(row, both, second) : make_float2(0.f, 0.f);
  store2(row, make_float2(old.x + sum.x, old.y + sum.y), both, second);
}

KERNEL(embedding_fwd_bf16, EmbeddingFwdParams, 256) { embedding_fwd<bf16>(p); }
KERNEL(embedding_fwd_f32, EmbeddingFwdParams, 256) { embedding_fwd<float>(p); }
KERNEL(position_sum_bf16, PositionSumParams, 256) { position_sum<bf16>(p); }
KERNEL(position_sum_f32, PositionSumParams, 256) { position_sum<float>(p); }
