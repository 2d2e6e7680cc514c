/*
The one header with inline assembly, and the line between the two compilers that read the kernels: nvcc, and the host
compiler that builds the emulator (-DMIPGPU_EMU), for which emu/simt.hpp gives every name below a host twin.

A kernel is written as
  struct GeluFwdParams { ... };                              one field a line: build.rs makes the Rust struct of it
  template <class T> __device__ void gelu_fwd(const GeluFwdParams& p) { ... }
  KERNEL(gelu_fwd_bf16, GeluFwdParams, 256) { gelu_fwd<bf16>(p); }      name, parameters, threads of a block (at most)
Shared memory: DYN_SMEM(name) is the launch's dynamic part (unsigned char*), STATIC_SMEM(type, name, count) a fixed array.
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

// Four 8x8 tiles of 16-bit values; lane i gives the address of row i%8 of tile i/8, 16-byte aligned.
__device__ __forceinline__ void ldsm_x4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(p))
               : "memory");
}

// The same, each tile transposed on the way.
__device__ __forceinline__ void ldsm_x4_t(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(p))
               : "memory");
}

// d (16,8) f32 += a (16,16) bf16 * b (16,8) bf16, the fragments of PTX mma.m16n8k16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x in one instruction: relative error 2^-22, results below 2^-126 become 0. exp2f is exact to its last bits and four
// times as long.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Copies 16 bytes from global to shared memory behind the thread's back; zeros where `wanted` is false.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(shared)), "l"(global),
               "r"(wanted ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's groups are still on their way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

// Threads of a block (at most), then, where the compiler's own choice spills registers, blocks on a multiprocessor (at least).
#define KERNEL(name, Params, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const Params p);   \
  EXPORT_KERNEL(name, KERNEL_THREADS(__VA_ARGS__, 0))                               \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const Params p)
#define KERNEL_THREADS(threads, ...) threads
