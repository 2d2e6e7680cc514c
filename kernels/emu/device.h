/*
The emulated device behind the driver substitute: its settings, its guarded memory and its fault state. driver.cpp
exposes it through the CUDA driver API.

Environment variables, read when the library is loaded (defaults in parentheses):
  MIPGPU_EMU_ORDER    forward | backward | random     which warp and lane is scheduled first    (forward)
  MIPGPU_EMU_COPY     wait | issue | random           when a cp.async moves its bytes           (wait)
  MIPGPU_EMU_POISON   1 | 0                           shared memory is initialised to NaN or 0  (1)
  MIPGPU_EMU_THREADS  number                          host threads for the blocks of a grid     (1)
  MIPGPU_EMU_SEED     number                          seed of random order and copies           (1)
  MIPGPU_EMU_DEVICES  number                          devices; 0: no device                     (1)
  MIPGPU_EMU_MEMORY   bytes                           of device memory                          (8589934592)
  MIPGPU_EMU_SHARED   bytes                           maximum shared memory per block           (101376, that of sm_86)
  MIPGPU_EMU_SMS      number                          multiprocessors reported                  (2)
  MIPGPU_EMU_CC       e.g. 80                         compute capability reported               (80)
  MIPGPU_EMU_DRIVER   e.g. 12020                      driver version reported                   (13000)
  MIPGPU_EMU_FAIL     lost:N                          the device is lost at launch N, from 0    (never)
                      oom:BYTES                       at most BYTES can be allocated
An invalid value makes cuInit fail with CUDA_ERROR_INVALID_VALUE. The error text names it.
*/
#pragma once
#include <map>
#include <mutex>
#include <string>

#include "simt_rt.h"

// CUresult, the subset in use.
enum Result : int {
  kOk = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100, kInvalidDevice = 101,
  kInvalidContext = 201, kNoBinaryForGpu = 209, kInvalidPtx = 218, kUnsupportedPtxVersion = 222, kInvalidHandle = 400,
  kIllegalState = 401,
  kNotFound = 500, kIllegalAddress = 700, kLaunchOutOfResources = 701, kLaunchFailed = 719, kNotSupported = 801,
  kCaptureUnsupported = 900, kCaptureInvalidated = 901, kCapturedEvent = 907, kUnknown = 999
};

using Address = unsigned long long;  // CUdeviceptr

struct Settings {
  SimtConfig run{SIMT_FORWARD, SIMT_AT_WAIT, 1, 1, 1};
  unsigned devices = 1, multiprocessors = 2, capability = 80, driver = 13000;
  uint64_t memory = 8ull << 30, shared = 99 * 1024;
  uint64_t lost_at = ~0ull;   // index of the launch that loses the device
  std::string complaint;      // about the environment; empty if there is none
};

// State of the device. Every driver call holds `mutex`, recursively inside a graph launch.
struct Device {
  std::recursive_mutex mutex;
  Settings settings;
  uint64_t launches = 0, used = 0;  // launches so far; bytes allocated
  std::map<Address, size_t> memory;
  SimtInterpreter interpreter{};  // null functions: none

  // Sticky device error. As on hardware, the next call that waits for the device reports it, and from then on every
  // call returns it until mipgpu_emu_reset.
  Result fault = kOk;
  bool fault_reported = false;
  std::string fault_text;

  Device();
  Result allocate(Address*, size_t bytes);
  Result release(Address);
  bool contains(Address, size_t bytes) const;  // within a single allocation
  size_t unused() const { return used < settings.memory ? settings.memory - used : 0; }
  int check_guards(std::string* text, bool mend = false) const;  // number of allocations with overwritten guards
  void break_down(Result, const std::string& why);
  Result launch(const SimtKernel*, SimtDim grid, SimtDim block, size_t smem, void** args);
  std::string interpret(const SimtLaunch&);  // as simt_launch, by the interpreter
};
Device& device();

// Stores the reason why the calling thread's last call failed (for cuGetErrorString) and returns the code.
Result refuse(Result, const std::string& why);
const std::string& refusal(Result);  // empty if there is no text for this code
