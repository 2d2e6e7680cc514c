/*
Synchronisation of the threads of a block, and other calls of a kernel: barriers, collective calls of warp lanes, the
mma product, asynchronous copies, static shared memory.
*/
#include "simt_block.h"

namespace simt {

// All threads have arrived (`last` is the latest; nullptr: a thread ended instead).
void Block::complete_barrier(Fiber* last) {
  last_arrived = arrived, last_truths = truths;
  arrived = truths = 0;
  for (size_t w = 0; w < warps.size(); w++)
    wake((int)w, warps[w].live & ~(last && last->linear / 32 == (int)w ? 1u << last->lane : 0u));
  if (config().order == SIMT_RANDOM) shuffle_priorities();
}

// d (16,8) += a (16,16) * b (16,8) in the lane layout of PTX mma.m16n8k16: lane 4g + t holds columns 2t and 2t+1 of
// rows g and g+8.
static void multiply(SimtSlot* slot) {
  alignas(32) float a[16][16], b[16][8], d[16][8];
  auto half = [](uint32_t two, int high) {
    const uint32_t bits = high ? two & 0xffff0000u : two << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
  };
  for (int lane = 0; lane < 32; lane++) {
    const auto& m = slot[lane].mma;
    const int g = lane / 4, t = lane % 4 * 2;
    for (int h = 0; h < 2; h++) {
      a[g][t + h] = half(m.a[0], h), a[g + 8][t + h] = half(m.a[1], h);
      a[g][t + 8 + h] = half(m.a[2], h), a[g + 8][t + 8 + h] = half(m.a[3], h);
      b[t + h][g] = half(m.b[0], h), b[t + 8 + h][g] = half(m.b[1], h);
      d[g][t + h] = m.d[h], d[g + 8][t + h] = m.d[2 + h];
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
  for (int lane = 0; lane < 32; lane++) {
    auto& m = slot[lane].mma;
    const int g = lane / 4, t = lane % 4 * 2;
    for (int h = 0; h < 2; h++) m.d[h] = d[g][t + h], m.d[2 + h] = d[g + 8][t + h];
  }
}

// All live lanes named in the call have arrived: they continue, except those of `but`, which did not wait.
void Block::complete(Meet& meet, int which, uint32_t but) {
  if (meet.op == SIMT_MMA) multiply(meet.slot);
  meet.readers = meet.arrived;
  wake(which, meet.arrived & ~but);
}

// The lane no longer reads the table of its last meet; the last reader frees the entry.
void Block::leave(Fiber& fiber) {
  if (!fiber.last) return;
  Meet& meet = *fiber.last;
  meet.readers &= ~(1u << fiber.lane);
  if (!meet.readers) meet.mask = meet.arrived = 0;
  fiber.last = nullptr;
}

}  // namespace simt

using namespace simt;

// ------------------------------------------------------------------------------------------------ calls of the kernels

void simt_fail(const char* what, SimtAt at) { running->fail(&at, "%s", what); }

void simt_syncthreads(int predicate, int* count, int* threads, SimtAt at) {
  Block& b = *running;
  b.leave(*b.current);
  if (!b.arrived) b.barrier_at = at, b.barrier_order = b.new_order();
  else if (!same_place(b.barrier_at, at))
    b.fail(&at, "__syncthreads reached from two places, the other is %s:%u", b.barrier_at.file_name(),
           b.barrier_at.line());
  // Stored, since a thread may reach the next barrier before another has left this one.
  TSAN(char* const order = b.barrier_order; if (b.watched) __tsan_release(order);)
  b.truths += predicate;
  if (++b.arrived == b.live) b.complete_barrier(b.current);
  else b.wait(SIMT_SYNCTHREADS, at);
  TSAN(if (b.watched) __tsan_acquire(order);)
  if (b.current->copied == Fiber::FENCED) b.current->copied = Fiber::SEEN;
  if (count) *count = b.last_truths, *threads = b.last_arrived;
}

SimtTable simt_meet(SimtOp op, uint32_t mask, const SimtSlot& mine, SimtAt at) {
  Block& b = *running;
  Fiber& me = *b.current;
  const int which = me.linear / 32;
  Warp& w = b.warps[(size_t)which];
  const uint32_t bit = 1u << me.lane;
  b.leave(me);
  if (!(mask & bit)) b.fail(&at, "%s: the calling lane is not in its own mask", op_name(op));
  if (op >= SIMT_LDMATRIX && w.live != ~0u) b.fail(&at, "%s in an incomplete warp", op_name(op));

  Meet* meet = nullptr;
  for (auto& m : w.meets) {
    // Skip meets that are free, complete or unrelated: those with waiting lanes that may continue before they arrive
    // here, because this call does not name them or they do not name this lane.
    if (!m->mask || m->readers || !(m->mask & bit) || !(m->arrived & mask)) continue;
    if (m->op != op || m->mask != mask || !same_place(m->at, at))
      b.fail(&at, "lanes of one warp meet at different calls: %s (mask %08x) and, at %s:%u, %s (mask %08x)",
             op_name(op), mask, m->at.file_name(), m->at.line(), op_name(m->op), m->mask);
    meet = m.get();
    break;
  }
  for (size_t i = 0; !meet; i++) {
    if (i == w.meets.size()) {
      const Quiet quiet;
      w.meets.push_back(std::make_unique<Meet>());
    }
    if (w.meets[i]->mask) continue;
    meet = w.meets[i].get();
    meet->mask = mask, meet->op = op, meet->at = at, meet->order = b.new_order();
  }
  meet->slot[me.lane] = mine;
  meet->arrived |= bit;
  me.last = meet;
  TSAN(if (op == SIMT_SYNCWARP && b.watched) __tsan_release(meet->order);)
  if (meet->arrived == (mask & w.live)) b.complete(*meet, which, bit);
  else b.wait(op, at);
  TSAN(if (op == SIMT_SYNCWARP && b.watched) __tsan_acquire(meet->order);)
  return {meet->slot, meet->arrived};
}

uint32_t simt_live_lanes() { return running->warps[(size_t)running->current->linear / 32].live; }

void simt_threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  TSAN(__tsan_acquire(&running->run->fence); __tsan_release(&running->run->fence);)
}

bool simt_copy_now() {
  Block& b = *running;
  b.current->copying = true;
  return b.config().async_copy == SIMT_AT_ISSUE || (b.config().async_copy == SIMT_RANDOM_TIME && b.draw() % 2);
}
// Copies for the next step may be in flight while wgmma reads the data of the previous step.
void simt_copy_waited() {
  Fiber& f = *running->current;
  if (f.copying) f.copying = false, f.copied = Fiber::LANDED;
}
void simt_group_fence_copies() {
  Fiber& f = *running->current;
  if (f.copied == Fiber::LANDED) f.copied = Fiber::FENCED;
}
void simt_group_fence_registers() { running->current->fenced = true; }

// The completion time of a product is undefined, as that of a copy, but must be the same for all lanes of a warp.
bool simt_group_push(const SimtGroupJob& job) {
  Block& b = *running;
  Fiber& f = *b.current;
  if (b.threads % 128) b.fail(&job.at, "wgmma in a block with incomplete warpgroups");
  if (!f.fenced) b.fail(&job.at, "wgmma without a wgmma.fence after access to its registers");
  if (f.copied == Fiber::LANDED) b.fail(&job.at, "wgmma reads copied data without fence.proxy.async after the wait");
  if (f.copied == Fiber::FENCED) b.fail(&job.at, "wgmma reads copied data without a barrier after fence.proxy.async");
  const uint64_t number = b.config().seed + (uint64_t)f.linear / 32 * 977 + f.product_count++;
  const bool waits = f.products_done < f.products.size();
  if (!waits && (b.config().async_copy == SIMT_AT_ISSUE ||
                 (b.config().async_copy == SIMT_RANDOM_TIME && number * 0x9e3779b97f4a7c15ull >> 63)))
    return true;
  const Quiet quiet;
  SimtGroupJob kept = job;
  kept.first = true;
  for (size_t i = f.products_done; i < f.products.size(); i++) kept.first &= f.products[i].d != job.d;
  if (kept.first)
    for (int i = 0; i < kGroupAccumulators; i++) kept.before[i] = job.d[i], job.d[i] = __builtin_nanf("");
  f.products.push_back(kept);
  return false;
}

// The next pending product in order.
bool simt_group_pop(SimtGroupJob* job) {
  Fiber& f = *running->current;
  f.fenced = false;
  if (f.products_done == f.products.size()) {
    f.products.clear(), f.products_done = 0;
    return false;
  }
  *job = f.products[f.products_done++];
  if (job->first)
    for (int i = 0; i < kGroupAccumulators; i++) job->d[i] = job->before[i];
  return true;
}

void simt_copy_push(void* to, const void* from, unsigned size, unsigned bytes) {
  const Quiet quiet;
  Fiber& f = *running->current;
  f.copies.push_back({to, from, size, bytes, f.groups});
}
void simt_copy_commit() { running->current->groups++; }

// The next copy that a wait for all but the `keep` newest groups must complete; false: none is left.
bool simt_copy_pop(unsigned keep, SimtCopyJob* job) {
  Fiber& f = *running->current;
  if (f.copies_done == f.copies.size()) {
    f.copies.clear(), f.copies_done = 0;
    return false;
  }
  *job = f.copies[f.copies_done];
  if (job->group + keep >= f.groups) return false;
  f.copies_done++;
  return true;
}

void* simt_static_smem(const void* id, size_t bytes, size_t align) {
  Block& b = *running;
  for (const Block::Static& s : b.statics)
    if (s.id == id) return s.at;
  const size_t begin = (b.static_end + align - 1) / align * align, end = begin + bytes + kStaticGuard;
  size_t together = b.run->launch.smem + bytes;
  for (const Block::Static& s : b.statics) together += s.bytes;
  if (together - b.run->launch.smem > kMaxStatic || end - b.static_begin > kMaxStatic + 1024)
    b.fail(nullptr, "more than 48 KiB of static shared memory");
  if (together > b.run->launch.smem_limit)
    b.fail(nullptr, "%zu bytes of dynamic and static shared memory exceed the maximum per block", together);
  unsigned char* const at = b.smem.at + begin;
  b.static_end = end;
  ASAN(__asan_unpoison_memory_region(at, bytes + kStaticGuard);)
  fill(at, bytes, b.config().poison ? kFill : 0);
  fill(at + bytes, kStaticGuard, kFill);
  ASAN(__asan_poison_memory_region(at + bytes, kStaticGuard);)
  const Quiet quiet;
  b.statics.push_back({id, at, bytes});
  return at;
}

