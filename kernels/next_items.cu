/*
next_items: the batch of next item prediction.
item = raw. Each row predicts the K items that follow it in its sequence, or as many as exist, the nearest first.
row = the predicting row, target = the item to predict, weight = 1 / number of (row, target) pairs.
pos = T - length + index in the sequence.                         raw,item,pos (N)  row,target (M)  weight (M) f32
Sequences without rows in `scored` have no targets. Rows after scored_B are padding: row 2^32-1, target 0, weight 0.
Writes: item pos row target weight.   Saves: nothing.
Launch: grid (B+1), block (32). One warp per sequence; block B writes the padding.
Work: each lane processes one position. The offset of its targets follows from the position alone: all earlier positions
      have K targets, except for the last K of the sequence.
Limits: any.   Numerics: integers, one division.   Cost: reads and writes N + M ids. Latency bound.
*/
#include "common/types.cuh"

struct NextItemsParams {
  u32* item;          // (N)
  u32* pos;           // (N)
  u32* row;           // (M)
  u32* target;        // (M)
  float* weight;      // (M)
  const u32* raw;     // (N)
  const u32* cu;      // (B+1)
  const u32* scored;  // (B+1)
  int b;
  int m;
  u32 t;
  u32 k;
};

KERNEL(next_items, NextItemsParams, 32) {
  const u32 lane = threadIdx.x, b = blockIdx.x;
  if (b == (u32)p.b) {
    for (u32 i = p.scored[b] + lane; i < (u32)p.m; i += 32) p.row[i] = 0xffffffffu, p.target[i] = 0, p.weight[i] = 0.f;
    return;
  }
  const u32 first = p.cu[b], length = p.cu[b + 1] - first, at = p.scored[b];
  const bool asks = p.scored[b + 1] > at;
  const float weight = 1.f / (float)p.scored[p.b];
  for (u32 i = lane; i < length; i += 32) {
    const u32 behind = length - 1 - i;
    p.item[first + i] = p.raw[first + i];
    p.pos[first + i] = p.t - 1 - behind;
    if (!asks) continue;
    // Targets of the earlier positions: K each, except for the `late` ones with fewer than K items after them. Their
    // number decreases by one per position; the last of them has `behind + 1`.
    const u32 from = length > p.k ? length - p.k : 0;  // the first such position
    const u32 late = i > from ? i - from : 0;
    const u32 before = (i - late) * p.k + late * (2 * behind + late + 1) / 2;
    const u32 mine = behind < p.k ? behind : p.k;
    for (u32 j = 0; j < mine; j++) {
      p.row[at + before + j] = first + i;
      p.target[at + before + j] = p.raw[first + i + 1 + j];
      p.weight[at + before + j] = weight;
    }
  }
}
