/*
concat: concatenation of rows along the feature dimension.
fwd: y = [a | b | c]                       a (N,A)  b (N,B)  c (N,C)  y (N,A+B+C) act; widths may be 0
bwd: da, db, dc = the corresponding columns of dy (overwritten or accumulated); a null output is skipped
Writes: y | da, db, dc.   Saves for bwd: nothing.
Work: `lanes` threads process a row of A+B+C columns, eight elements per thread and iteration. If all widths are
      multiples of eight and all pointers are aligned, the eight elements belong to one part and are moved with vector
      accesses. Otherwise the part is found for each element.
Limits: any N and widths; N*(A+B+C) may exceed 2^31.   Numerics: exact copies; accumulation in f32.
Cost: reads and writes N*(A+B+C) elements. Memory bound.
*/
#include "common/rows.cuh"

struct ConcatFwdParams {
  void* y;        // (N,A+B+C) act
  const void* a;  // (N,A) act
  const void* b;  // (N,B) act
  const void* c;  // (N,C) act
  i64 n;
  int a_width;
  int b_width;
  int c_width;
  int lanes;
};

struct ConcatBwdParams {
  void* da;        // (N,A) act, may be null
  void* db;        // (N,B) act, may be null
  void* dc;        // (N,C) act, may be null
  const void* dy;  // (N,A+B+C) act
  i64 n;
  int a_width;
  int b_width;
  int c_width;
  int lanes;
  int a_add;
  int b_add;
  int c_add;
};

// Location of column `col` of row i: the part (0, 1, 2) and the element index in that part.
struct Place {
  int part;
  i64 at;
};
__device__ __forceinline__ Place place(i64 i, int col, int a, int b, int c) {
  if (col < a) return {0, i * a + col};
  if (col < a + b) return {1, i * b + col - a};
  return {2, i * c + col - a - b};
}

// True if eight adjacent columns that start at a multiple of eight always belong to one part.
__device__ __forceinline__ bool in_eights(int a, int b, int c) { return (a | b | c) % 8 == 0; }

template <class T>
__device__ __forceinline__ void concat_fwd(const ConcatFwdParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.n) return;
  const int d = p.a_width + p.b_width + p.c_width;
  const bool vec = in_eights(p.a_width, p.b_width, p.c_width) && aligned16(p.y) && aligned16(p.a) && aligned16(p.b) &&
                   aligned16(p.c);
  for (int col = threadIdx.x % p.lanes * 8; col < d; col += p.lanes * 8) {
    float x[8] = {};
    if (vec) {
      const Place from = place(i, col, p.a_width, p.b_width, p.c_width);
      load8(x, (const T*)(from.part == 0 ? p.a : from.part == 1 ? p.b : p.c) + from.at);
    } else {
#pragma unroll
      for (int k = 0; k < 8; k++) {
        if (col + k >= d) break;
        const Place from = place(i, col + k, p.a_width, p.b_width, p.c_width);
        x[k] = to_f32(((const T*)(from.part == 0 ? p.a : from.part == 1 ? p.b : p.c))[from.at]);
      }
    }
    store_row((T*)p.y + i * d, x, col, d, vec);
  }
}

template <class T>
__device__ __forceinline__ void concat_bwd(const ConcatBwdParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.n) return;
  const int d = p.a_width + p.b_width + p.c_width;
  const bool vec = in_eights(p.a_width, p.b_width, p.c_width) && aligned16(p.dy) && aligned16(p.da) &&
                   aligned16(p.db) && aligned16(p.dc);
  for (int col = threadIdx.x % p.lanes * 8; col < d; col += p.lanes * 8) {
    if (vec) {
      const Place where = place(i, col, p.a_width, p.b_width, p.c_width);
      T* const part = (T*)(where.part == 0 ? p.da : where.part == 1 ? p.db : p.dc);
      if (!part) continue;  // a skipped part is not read either
      T* const to = part + where.at;
      float x[8], old[8] = {};
      load8(x, (const T*)p.dy + i * d + col);
      if (where.part == 0 ? p.a_add : where.part == 1 ? p.b_add : p.c_add) load8(old, to);
#pragma unroll
      for (int k = 0; k < 8; k++) x[k] += old[k];
      store8(to, x);
    } else {
#pragma unroll
      for (int k = 0; k < 8; k++) {
        if (col + k >= d) break;
        const Place where = place(i, col + k, p.a_width, p.b_width, p.c_width);
        T* const part = (T*)(where.part == 0 ? p.da : where.part == 1 ? p.db : p.dc);
        if (!part) continue;
        const bool add = where.part == 0 ? p.a_add : where.part == 1 ? p.b_add : p.c_add;
        const float old = add ? to_f32(part[where.at]) : 0.f;
        part[where.at] = from_f32<T>(old + to_f32(((const T*)p.dy)[i * d + col + k]));
      }
    }
  }
}

KERNEL(concat_fwd_bf16, ConcatFwdParams, 256) { concat_fwd<bf16>(p); }
KERNEL(concat_fwd_f32, ConcatFwdParams, 256) { concat_fwd<float>(p); }
KERNEL(concat_bwd_bf16, ConcatBwdParams, 256) { concat_bwd<bf16>(p); }
KERNEL(concat_bwd_f32, ConcatBwdParams, 256) { concat_bwd<float>(p); }
