/*
embedding: rows of tables by id, and the deterministic way back.
embedding_fwd: y_n = item_table[item_n] + pos_table[pos_n]     y (N,D) act   item_table (V,D), pos_table (T,D) act
segment_sum:   dtable[id_s] = sum of dy[order_j], j in start_s..start_s+1 (or added)    dtable (V,D) f32   dy (N,D) act
Writes: y | dtable by Dst; the launcher sets a written dtable to zero first, rows without an id stay so.
Saves for bwd: nothing. gather_table is gather_rows of rows.cu.
Work: fwd, `lanes` threads a row. segment_sum: one hot item may own a tenth of all rows, so that the work is not cut by
      segments but in chunks of 64 sorted rows: a warp takes a chunk and 64 columns, two a lane, with eight rows on their
      way at a time. A run of equal ids inside a chunk is summed and written by its warp. A run that crosses chunks
      leaves at most two partial rows in each (the run it begins with, the run it ends with), which `crossing` adds in the
      order of the chunks, one block a run. Fixed order, one owner a row, no atomics: the same bits every time.
Limits: any N, D, V; V*D may exceed 2^31.   Numerics: f32 sums.
Cost: fwd reads 2*N*D and writes N*D elements; segment_sum reads N*D and writes S*D: memory bound.
*/
#include "common/rows.cuh"

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

struct SegmentSumParams {
  float* dtable;     // (V,D)
  float* partial;    // (chunks,2,D): of the run a chunk begins with, of the run it ends with
  u32* crossing;     // (chunks,2): id of the run that ends with the chunk's last row and goes on, chunks it goes on for
  const void* dy;    // (N,D) act
  const u32* order;  // (N)
  const u32* start;  // (S+1)
  const u32* id;     // (S)
  int n;
  int s;
  int d;
  int add;
};

template <class T>
__device__ __forceinline__ void embedding_fwd(const EmbeddingFwdParams& p) {
  const i64 i = (i64)blockIdx.x * (blockDim.x / p.lanes) + threadIdx.x / p.lanes;
  if (i >= p.n) return;
  const bool vec = rows_aligned(p.item_table, p.d) && aligned16(p.pos_table) && aligned16(p.y);
  const T* item = (const T*)p.item_table + (i64)p.item[i] * p.d;
  const T* pos = (const T*)p.pos_table + (i64)p.pos[i] * p.d;
  for (int c = threadIdx.x % p.lanes * 8; c < p.d; c += p.lanes * 8) {
    float x[8], y[8];
    load_row(x, item, c, p.d, vec);
    load_row(y, pos, c, p.d, vec);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] += y[k];
    store_row((T*)p.y + i * p.d, x, c, p.d, vec);
  }
}

constexpr int kSegmentChunk = 64;

// The segment of sorted row j: the last s with start[s] <= j. The warp looks at 32 places at a time.
__device__ __forceinline__ int segment_of(const u32* start, int segments, int j) {
  const int lane = threadIdx.x % 32;
  int low = 0, high = segments;
  while (high - low > 1) {
    const int step = (high - low + 31) / 32, at = low + lane * step;
    const u32 before = __ballot_sync(kAllLanes, at < high && start[at] <= (u32)j);  // start ascends: the first lanes
    low += (__popc(before) - 1) * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

// Columns c and c+1 of a row; `both`: in one load.
__device__ __forceinline__ float2 load2(const float* p, bool both, bool second) {
  return both ? *(const float2*)p : make_float2(p[0], second ? p[1] : 0.f);
}
__device__ __forceinline__ float2 load2(const bf16* p, bool both, bool second) {
  if (!both) return make_float2(to_f32(p[0]), second ? to_f32(p[1]) : 0.f);
  const u32 raw = *(const u32*)p;
  return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
}

__device__ __forceinline__ void store2(float* p, float2 x, bool both, bool second) {
  if (both) {
    *(float2*)p = x;
  } else {
    p[0] = x.x;
    if (second) p[1] = x.y;
  }
}

// Warps: (chunks, ceil(D/64)).
template <class T>
__device__ __forceinline__ void segment_sum(const SegmentSumParams& p) {
  const int lane = threadIdx.x % 32, tiles = (p.d + 63) / 64;
  const i64 warp = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int chunk = warp / tiles, c = warp % tiles * 64 + lane * 2;
  if ((i64)chunk * kSegmentChunk >= p.n) return;
  const int begin = chunk * kSegmentChunk, count = p.n - begin < kSegmentChunk ? p.n - begin : kSegmentChunk;
  const bool mine = c < p.d, second = c + 1 < p.d;
  const bool both = second && p.d % 2 == 0 && aligned16(p.dy) && aligned16(p.dtable);

  // What the chunk holds, two places a lane: rows of dy, ids of its runs (at most 64), and bit j of `ends` where row j is
  // the last of its run.
  const int s = segment_of(p.start, p.s, begin);
  u32 rows[2], ids[2], ends[2] = {0, 0};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int at = lane + 32 * h;
    rows[h] = at < count ? p.order[begin + at] : 0;
    ids[h] = s + at < p.s ? p.id[s + at] : 0;
    const u32 last = s + at < p.s ? p.start[s + at + 1] - 1 - begin : kSegmentChunk;
    if (last < (u32)count) ends[0] |= last < 32 ? 1u << last : 0, ends[1] |= last < 32 ? 0 : 1u << (last - 32);
  }
#pragma unroll
  for (int k = 16; k; k /= 2) {
    ends[0] |= __shfl_xor_sync(kAllLanes, ends[0], k);
    ends[1] |= __shfl_xor_sync(kAllLanes, ends[1], k);
  }

  bool headless = p.start[s] < (u32)begin;  // the run at hand began in an earlier chunk
  int run = 0;
  float2 sum = make_float2(0.f, 0.f);
  const auto put = [&](float* row, bool add) {
    if (!mine) return;
    const float2 old = add ? load2(row + c, both, second) : make_float2(0.f, 0.f);
    store2(row + c, make_float2(old.x + sum.x, old.y + sum.y), both, second);
  };
  for (int j = 0; j < count; j += 8) {
    float2 dy[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const u32 row = __shfl_sync(kAllLanes, j < 32 ? rows[0] : rows[1], (j + k) % 32);
      const bool wanted = mine && j + k < count;
      dy[k] = wanted ? load2((const T*)p.dy + (i64)row * p.d + c, both, second) : make_float2(0.f, 0.f);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
      sum.x += dy[k].x, sum.y += dy[k].y;
      if (!((j < 32 ? ends[0] : ends[1]) >> (j + k) % 32 & 1)) continue;
      const u32 id = __shfl_sync(kAllLanes, run < 32 ? ids[0] : ids[1], run % 32);
      if (headless) put(p.partial + (i64)chunk * 2 * p.d, false);
      else put(p.dtable + (i64)id * p.d, p.add);
      headless = false, run++, sum = make_float2(0.f, 0.f);
    }
  }
  // The last run goes on in the next chunks; where it began here, `crossing` starts from this chunk.
  const bool goes_on = !((count > 32 ? ends[1] : ends[0]) >> (count - 1) % 32 & 1);
  if (goes_on) put(p.partial + ((i64)chunk * 2 + !headless) * p.d, false);
  if (c) return;
  const bool first = goes_on && !headless;
  p.crossing[2 * chunk] = first ? p.id[s + run] : 0;
  p.crossing[2 * chunk + 1] = first ? (p.start[s + run + 1] - 1) / kSegmentChunk - chunk : 0;
}

KERNEL(embedding_fwd_bf16, EmbeddingFwdParams, 256) { embedding_fwd<bf16>(p); }
KERNEL(embedding_fwd_f32, EmbeddingFwdParams, 256) { embedding_fwd<float>(p); }
KERNEL(segment_sum_bf16, SegmentSumParams, 128) { segment_sum<bf16>(p); }
KERNEL(segment_sum_f32, SegmentSumParams, 128) { segment_sum<float>(p); }

// Blocks (chunks, ceil(D/64)); most have nothing to do. Eight warps share the chunks a run goes on for.
KERNEL(segment_sum_crossing, SegmentSumParams, 256) {
  STATIC_SMEM(float2, shared, 256);
  const i64 chunk = blockIdx.x;
  const int more = p.crossing[2 * chunk + 1], lane = threadIdx.x % 32, c = blockIdx.y * 64 + lane * 2;
  if (!more) return;
  const bool mine = c < p.d, second = c + 1 < p.d;
  float2 sum = make_float2(0.f, 0.f);
  if (mine) {
#pragma unroll 4
    for (int k = threadIdx.x / 32; k <= more; k += 8) {
      const float* row = p.partial + ((chunk + k) * 2 + (k == 0)) * p.d + c;
      sum.x += row[0];
      if (second) sum.y += row[1];
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || !mine) return;
  sum = make_float2(0.f, 0.f);
#pragma unroll
  for (int w = 0; w < 8; w++) sum.x += shared[w * 32 + lane].x, sum.y += shared[w * 32 + lane].y;
  float* row = p.dtable + (i64)p.crossing[2 * chunk] * p.d + c;
  row[0] = p.add ? row[0] + sum.x : sum.x;
  if (second) row[1] = p.add ? row[1] + sum.y : sum.y;
}
