/*
next_items: the batch of next item prediction.
item = raw. A row is asked for the K items that follow it in its sequence, or as many as there are, the nearest first.
row = the row asked, target = the item asked for, weight = 1 / their number.
pos = T - length + place in the sequence.                         raw,item,pos (N)  row,target (M)  weight (M) f32
A sequence of which `scored` counts no row asks nothing; rows behind scored_B are padding: row 2^32-1, target 0, weight 0.
Writes: item pos row target weight.   Saves: nothing.
Work: a warp takes a sequence, a lane a place; one more warp the padding. Where a place's questions stand follows from the
      place alone: all earlier ones have K each, but for the last K of the sequence.
Limits: any.   Numerics: integers, one division.   Cost: reads and writes N + M ids; bound by latency.
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
    // Questions of the places before: K each, but of the `late` ones with fewer than K items behind, whose number falls
    // by one from place to place, `behind + 1` being the last.
    const u32 from = length > p.k ? length - p.k : 0;  // the first such place
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
