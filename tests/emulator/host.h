// Shared by the programs of tests/emulator: the driver interface of the emulator, which they are linked with.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDeviceGetCount(int*);
int cuDeviceGetAttribute(int*, int, int);
int cuDriverGetVersion(int*);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemcpyHtoD_v2(uint64_t, const void*, size_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
int cuMemsetD32Async(uint64_t, unsigned, size_t, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncGetParamInfo(void*, size_t, size_t*, size_t*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventElapsedTime_v2(float*, void*, void*);
int cuGetErrorString(int, const char**);
int cuGetErrorName(int, const char**);
int mipgpu_emu_configure(unsigned order, unsigned async_copy, unsigned poison, unsigned threads, uint64_t seed);
int mipgpu_emu_fail(int kind, uint64_t after);
int mipgpu_emu_check_guards();
void mipgpu_emu_reset();
const char* mipgpu_emu_error();
}

inline std::string describe(int code) {
  const char *name = nullptr, *text = nullptr;
  cuGetErrorName(code, &name), cuGetErrorString(code, &text);
  return std::string(name ? name : "?") + " (" + (text ? text : "?") + ")";
}
inline void must(int code, const char* what) {
  if (!code) return;
  printf("error %s: %s\n", what, describe(code).c_str());
  exit(1);
}
#define MUST(x) must(x, #x)

inline void* open_device() {
  void *context, *module;
  MUST(cuInit(0));
  MUST(cuDevicePrimaryCtxRetain(&context, 0));
  MUST(cuCtxSetCurrent(context));
  MUST(cuModuleLoadData(&module, ""));
  return module;
}

// A copy of host values on the device.
template <class T>
struct OnDevice {
  uint64_t at = 0;
  size_t n;
  explicit OnDevice(const std::vector<T>& v) : n(v.size()) {
    MUST(cuMemAlloc_v2(&at, n * sizeof(T)));
    MUST(cuMemcpyHtoD_v2(at, v.data(), n * sizeof(T)));
  }
  explicit OnDevice(size_t n) : n(n) { MUST(cuMemAlloc_v2(&at, n * sizeof(T))); }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cuMemFree_v2(at); }
  std::vector<T> get() const {
    std::vector<T> v(n);
    MUST(cuMemcpyDtoH_v2(v.data(), at, n * sizeof(T)));
    return v;
  }
};

template <class Params>
int launch(void* module, const char* name, unsigned grid, unsigned block, unsigned smem, Params p,
           void* stream = nullptr) {
  void* function;
  size_t offset, size;
  MUST(cuModuleGetFunction(&function, module, name));
  MUST(cuFuncGetParamInfo(function, 0, &offset, &size));
  if (offset != 0 || size != sizeof p) {
    printf("error: the parameters of %s have %zu bytes here and %zu in the kernel\n", name, sizeof p, size);
    exit(1);
  }
  void* args[] = {&p};
  return cuLaunchKernel(function, grid, 1, 1, block, 1, 1, smem, stream, args, nullptr);
}
