/*
bias: gradient of the bias of a linear layer (the forward pass is an epilogue of the matrix product).
bwd: db = sum_N dy                dy (N,O) act  db (O) f32
Writes: db (overwritten or accumulated).   Saves for bwd: nothing.
Work: each block sums 64 columns of one of `parts` row ranges. Eight lanes share a row, and each lane sums its eight
      columns. The block then adds its 32 groups in order. With more than one part, blocks write partial rows, which
      `finish` adds in order. The split depends on the sizes only: deterministic, no atomics.
Limits: any N, O; N*O may exceed 2^31.   Numerics: f32 sums.
Cost: reads N*O elements. Memory bound.
*/
#include "common/rows.cuh"

struct BiasBwdParams {
  float* out;      // (parts,O); db itself if there is one part
  const void* dy;  // (N,O) act
  i64 n;
  i64 rows;  // rows per part
  int o;
  int add;  // 1: accumulate into out
};

struct BiasFinishParams {
  float* db;             // (O)
  const float* partial;  // (parts,O)
  int parts;
  int o;
  int add;
};

// Launch: grid (ceil(O/64), parts), block (256).
template <class T>
__device__ __forceinline__ void bias_bwd(const BiasBwdParams& p) {
  STATIC_SMEM(float, shared, 32 * 64);
  const int lane = threadIdx.x % 8, group = threadIdx.x / 8, c = blockIdx.x * 64 + lane * 8;
  const bool vec = rows_aligned(p.dy, p.o);
  const i64 first = (i64)blockIdx.y * p.rows, end = first + p.rows < p.n ? first + p.rows : p.n;
  float sum[8] = {};
#pragma unroll 4
  for (i64 row = first + group; row < end; row += 32) {
    float dy[8];
    load_row(dy, (const T*)p.dy + row * p.o, c, p.o, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) sum[k] += dy[k];
  }
  store8(shared + group * 64 + lane * 8, sum);
  __syncthreads();
  const int column = blockIdx.x * 64 + threadIdx.x;
  if (threadIdx.x >= 64 || column >= p.o) return;
  float total = 0.f;
#pragma unroll 8
  for (int g = 0; g < 32; g++) total += shared[g * 64 + threadIdx.x];
  float* out = p.out + (i64)blockIdx.y * p.o + column;
  *out = p.add ? *out + total : total;
}

KERNEL(bias_bwd_bf16, BiasBwdParams, 256) { bias_bwd<bf16>(p); }
KERNEL(bias_bwd_f32, BiasBwdParams, 256) { bias_bwd<float>(p); }

// Launch: grid (ceil(O/32)), block (512).
KERNEL(bias_bwd_finish, BiasFinishParams, 512) {
  STATIC_SMEM(float, shared, 512);
  finish_columns<512>(p.db, p.partial, p.parts, p.o, p.add, shared);
}
