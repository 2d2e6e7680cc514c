// The emulated device: settings, memory, faults (see device.h), and the test interface that controls it.
#include "device.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "sanitizers.h"

namespace {

// An allocation is guard, data, guard. The last guard is longer if the data size is not a multiple of kGuard. All bytes
// are initialised to 0xff: uninitialised memory reads as NaN, and a guard that is not all 0xff was overwritten.
constexpr size_t kGuard = 512;
constexpr unsigned char kFill = 0xff;
size_t tail(size_t bytes) { return (bytes + kGuard - 1) / kGuard * kGuard - bytes + kGuard; }

// Index of the first changed byte, or n.
size_t first_changed(const unsigned char* p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (((const volatile unsigned char*)p)[i] != kFill) return i;
  return n;
}

// A word of the list is stored as its index, a number as itself.
void read(Settings& s, const char* name, uint64_t* to, uint64_t most, std::initializer_list<const char*> words = {}) {
  const char* text = getenv(name);
  if (!text) return;
  uint64_t place = 0;
  for (const char* word : words) {
    if (!strcmp(text, word)) return void(*to = place);
    place++;
  }
  char* end = nullptr;
  const uint64_t value = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || value > most)
    s.complaint = std::string(name) + "=" + text + " is not a valid value";
  else
    *to = value;
}
void read(Settings& s, const char* name, unsigned* to, uint64_t most, std::initializer_list<const char*> words = {}) {
  uint64_t value = *to;
  read(s, name, &value, most, words);
  *to = (unsigned)value;
}

Settings from_environment() {
  Settings s;
  constexpr uint64_t kBig = 1ull << 50;
  read(s, "MIPGPU_EMU_ORDER", &s.run.order, 2, {"forward", "backward", "random"});
  read(s, "MIPGPU_EMU_COPY", &s.run.async_copy, 2, {"wait", "issue", "random"});
  read(s, "MIPGPU_EMU_POISON", &s.run.poison, 1);
  read(s, "MIPGPU_EMU_THREADS", &s.run.threads, 256);
  read(s, "MIPGPU_EMU_SEED", &s.run.seed, ~0ull);
  read(s, "MIPGPU_EMU_DEVICES", &s.devices, 64);
  read(s, "MIPGPU_EMU_MEMORY", &s.memory, kBig);
  read(s, "MIPGPU_EMU_SHARED", &s.shared, 227 * 1024);
  read(s, "MIPGPU_EMU_SMS", &s.multiprocessors, 1024);
  read(s, "MIPGPU_EMU_CC", &s.capability, 200);
  read(s, "MIPGPU_EMU_DRIVER", &s.driver, 99999);
  if (const char* fail = getenv("MIPGPU_EMU_FAIL")) {
    const char* const colon = strchr(fail, ':');
    const bool number = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1);
    const uint64_t n = number ? strtoull(colon + 1, nullptr, 10) : 0;
    if (number && !strncmp(fail, "lost:", 5)) s.lost_at = n;
    else if (number && !strncmp(fail, "oom:", 4)) s.memory = n;
    else s.complaint = "MIPGPU_EMU_FAIL=" + std::string(fail) + " is not a valid value";
  }
  return s;
}

thread_local struct {
  Result code = kOk;
  std::string text;
} last_refusal;

}  // namespace

Result refuse(Result code, const std::string& why) {
  last_refusal.code = code, last_refusal.text = why;
  return code;
}
const std::string& refusal(Result code) {
  static const std::string none;
  return last_refusal.code == code ? last_refusal.text : none;
}

Device& device() {
  static Device* const d = new Device;  // never destroyed: calls may arrive during process exit
  return *d;
}
Device::Device() : settings(from_environment()) {}

Result Device::allocate(Address* to, size_t bytes) {
  if (!bytes) return refuse(kInvalidValue, "an allocation of zero bytes");
  if (bytes > settings.memory || used > settings.memory - bytes)
    return refuse(kOutOfMemory, std::to_string(bytes) + " bytes requested, " + std::to_string(unused()) + " of " +
                                    std::to_string(settings.memory) + " are free");
  const size_t all = kGuard + bytes + tail(bytes);
  unsigned char* const base = (unsigned char*)aligned_alloc(kGuard, all);
  if (!base) return refuse(kOutOfMemory, "the host is out of memory");
  memset(base, kFill, all);
  ASAN(__asan_poison_memory_region(base, kGuard); __asan_poison_memory_region(base + kGuard + bytes, tail(bytes));)
  *to = (Address)(base + kGuard);
  memory[*to] = bytes;
  used += bytes;
  return kOk;
}

Result Device::release(Address p) {
  const auto it = memory.find(p);
  if (it == memory.end()) return refuse(kInvalidValue, "not the start of an allocation");
  std::string text;
  if (check_guards(&text)) break_down(kIllegalAddress, text);
  unsigned char* const base = (unsigned char*)p - kGuard;
  ASAN(__asan_unpoison_memory_region(base, kGuard + it->second + tail(it->second));)
  used -= it->second;
  memory.erase(it);
  free(base);
  return kOk;
}

bool Device::contains(Address p, size_t bytes) const {
  auto it = memory.upper_bound(p);
  if (it == memory.begin()) return false;
  --it;
  const size_t at = p - it->first;
  return at <= it->second && bytes <= it->second - at;
}

int Device::check_guards(std::string* text, bool mend) const {
  int damaged = 0;
  for (const auto& [p, bytes] : memory) {
    unsigned char* const data = (unsigned char*)p;
    ASAN(__asan_unpoison_memory_region(data - kGuard, kGuard);
         __asan_unpoison_memory_region(data + bytes, tail(bytes));)
    const size_t before = first_changed(data - kGuard, kGuard), after = first_changed(data + bytes, tail(bytes));
    if (mend) memset(data - kGuard, kFill, kGuard), memset(data + bytes, kFill, tail(bytes));
    ASAN(__asan_poison_memory_region(data - kGuard, kGuard); __asan_poison_memory_region(data + bytes, tail(bytes));)
    if (before == kGuard && after == tail(bytes)) continue;
    damaged++;
    *text = before < kGuard ? "a write " + std::to_string(kGuard - before) + " bytes before"
                            : "a write " + std::to_string(after) + " bytes past the end of";
    *text += " an allocation of " + std::to_string(bytes) + " bytes";
  }
  return damaged;
}

void Device::break_down(Result code, const std::string& why) {
  if (fault != kOk) return;  // only the first fault is recorded
  fault = code, fault_text = why, fault_reported = false;
}

std::string Device::interpret(const SimtLaunch& l) {
  std::vector<SimtMemory> pieces;
  for (const auto& [p, bytes] : memory) pieces.push_back({(unsigned char*)p, bytes});
  const SimtRequest request{l.kernel->module, l.kernel->name, {l.grid.x, l.grid.y, l.grid.z},
                            {l.block.x, l.block.y, l.block.z}, l.smem, l.smem_limit, l.args[0], l.kernel->sizes[0],
                            pieces.data(), pieces.size(), l.config.seed, l.config.order, l.config.async_copy,
                            l.config.poison};
  char why[1024];
  return interpreter.launch(&request, why, sizeof why) ? "" : why;
}

// Runs a launch. It reports no error itself: a fault is returned by the next call that waits for the device.
Result Device::launch(const SimtKernel* kernel, SimtDim grid, SimtDim block, size_t smem, void** args) {
  if (fault != kOk) return kOk;
  if (launches++ >= settings.lost_at) {
    break_down(kLaunchFailed, "the device was lost (simulated failure)");
    return kOk;
  }
  const SimtLaunch what{kernel, grid, block, smem, settings.shared, args, settings.run};
  std::string why = kernel->run ? simt_launch(what) : interpret(what);
  if (!why.empty()) break_down(kLaunchFailed, why);
  else if (check_guards(&why)) break_down(kIllegalAddress, why + ": kernel " + kernel->name);
  return kOk;
}

// ------------------------------------------------------------------------------------------------------ test interface

#define EXPORT extern "C" __attribute__((visibility("default")))

// Sets the configuration of the following launches; see SimtConfig. Returns 0, or CUDA_ERROR_INVALID_VALUE for invalid
// values.
EXPORT int mipgpu_emu_configure(unsigned order, unsigned async_copy, unsigned poison, unsigned threads, uint64_t seed) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (order > SIMT_RANDOM || async_copy > SIMT_RANDOM_TIME || poison > 1 || threads > 256) return kInvalidValue;
  d.settings.run = {order, async_copy, poison, threads, seed};
  return kOk;
}

// Modules that are PTX text are given to this interpreter from now on.
EXPORT void mipgpu_emu_interpret(const SimtInterpreter* interpreter) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  d.interpreter = *interpreter;
}

// kind 0: no failures. kind 1: the device is lost after `after` more launches. kind 2: at most `after` bytes of memory.
EXPORT int mipgpu_emu_fail(int kind, uint64_t after) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (kind < 0 || kind > 2) return kInvalidValue;
  if (kind == 0) d.settings.lost_at = ~0ull, d.settings.memory = Settings().memory;
  if (kind == 1) d.settings.lost_at = d.launches + after;
  if (kind == 2) d.settings.memory = after;
  return kOk;
}

// Number of allocations with writes outside of their bounds; mipgpu_emu_error describes one of them.
EXPORT int mipgpu_emu_check_guards() {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  std::string text;
  const int damaged = d.check_guards(&text);
  if (damaged) d.break_down(kIllegalAddress, text);
  return damaged;
}

// Description of the device fault; empty without a fault. Valid until the next fault or reset.
EXPORT const char* mipgpu_emu_error() { return device().fault_text.c_str(); }

// Resets the device except for its memory and launch settings: clears the fault, repairs guards, disables failures.
EXPORT void mipgpu_emu_reset() {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  d.fault = kOk, d.fault_text.clear(), d.fault_reported = false;
  std::string text;
  d.check_guards(&text, true);
  mipgpu_emu_fail(0, 0);
}

EXPORT uint64_t mipgpu_emu_launches() {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  return d.launches;
}
