/*
scores: the inputs of top_k and rank.
score_items: score_p = <h_b, table_item_p> + bias_item_p for the pairs start_b <= p < start_b+1 of user b
             h (B,D) act   table (V,D) f32   bias (V) f32   item, score (P)
score_rows:  x_r = h of user_r in f32, zero-padded to `ld` columns; zeros if user_r is NO_ID.   x (R,ld)
Writes: score | x.   Saves: nothing.
Work: score_items: one thread per pair, 16 bytes of the table row at a time. score_rows: one thread per element.
Limits: any D; ld is a multiple of 4.   Numerics: the exact arithmetic of src/ops/top_k.rs (common/scores.cuh).
Cost: score_items reads P table rows, score_rows writes R*ld elements. Memory bound, small compared to top_k and rank.
*/
#include "common/scores.cuh"

struct ScoreItemsParams {
  float* score;        // (P)
  const void* h;       // (B, D) act
  const float* table;  // (V, D)
  const float* bias;   // (V)
  const u32* item;     // (P)
  const u32* start;    // (B+1)
  int b;
  int d;
  int p;
};

struct ScoreRowsParams {
  float* x;         // (R, ld)
  const void* h;    // (B, D) act
  const u32* user;  // (R), or null: row r is user r
  i64 rows;
  int d;
  int ld;
};

template <class T>
__device__ __forceinline__ void score_items(const ScoreItemsParams& p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.p) return;
  const i64 user = owner_of(p.start, p.b, i), item = p.item[i];
  p.score[i] = score_pair((const T*)p.h + user * p.d, p.table + item * p.d, p.bias[item], p.d);
}

template <class T>
__device__ __forceinline__ void score_rows(const ScoreRowsParams& p) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / p.ld;
  if (row >= p.rows) return;
  const int c = (int)(i % p.ld);
  const u32 user = p.user ? p.user[row] : (u32)row;
  p.x[i] = user != kNoId && c < p.d ? to_f32(((const T*)p.h)[(i64)user * p.d + c]) : 0.f;
}

KERNEL(score_items_bf16, ScoreItemsParams, 128) { score_items<bf16>(p); }
KERNEL(score_items_f32, ScoreItemsParams, 128) { score_items<float>(p); }
KERNEL(score_rows_bf16, ScoreRowsParams, 256) { score_rows<bf16>(p); }
KERNEL(score_rows_f32, ScoreRowsParams, 256) { score_rows<float>(p); }
