/*
A block in execution: its fibers, its warps, its shared memory, and their wait states. simt_rt.cpp runs it,
simt_meet.cpp implements the calls of its threads.
*/
#pragma once
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "sanitizers.h"
#include "simt_rt.h"
#include "simt_switch.h"

namespace simt {

#ifdef SIMT_ASAN
constexpr size_t kStack = 256 * 1024;  // bytes per fiber; frames with red zones are several times larger
#else
constexpr size_t kStack = 64 * 1024;
#endif
constexpr size_t kStackCanary = 64;           // bytes at the low end of a stack that must not change
#ifdef SIMT_TSAN
constexpr size_t kOrders = 4096;
#else
constexpr size_t kOrders = 1;
#endif
[[maybe_unused]] constexpr size_t kMaxEnded = 1500;  // fibers that TSan keeps, see forget_threads
constexpr size_t kMaxThreads = 1024;          // per block
constexpr size_t kMaxStatic = 48 * 1024;      // bytes of static shared memory
constexpr size_t kSmemGuard = 256;            // guard bytes after dynamic shared memory, at least
constexpr size_t kStaticGuard = 64;           // guard bytes after each static array
constexpr unsigned char kFill = 0xff;         // a NaN in bf16 and f32

inline const char* op_name(uint8_t op) {
  static const char* const names[] = {"nothing", "__syncthreads", "__syncwarp", "shuffle", "vote", "ldmatrix", "mma"};
  return names[op];
}

// Plain loops: a sanitiser would intercept memset and memcmp and treat them as accesses of the kernel.
inline void fill(unsigned char* p, size_t n, unsigned char value) {
  const uint64_t wide = 0x0101010101010101ull * value;
  for (; n && (uintptr_t)p & 7; n--) *(volatile unsigned char*)p++ = value;
  for (; n >= 8; n -= 8, p += 8) *(volatile uint64_t*)p = wide;
  for (; n; n--) *(volatile unsigned char*)p++ = value;
}
inline size_t first_changed(const unsigned char* p, size_t n) {  // returns n if nothing changed
  for (size_t i = 0; i < n; i++)
    if (((const volatile unsigned char*)p)[i] != kFill) return i;
  return n;
}

inline bool same_place(const SimtAt& a, const SimtAt& b) {
  if (a.line() != b.line() || a.column() != b.column()) return false;
  // The same location may have two copies of its file name, one per translation unit.
  return a.file_name() == b.file_name() || !strcmp(a.file_name(), b.file_name());
}
inline std::string place(const SimtAt& at) {
  return std::string(at.file_name()) + ":" + std::to_string(at.line());
}
inline std::string text(SimtDim d) {
  char t[64];
  snprintf(t, sizeof t, "(%u,%u,%u)", d.x, d.y, d.z);
  return t;
}

// A collective call of warp lanes that is pending or being read. Lanes with other masks may meet elsewhere at the same
// time.
struct Meet {
  uint32_t mask = 0;     // lanes named in the call; 0: the entry is free
  uint32_t arrived = 0;  // lanes that have arrived
  uint32_t readers = 0;  // lanes that may still read the slots; set when the meet is complete
  SimtOp op = SIMT_NONE;
  SimtAt at;
  SimtSlot slot[32];
  char* order = nullptr;  // for __syncwarp, see Block::new_order
};

struct Warp {
  uint32_t live = 0, ready = 0;  // lanes that have not ended; lanes that can run
  std::vector<std::unique_ptr<Meet>> meets;
};

struct Fiber : SimtThread {
  SimtContext context;
  unsigned char* stack = nullptr;
  bool done = false;
  uint8_t waits = SIMT_NONE;  // the pending operation and its location
  SimtAt at;
  Meet* last = nullptr;  // the completed meet that this lane may still be reading
  std::vector<SimtCopyJob> copies;
  size_t copies_done = 0;
  unsigned groups = 0;  // number of committed groups
  // wgmma: pending products; number of products so far; whether wgmma.fence was executed.
  std::vector<SimtGroupJob> products;
  size_t products_done = 0;
  unsigned product_count = 0;
  bool fenced = false;
  // cp.async: copies in flight; and how far arrived copies are ordered before wgmma.
  bool copying = false;
  enum : uint8_t { SEEN, LANDED, FENCED } copied = SEEN;
  void* sanitizer = nullptr;
};

// A memory mapping that grows on demand and is unmapped at the end.
struct Map {
  unsigned char* at = nullptr;
  size_t bytes = 0;
  void drop() {
    if (!at) return;
    ASAN(__asan_unpoison_memory_region(at, bytes));
    munmap(at, bytes);
    at = nullptr, bytes = 0;
  }
  void reserve(size_t n) {
    if (bytes >= n) return;
    drop();
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      fprintf(stderr, "emulator: no memory for the stacks of a block (%zu bytes)\n", n);
      abort();
    }
    at = (unsigned char*)p, bytes = n;
  }
  Map() = default;
  Map(const Map&) = delete;
  ~Map() { drop(); }
};

// A launch in execution.
struct Run {
  explicit Run(const SimtLaunch& l) : launch(l), blocks((uint64_t)l.grid.x * l.grid.y * l.grid.z) {}
  const SimtLaunch& launch;
  const uint64_t blocks;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::string error;  // the first error
  unsigned alike = 0;  // earlier launches of the same kernel with the same sizes; TSan only
  char ended = 0, fence = 0;  // their addresses represent synchronisation: the end of a fiber, __threadfence
};

// Runs one block at a time. Reused between blocks and launches to keep its mappings.
struct Block {
  Run* run = nullptr;
  SimtDim index{};
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Map stacks, smem;
  struct Static {
    const void* id;
    unsigned char* at;
    size_t bytes;
  };
  std::vector<Static> statics;
  size_t static_begin = 0, static_end = 0;
  uint32_t warps_ready = 0;
  int threads = 0, live = 0, warp = -1;  // `warp`: warp of the running fiber
  Fiber* current = nullptr;
  SimtContext main;
  char failure[600] = {};  // error text of the fiber that ended the block, and its location
  const Fiber* failed = nullptr;
  bool abandoned = false;  // waiting fibers are resumed only to record their end
  SimtAt failed_at;
  std::string error;
  uint64_t random = 1;
  uint8_t priority[32] = {};  // priorities of warps in random order
  // __syncthreads: number and location of arrived threads, and predicate sums of this and the previous barrier.
  int arrived = 0, truths = 0, last_arrived = 0, last_truths = 0;
  SimtAt barrier_at;
  char* barrier_order = nullptr;
  unsigned orders = 0;  // number of orders handed out
  void *main_sanitizer = nullptr, *main_fake = nullptr;
  bool watched = true;  // TSan observes the accesses of this block
  std::vector<void*> ended;  // TSan fibers of ended threads, not yet destroyed
  const void* main_stack = nullptr;
  size_t main_stack_bytes = 0;

  uint64_t draw() {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return random;
  }
  const SimtConfig& config() const { return run->launch.config; }
  void shuffle_priorities() {
    for (uint8_t& p : priority) p = (uint8_t)draw();
  }
  int pick(uint32_t from);
  Fiber* next();
  void wake(int warp, uint32_t lanes);
  // Returns an address that represents one barrier or __syncwarp for TSan: leaving it happens after every entry. Each
  // has its own address in newly mapped memory of the block; otherwise TSan would see an order between unrelated
  // threads.
  char* new_order() { return (char*)smem.at + smem.bytes - kOrders * 8 + orders++ % kOrders * 8; }
  void switch_to(Fiber* to);
  void wait(uint8_t op, SimtAt at);
  void complete_barrier(Fiber* last);
  void complete(Meet& meet, int warp, uint32_t but);
  void leave(Fiber& fiber);
  bool examined(uint64_t block) const;
  void start(uint64_t block);
  void check_guards();
  void end_thread();
  void forget_threads();
  bool execute(uint64_t block);
  [[noreturn]] void fail(const SimtAt* at, const char* format, ...) __attribute__((format(printf, 3, 4)));
};

// The block whose fiber runs on this host thread.
extern __thread Block* running __attribute__((tls_model("initial-exec")));

}  // namespace simt
