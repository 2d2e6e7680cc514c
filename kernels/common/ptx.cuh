/*
The only header with inline assembly, and the boundary between the two compilers of the kernels: nvcc, and the host
compiler that builds the emulator (-DMIPGPU_EMU). For the emulator, emu/simt.hpp defines every name below.

A kernel is written as
  struct GeluFwdParams { ... };                              one field per line: build.rs generates the Rust struct
  template <class T> __device__ void gelu_fwd(const GeluFwdParams& p) { ... }
  KERNEL(gelu_fwd_bf16, GeluFwdParams, 256) { gelu_fwd<bf16>(p); }      name, parameters, maximum threads per block
Shared memory: DYN_SMEM(name) is the dynamic shared memory of the launch (unsigned char*), STATIC_SMEM(type, name,
count) a static array.
*/
#pragma once

#if defined(MIPGPU_EMU)
#include "../emu/simt.hpp"
#else
#include <cuda_bf16.h>

#include <cstdint>
#define EXPORT_KERNEL(name, max_threads)
#define STATIC_SMEM(T, name, n) __shared__ __align__(16) T name[n]
#define DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ uint32_t smem_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Loads four 8x8 tiles of 16-bit values. Lane i passes the address of row i%8 of tile i/8, 16-byte aligned.
__device__ __forceinline__ void ldsm_x4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(p))
               : "memory");
}

// The same, with each tile transposed.
__device__ __forceinline__ void ldsm_x4_t(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(p))
               : "memory");
}

// d (16,8) f32 += a (16,16) bf16 * b (16,8) bf16, with the fragment layouts of PTX mma.m16n8k16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x in one instruction: relative error 2^-22, results below 2^-126 are flushed to 0. exp2f is accurate to the last
// bits and takes four times as long.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Asynchronous copy of 16 bytes from global to shared memory. Writes zeros and does not read if `wanted` is false.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(shared)), "l"(global),
               "r"(wanted ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's groups are pending.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// wgmma, for kernels with their body in HOPPER(...): collective operations of a warpgroup (128 threads). PTX,
// "Asynchronous warpgroup level matrix multiply-accumulate". Descriptors: group.cuh.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA

// Makes this thread's writes to shared memory visible to wgmma, which reads through the async proxy.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Required before the first product after its accumulator or left operand registers were accessed.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Compiler barrier on the accumulators, placed around every series of products: without it the compiler treats them as
// complete at the instruction.
__device__ __forceinline__ void wgmma_hold(float (&d)[8][4]) {
#pragma unroll
  for (int nb = 0; nb < 8; nb++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[nb][i])::"memory");
}

// Commits the products so far and waits for them. Their registers must not be accessed before.
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// d (64,64) f32 += A (64,16) B (64,16)^T, bf16 in shared memory, the reduction index contiguous in both.
__device__ __forceinline__ void wgmma_nt(float (&d)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.eq.u32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9,"
      " %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"
      " %32, %33, p, 1, 1, 0, 0; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]),
        "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
        "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
        "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
        "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "l"(a), "l"(b));
}

// d (64,64) f32 += A (64,16) B (16,64). A is in registers, with the left fragments of mma.m16n8k16 per warp; B is in
// shared memory with contiguous columns.
__device__ __forceinline__ void wgmma_rn(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.eq.u32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9,"
      " %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"
      " {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]),
        "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
        "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
        "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
        "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#endif
#endif

// Body of a kernel that uses wgmma. The launcher selects such kernels only on devices that support it.
#if defined(HAS_WGMMA)
#define HOPPER(...) __VA_ARGS__
#else
#define HOPPER(...) __trap()
#endif

// Launch bounds: maximum threads per block, then the minimum number of blocks per multiprocessor where the compiler's
// default spills registers.
#define KERNEL(name, Params, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const Params p);   \
  EXPORT_KERNEL(name, KERNEL_THREADS(__VA_ARGS__, 0))                               \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const Params p)
#define KERNEL_THREADS(threads, ...) threads
