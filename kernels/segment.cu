/*
segment: the gradient of a table from the gradients of gathered rows: sums over runs of sorted ids.
segment_sum:  dtable[id] = sum of the rows with key id, in the order of `order` (or accumulated)      dtable (V,D) f32
segment_rows: rows[j] = the same sum, if a run of one id begins at position j of `key`                rows (R,D) f32
Row i of R = N + S + M*P:  dy (N,D) act  |  panel (S,D) act  |  g[j] * h[j/P], g (M*P) f32, h (M,D) act
dy, panel: null for zeros; h: null for ones.   order, key (R): outputs of sort_ids.   Keys >= V are skipped.
Writes: out (overwritten or accumulated, per Dst); the launcher zeroes an overwritten `out` first, rows without a sum
stay 0.   Saves for bwd: nothing.
Work: one popular item may own a tenth of all rows, so the work is split into chunks of 64 sorted rows, not into runs.
      Each warp processes a chunk and 64 columns, two per lane, with eight rows in flight. A run inside a chunk is
      summed and written by its warp. A run that crosses chunks leaves at most two partial rows per chunk (for the run
      at its start and the run at its end). `crossing` adds them in the order of the chunks, one block per run. Fixed
      order, one owner per row, no atomics: bitwise reproducible.
Limits: R < 2^31; V*D and R*D may exceed it.   Numerics: f32 sums.
Cost: reads R*D elements (for pairs, the M*D elements of h repeatedly from cache), writes one row per run and the zeros.
      Memory bound.
*/
#include "common/columns.cuh"

struct SegmentParams {
  float* out;         // (V,D) by id, or (R,D) by the position where a run begins
  float* partial;     // (chunks,2,D): of the run at the start of a chunk, of the run at its end
  u32* crossing;      // (chunks,2): row of `out` of the run that crosses the chunk's end; its further chunks
  const void* dy;     // (N,D) act, may be null
  const void* panel;  // (S,D) act, may be null
  const float* g;     // (M*P)
  const void* h;      // (M,D) act, may be null
  const u32* order;   // (R)
  const u32* key;     // (R)
  u32 n;
  u32 pairs;  // N + S: index of the first pair
  u32 p;
  u32 rows;  // R
  u32 v;
  int d;
  int by_place;
  int add;
};

constexpr u32 kChunk = 64;

// Number of chunks after `chunk` that begin with a row of `id`, the id at the end of this chunk. The warp tests the
// next 32 chunks first, which is nearly always sufficient, then 32 positions of the remaining range.
__device__ __forceinline__ u32 chunks_of(const SegmentParams& p, u32 chunk, u32 id) {
  const u32 lane = threadIdx.x % 32, chunks = (p.rows + kChunk - 1) / kChunk;
  u32 low = 0, high = chunks - chunk;  // the run reaches into chunk + low, but not into chunk + high
  for (u32 step = 1; high - low > 1; step = (high - low + 31) / 32) {
    const u32 at = low + (lane + 1) * step;
    const bool reached = at < high && p.key[(chunk + at) * kChunk] == id;
    const u32 lanes = __popc(__ballot_sync(kAllLanes, reached));  // keys ascend: these are the first lanes
    low += lanes * step;
    if (lanes < 32 && low + step < high) high = low + step;
  }
  return low;
}

// Launch: warps (chunks, ceil(D/64)), the column tile varies fastest.
template <class T>
__device__ __forceinline__ void segment_sum(const SegmentParams& p) {
  const int lane = threadIdx.x % 32, tiles = (p.d + 63) / 64;
  const i64 warp = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (warp / tiles * kChunk >= p.rows) return;
  const u32 chunk = warp / tiles, begin = chunk * kChunk;
  const int tile = warp % tiles, c = tile * 64 + lane * 2;
  const int count = p.rows - begin < kChunk ? p.rows - begin : kChunk;
  const bool mine = c < p.d, second = c + 1 < p.d;
  const bool both = second && p.d % 2 == 0 && aligned16(p.dy) && aligned16(p.panel) && aligned16(p.h) &&
                    aligned16(p.out);

  // The contents of the chunk, two positions per lane: addresses and factors of the rows. Bit j of `ends` is set if row
  // j is the last of its run. A row without an address consists of its factor in every column.
  u32 ends[2];
  u64 address[2];
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int at = lane + 32 * half;
    const bool inside = at < count;
    const u32 id = inside ? p.key[begin + at] : p.v;
    ends[half] = __ballot_sync(kAllLanes, inside && (begin + at + 1 == p.rows || p.key[begin + at + 1] != id));
    address[half] = 0, factor[half] = 0.f;
    if (id < p.v) {
      const u32 row = p.order[begin + at], pair = row - p.pairs;
      const bool single = row < p.pairs;
      const T* const from = (const T*)(row < p.n ? p.dy : single ? p.panel : p.h);
      const u32 i = row < p.n ? row : single ? row - p.n : pair / p.p;
      if (from) address[half] = (u64)(uintptr_t)(from + (i64)i * p.d);
      factor[half] = single ? from ? 1.f : 0.f : p.g[pair];
    }
  }

  bool headless = begin > 0 && p.key[begin - 1] == p.key[begin];  // the current run began in an earlier chunk
  u32 from = begin;                                               // otherwise: position where it begins
  float2 sum = make_float2(0.f, 0.f);
  const auto put = [&](float* row, bool add) {
    if (!mine) return;
    const float2 old = add ? load2(row + c, both, second) : make_float2(0.f, 0.f);
    store2(row + c, make_float2(old.x + sum.x, old.y + sum.y), both, second);
  };
  for (int j = 0; j < count; j += 8) {
    float2 x[8];
    float by[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const T* const row = (const T*)(uintptr_t)__shfl_sync(kAllLanes, j < 32 ? address[0] : address[1], (j + k) % 32);
      by[k] = __shfl_sync(kAllLanes, j < 32 ? factor[0] : factor[1], (j + k) % 32);
      x[k] = row && mine ? load2(row + c, both, second) : make_float2(1.f, 1.f);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
      sum.x += by[k] * x[k].x, sum.y += by[k] * x[k].y;  // past the end of the chunk the factor is 0
      if (!((j < 32 ? ends[0] : ends[1]) >> (j + k) % 32 & 1)) continue;
      const u32 id = p.key[begin + j + k];
      if (id < p.v && headless) put(p.partial + (i64)chunk * 2 * p.d, false);
      else if (id < p.v) put(p.out + (i64)(p.by_place ? from : id) * p.d, p.add);
      headless = false, from = begin + j + k + 1, sum = make_float2(0.f, 0.f);
    }
  }
  // The last run continues in the next chunks. If it began here, `crossing` starts from this chunk.
  const u32 id = p.key[begin + count - 1];
  const bool goes_on = id < p.v && !((count > 32 ? ends[1] : ends[0]) >> (count - 1) % 32 & 1);
  if (goes_on) put(p.partial + ((i64)chunk * 2 + !headless) * p.d, false);
  if (tile) return;
  const bool starts = goes_on && !headless;
  const u32 more = starts ? chunks_of(p, chunk, id) : 0;
  if (lane) return;
  p.crossing[2 * (i64)chunk] = p.by_place ? from : id;
  p.crossing[2 * (i64)chunk + 1] = more;
}

KERNEL(segment_sum_bf16, SegmentParams, 128) { segment_sum<bf16>(p); }
KERNEL(segment_sum_f32, SegmentParams, 128) { segment_sum<float>(p); }

// Launch: grid (chunks, ceil(D/64)); most blocks exit at once. Eight warps share the chunks of a run.
KERNEL(segment_crossing, SegmentParams, 256) {
  STATIC_SMEM(float2, shared, 256);
  const i64 chunk = blockIdx.x;
  const u32 more = p.crossing[2 * chunk + 1];
  const int lane = threadIdx.x % 32, c = blockIdx.y * 64 + lane * 2;
  if (!more) return;
  const bool mine = c < p.d, second = c + 1 < p.d;
  float2 sum = make_float2(0.f, 0.f);
  if (mine) {
#pragma unroll 4
    for (u32 k = threadIdx.x / 32; k <= more; k += 8) {
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
  float* row = p.out + (i64)p.crossing[2 * chunk] * p.d + c;
  row[0] = p.add ? row[0] + sum.x : sum.x;
  if (second) row[1] = p.add ? row[1] + sum.y : sum.y;
}
