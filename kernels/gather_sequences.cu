/*
gather_sequences: gathers the sequences of a batch from the interactions of all users.
raw[cu_b + i] = data[first_b + i], i in 0..cu_b+1 - cu_b; zeros if first_b is 2^32-1 (padding)
data (I)  first (B)  cu (B+1)  raw (N)
Writes: raw.   Saves: nothing.
Launch: grid (B), block (128). blockIdx.x selects the sequence; its threads copy adjacent items.
Limits: any B, N; I below 2^32.   Numerics: integers.
Cost: reads and writes N ids. Latency bound.
*/
#include "common/types.cuh"

struct GatherSequencesParams {
  u32* raw;          // (N)
  const u32* data;   // (I)
  const u32* first;  // (B)
  const u32* cu;     // (B+1)
};

KERNEL(gather_sequences, GatherSequencesParams, 128) {
  const u32 start = p.cu[blockIdx.x], length = p.cu[blockIdx.x + 1] - start, first = p.first[blockIdx.x];
  for (u32 i = threadIdx.x; i < length; i += blockDim.x)
    p.raw[start + i] = first == 0xffffffffu ? 0 : p.data[(u64)first + i];
}
