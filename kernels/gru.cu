/*
gru: the recurrent part of a gated recurrent unit over packed sequences (Cho et al. 2014, in the cuDNN variant).
fwd: r = sig(gx_r + W_r h + b_r),  z = sig(gx_z + W_z h + b_z),  q = W_n h + b_n,  n = tanh(gx_n + r q)
     h' = (1-z) n + z h             gx (N,3H) act in the order r, z, n   W (3H,H)   b (3H)
     y = h', gates = (r, z, n, q)
bwd: d = dy + gradient from the next row;  dn = d (1-z) (1-n^2),  dq = dn r,  dr = dn q r (1-r),
     dz = d (h-n) z (1-z);  dgx = (dr, dz, dn),  dgh = (dr, dz, dq);  to the previous row: d z + dgh W
Writes: y before gates | dgx dgh (overwritten or accumulated, per Dst).   Saves for bwd: before, gates.
Work: time steps are sequential, so each block processes 16 sequences (8 in float) and iterates over their rows. All of
      them share each read of W, the dominant cost of a step. `pack` first copies W into the lane order of the product,
      zero-padded, so that a step streams it in whole cache lines from L1 or L2 directly into mma operands, without
      shared memory. Each warp owns tiles of 8 columns of all three gates: the accumulators, the state and the gates of
      an element are in one lane, and a step needs one barrier. Elementwise inputs are loaded before the product to hide
      their latency.
Limits: any lengths; H is limited by the shared memory for operands and state (src/backend/simt/gru.rs).
Numerics: state and elementwise operations in f32; operands of products (h, dgh, W) in act.
Cost: fwd reads 3 and writes 6, bwd reads 6 and writes 6 N*H elements; 6*N*H*H flop each. W is read once per step and
      block.
*/
#include "common/conv.cuh"  // load_pair, store_pair

struct GruPackParams {
  void* out;      // (3, H/8 rounded up, 8*HP) act
  const void* w;  // (3H,H) act
  int h;
  int transposed;  // 1: for products with W instead of W^T
};

struct GruFwdParams {
  void* y;            // (N,H) act
  void* before;       // (N,H) act
  void* gates;        // (N,4H) act
  const void* gx;     // (N,3H) act
  const void* w;      // packed
  const float* bias;  // (3H)
  const u32* cu;      // (B+1)
  i64 n;
  int b;
  int h;
};

struct GruBwdParams {
  void* dgx;           // (N,3H) act, null: not required
  void* dgh;           // (N,3H) act, null: not required
  const void* dy;      // (N,H) act
  const void* before;  // (N,H) act
  const void* gates;   // (N,4H) act
  const void* w;       // packed, transposed
  const u32* cu;       // (B+1)
  i64 n;
  int b;
  int h;
  int add_dgx;
  int add_dgh;
};

// Keep in sync with src/backend/simt/gru.rs.
constexpr int kGruThreads = 256, kGruWarps = kGruThreads / 32;
template <class T>
struct GruTiles {
  // Rows of an mma tile; half as many in float, since its operands need twice the memory.
  static constexpr int kRows = sizeof(T) == 2 ? 16 : 8;
  // Accumulators of a lane: two adjacent columns of row lane/4 and, in bf16, of row lane/4 + 8.
  static constexpr int kHalves = kRows / 8;
};

// H padded for the reduction: a multiple of two mma steps.
__device__ __forceinline__ int gru_padded(int h) { return (h + 31) / 32 * 32; }

// Leading dimension of an operand in shared memory. A bf16 lane reads 16 bytes, four lanes per row: an odd multiple of
// 64 bytes places two rows in disjoint banks. A float lane reads 16 bytes, the same for four lanes: 16 bytes of padding
// place eight rows in disjoint banks.
template <class T>
__device__ __forceinline__ int gru_ld(int hp) {
  return sizeof(T) == 4 ? hp + 4 : hp % 64 ? hp : hp + 32;
}

// --------------------------------------------------------------------------------------------------- the packed weight
//
// Per gate, tiles of 8 columns. A tile stores what product3 reads: for every 32 (float: 4) values of the reduction
// index k, the values of each lane in lane order. The order of k inside a chunk is arbitrary if it is the same in both
// operands: a bf16 lane holds 8 adjacent values of k, four for its first fragment and four for its second.

__device__ __forceinline__ int gru_packed_k(const bf16*, int i) { return i / 256 * 32 + i / 8 % 4 * 8 + i % 8; }
__device__ __forceinline__ int gru_packed_column(const bf16*, int i) { return i % 256 / 32; }
__device__ __forceinline__ int gru_packed_k(const float*, int i) { return i / 16 * 2 + i % 4 / 2; }
__device__ __forceinline__ int gru_packed_column(const float*, int i) { return i / 4 % 4 * 2 + i % 2; }

template <class T>
__device__ __forceinline__ void gru_pack(const GruPackParams& p) {
  const int h = p.h, size = 8 * gru_padded(h), tiles = (h + 7) / 8;
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)3 * tiles * size) return;
  const int part = (int)(at / size) / tiles, tile = (int)(at / size) % tiles, i = (int)(at % size);
  const int k = gru_packed_k((const T*)p.w, i), column = tile * 8 + gru_packed_column((const T*)p.w, i);
  const int row = p.transposed ? k : column, c = p.transposed ? column : k;
  ((T*)p.out)[at] = row < h && c < h ? ((const T*)p.w)[((i64)part * h + row) * h + c] : from_f32<T>(0.f);
}

// acc[g] += A_g (rows, HP) B_g (HP, 8) for the three gates: three independent sums. `a`: operand of the rows in shared
// memory, A_g is `part` elements after A_0. `b`: tile of the first gate, the others follow at distance `stride`.
__device__ __forceinline__ void product3(float (&acc)[3][4], const bf16* a, int ld, int part, const bf16* b, i64 stride,
                                         int hp) {
  const int lane = threadIdx.x % 32;
  const bf16 *upper = a + lane / 4 * ld + lane % 4 * 8, *lower = upper + 8 * ld;
  b += lane * 8;
#pragma unroll 2
  for (int k = 0; k < hp; k += 32) {
#pragma unroll
    for (int g = 0; g < 3; g++) {
      const uint4 w = *(const uint4*)(b + g * stride + k * 8);
      const uint4 x = *(const uint4*)(upper + g * part + k), y = *(const uint4*)(lower + g * part + k);
      const u32 first[4] = {x.x, y.x, x.y, y.y}, second[4] = {x.z, y.z, x.w, y.w};
      mma_bf16(acc[g], first, w.x, w.y);
      mma_bf16(acc[g], second, w.z, w.w);
    }
  }
}
__device__ __forceinline__ void product3(float (&acc)[3][2], const float* a, int ld, int part, const float* b,
                                         i64 stride, int hp) {
  const int lane = threadIdx.x % 32;
  a += lane / 4 * ld;
  b += lane % 4 * 4;
#pragma unroll 2
  for (int k = 0; k < hp; k += 4) {
#pragma unroll
    for (int g = 0; g < 3; g++) {
      // (k, first column), (k, second), (k+1, first), (k+1, second); then k+2 and k+3.
      const float4 u = *(const float4*)(b + g * stride + k * 8), v = *(const float4*)(b + g * stride + k * 8 + 16);
      const float4 x = *(const float4*)(a + g * part + k);
      acc[g][0] = fmaf(x.w, v.z, fmaf(x.z, v.x, fmaf(x.y, u.z, fmaf(x.x, u.x, acc[g][0]))));
      acc[g][1] = fmaf(x.w, v.w, fmaf(x.z, v.y, fmaf(x.y, u.w, fmaf(x.x, u.y, acc[g][1]))));
    }
  }
}

// ------------------------------------------------------------------------------------------------------ a block's rows

// The sequences of a block: start and length of the lane's rows (0 past the last sequence). Returns the maximum length
// over the block.
template <int kRows>
__device__ __forceinline__ int gru_sequences(const u32* cu, int b, i64 (&start)[kRows / 8], int (&len)[kRows / 8]) {
  const i64 first = (i64)blockIdx.x * kRows;
  int longest = 0;
  for (int r = 0; r < kRows; r++)
    if (first + r < b) longest = max(longest, (int)(cu[first + r + 1] - cu[first + r]));
#pragma unroll
  for (int half = 0; half < kRows / 8; half++) {
    const i64 s = first + threadIdx.x % 32 / 4 + 8 * half;
    start[half] = s < b ? cu[s] : 0;
    len[half] = s < b ? (int)(cu[s + 1] - cu[s]) : 0;
  }
  return longest;
}

// Writes zeros to rows [from, to) of a matrix of `width` columns; all blocks take part.
template <class T>
__device__ __forceinline__ void gru_zero_rows(void* out, i64 from, i64 to, int width) {
  for (i64 i = from * width + (i64)blockIdx.x * kGruThreads + threadIdx.x; i < to * width;
       i += (i64)gridDim.x * kGruThreads)
    ((T*)out)[i] = from_f32<T>(0.f);
}

// Clears the dynamic shared memory up to `end`: columns past H and sequences past the last one remain zero.
__device__ __forceinline__ void gru_clear(unsigned char* smem, const void* end) {
  for (float* at = (float*)smem + threadIdx.x; at < (const float*)end; at += kGruThreads) *at = 0.f;
  __syncthreads();
}

__device__ __forceinline__ float gru_sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// Shared memory: the state (one float2 per lane, half and tile; each lane reads its own writes), then two alternating
// operands (kRows, ld): a step reads one and writes the other.
template <class T>
__device__ __forceinline__ void gru_fwd(const GruFwdParams& p) {
  constexpr int kRows = GruTiles<T>::kRows, kHalves = GruTiles<T>::kHalves;
  DYN_SMEM(smem);
  const int h = p.h, hp = gru_padded(h), ld = gru_ld<T>(hp), tiles = (h + 7) / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool even = h % 2 == 0;
  float2* state = (float2*)smem;
  T* operands = (T*)(state + tiles * kHalves * 32);
  i64 start[kHalves];
  int len[kHalves];
  const int steps = gru_sequences<kRows>(p.cu, p.b, start, len);
  gru_clear(smem, operands + 2 * kRows * ld);

  for (int t = 0; t < steps; t++) {
    const T* a = operands + t % 2 * kRows * ld;
    T* next = operands + (t + 1) % 2 * kRows * ld;
    for (int tile = warp; tile < tiles; tile += kGruWarps) {
      const int c = acc_col(lane, tile, 0);
      float2 x[kHalves][3];
#pragma unroll
      for (int half = 0; half < kHalves; half++)
#pragma unroll
        for (int g = 0; g < 3; g++) {
          const T* row = (const T*)p.gx + ((start[half] + t) * 3 + g) * h;
          x[half][g] = t < len[half] ? load_pair(row, c, h, even) : make_float2(0.f, 0.f);
        }
      float acc[3][2 * kHalves];
#pragma unroll
      for (int g = 0; g < 3; g++) {
        const float2 bias = load_pair(p.bias + g * h, c, h, even);
#pragma unroll
        for (int i = 0; i < 2 * kHalves; i++) acc[g][i] = i % 2 ? bias.y : bias.x;
      }
      product3(acc, a, ld, 0, (const T*)p.w + (i64)tile * 8 * hp, (i64)tiles * 8 * hp, hp);
#pragma unroll
      for (int half = 0; half < kHalves; half++) {
        if (t >= len[half]) continue;
        float2& held = state[(tile * kHalves + half) * 32 + lane];
        const float old[2] = {held.x, held.y};
        const float in[3][2] = {{x[half][0].x, x[half][0].y}, {x[half][1].x, x[half][1].y},
                                {x[half][2].x, x[half][2].y}};
        float r[2], z[2], n[2], q[2], now[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          r[i] = gru_sigmoid(in[0][i] + acc[0][2 * half + i]);
          z[i] = gru_sigmoid(in[1][i] + acc[1][2 * half + i]);
          q[i] = acc[2][2 * half + i];
          n[i] = tanhf(fmaf(r[i], q[i], in[2][i]));
          now[i] = fmaf(z[i], old[i], (1.f - z[i]) * n[i]);
        }
        held = make_float2(now[0], now[1]);
        put_pair(next + (lane / 4 + 8 * half) * ld + c, now[0], now[1]);
        const i64 row = start[half] + t;
        T* gates = (T*)p.gates + row * 4 * h;
        store_pair((T*)p.y + row * h, c, h, even, now[0], now[1]);
        store_pair((T*)p.before + row * h, c, h, even, old[0], old[1]);
        store_pair(gates, c, h, even, r[0], r[1]);
        store_pair(gates + h, c, h, even, z[0], z[1]);
        store_pair(gates + 2 * h, c, h, even, n[0], n[1]);
        store_pair(gates + 3 * h, c, h, even, q[0], q[1]);
      }
    }
    __syncthreads();  // the next operand is complete, and this one is no longer read
  }
  gru_zero_rows<T>(p.y, p.cu[p.b], p.n, h);
  gru_zero_rows<T>(p.before, p.cu[p.b], p.n, h);
  gru_zero_rows<T>(p.gates, p.cu[p.b], p.n, 4 * h);
}

// Stores or accumulates two elements of a gradient.
template <class T>
__device__ __forceinline__ void gru_gradient(void* out, i64 row, int c, int h, bool even, bool add, float x, float y) {
  if (!out) return;
  T* at = (T*)out + row * h;
  if (add) {
    const float2 old = load_pair(at, c, h, even);
    x += old.x, y += old.y;
  }
  store_pair(at, c, h, even, x, y);
}

// Shared memory: as in gru_fwd. The state is d z of the next row, the operand its dgh: three matrices (kRows, ld).
template <class T>
__device__ __forceinline__ void gru_bwd(const GruBwdParams& p) {
  constexpr int kRows = GruTiles<T>::kRows, kHalves = GruTiles<T>::kHalves;
  DYN_SMEM(smem);
  const int h = p.h, hp = gru_padded(h), ld = gru_ld<T>(hp), tiles = (h + 7) / 8, part = kRows * ld;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool even = h % 2 == 0;
  float2* state = (float2*)smem;
  T* operands = (T*)(state + tiles * kHalves * 32);
  i64 start[kHalves];
  int len[kHalves];
  const int steps = gru_sequences<kRows>(p.cu, p.b, start, len);
  gru_clear(smem, operands + 6 * part);

  // Beyond the length of a sequence, state and operands are zero: its last row receives no gradient from a next row.
  for (int t = steps - 1; t >= 0; t--) {
    const T* a = operands + (t + 1) % 2 * 3 * part;
    T* next = operands + t % 2 * 3 * part;
    for (int tile = warp; tile < tiles; tile += kGruWarps) {
      const int c = acc_col(lane, tile, 0);
      float2 in[kHalves][6];  // dy, before, r, z, n, q
#pragma unroll
      for (int half = 0; half < kHalves; half++) {
        const i64 row = start[half] + t;
#pragma unroll
        for (int i = 0; i < 6; i++) {
          const T* from = i == 0   ? (const T*)p.dy + row * h
                          : i == 1 ? (const T*)p.before + row * h
                                   : (const T*)p.gates + (row * 4 + i - 2) * h;
          in[half][i] = t < len[half] ? load_pair(from, c, h, even) : make_float2(0.f, 0.f);
        }
      }
      float acc[3][2 * kHalves] = {};
      product3(acc, a, ld, part, (const T*)p.w + (i64)tile * 8 * hp, (i64)tiles * 8 * hp, hp);
#pragma unroll
      for (int half = 0; half < kHalves; half++) {
        if (t >= len[half]) continue;
        float2& held = state[(tile * kHalves + half) * 32 + lane];
        const float passed[2] = {held.x, held.y};
        float to[2], dr[2], dz[2], dn[2], dq[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const auto at = [&](int k) { return i ? in[half][k].y : in[half][k].x; };
          const float r = at(2), z = at(3), n = at(4), q = at(5);
          const float d = at(0) + (passed[i] + (acc[0][2 * half + i] + acc[1][2 * half + i] + acc[2][2 * half + i]));
          dn[i] = d * (1.f - z) * (1.f - n * n);
          dr[i] = dn[i] * q * (r * (1.f - r));
          dz[i] = d * (at(1) - n) * (z * (1.f - z));
          dq[i] = dn[i] * r;
          to[i] = d * z;
        }
        held = make_float2(to[0], to[1]);
        T* operand = next + (lane / 4 + 8 * half) * ld + c;
        put_pair(operand, dr[0], dr[1]);
        put_pair(operand + part, dz[0], dz[1]);
        put_pair(operand + 2 * part, dq[0], dq[1]);
        const i64 row = (start[half] + t) * 3;
        gru_gradient<T>(p.dgx, row, c, h, even, p.add_dgx, dr[0], dr[1]);
        gru_gradient<T>(p.dgx, row + 1, c, h, even, p.add_dgx, dz[0], dz[1]);
        gru_gradient<T>(p.dgx, row + 2, c, h, even, p.add_dgx, dn[0], dn[1]);
        gru_gradient<T>(p.dgh, row, c, h, even, p.add_dgh, dr[0], dr[1]);
        gru_gradient<T>(p.dgh, row + 1, c, h, even, p.add_dgh, dz[0], dz[1]);
        gru_gradient<T>(p.dgh, row + 2, c, h, even, p.add_dgh, dq[0], dq[1]);
      }
    }
    __syncthreads();  // as in gru_fwd
  }
  if (p.dgx && !p.add_dgx) gru_zero_rows<T>(p.dgx, p.cu[p.b], p.n, 3 * h);
  if (p.dgh && !p.add_dgh) gru_zero_rows<T>(p.dgh, p.cu[p.b], p.n, 3 * h);
}

KERNEL(gru_pack_bf16, GruPackParams, 256) { gru_pack<bf16>(p); }
KERNEL(gru_pack_f32, GruPackParams, 256) { gru_pack<float>(p); }
KERNEL(gru_fwd_bf16, GruFwdParams, 256, 1) { gru_fwd<bf16>(p); }
KERNEL(gru_fwd_f32, GruFwdParams, 256, 1) { gru_fwd<float>(p); }
KERNEL(gru_bwd_bf16, GruBwdParams, 256, 1) { gru_bwd<bf16>(p); }
KERNEL(gru_bwd_f32, GruBwdParams, 256, 1) { gru_bwd<float>(p); }
