/*
Shared parts of the driver substitute: handles, streams and the common checks of calls. See driver.cpp.
*/
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "device.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace cuda {

using Op = std::function<Result()>;
struct Graph {
  std::vector<Op> ops;
};
struct Stream {
  std::unique_ptr<Graph> capture;
  bool spoiled = false;
  int mode = 0;            // capture mode: 0 global, 1 thread-local, 2 relaxed
  std::thread::id owner;   // thread that began the capture
};
// The live objects of one kind. A handle is an address; only live handles are accepted.
template <class T>
struct Handles {
  std::set<void*> live;
  template <class H>
  T* add(T* t, H* handle) {
    live.insert(t);
    *handle = t;
    return t;
  }
  T* get(void* handle) { return live.count(handle) ? (T*)handle : nullptr; }
  Result destroy(void* handle) {
    if (!live.erase(handle)) return refuse(kInvalidHandle, "not a live handle");
    delete (T*)handle;
    return kOk;
  }
};
inline Handles<Stream> streams;
inline Stream default_stream;
inline std::vector<Stream*> capturing;
inline bool initialized = false;
inline int retained[64];  // reference count of each device's primary context; its address is the context
inline thread_local int* current_context = nullptr;

// A call that needs a context. After a fault was reported, it returns that fault.
template <class Do>
int call(Do what) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (!initialized) return kNotInitialized;
  if (!current_context || !*current_context) return refuse(kInvalidContext, "no context is current on this thread");
  if (d.fault_reported) return d.fault;
  return what(d);
}
// The same for calls that wait for the device: these report a fault.
template <class Do>
int waiting_call(Do what) {
  return call([&](Device& d) -> Result {
    for (Stream* s : capturing)
      if (s->mode == 0 || (s->mode == 1 && s->owner == std::this_thread::get_id())) {
        s->spoiled = true;
        return refuse(kCaptureUnsupported, "the call would wait for the device while a stream is being captured");
      }
    if (d.fault != kOk) {
      d.fault_reported = true;
      return d.fault;
    }
    return what(d);
  });
}
inline Stream* stream_of(void* handle) {
  const uintptr_t n = (uintptr_t)handle;
  return n <= 2 ? &default_stream : streams.get(handle);  // null, legacy and per-thread default stream
}
// Enqueues work on a stream: runs now, or when the captured graph is launched. No effect after a device fault.
inline Result enqueue(void* stream, Op op) {
  Stream* s = stream_of(stream);
  if (!s) return refuse(kInvalidHandle, "not a live stream");
  if (s->capture) s->capture->ops.push_back(std::move(op));
  else if (device().fault == kOk) return op();
  return kOk;
}
// Enqueues work on device memory, which must still be allocated when the work runs.
inline Result enqueue_on(void* stream, Address to, Address from, size_t bytes, std::function<void()> work) {
  Device& d = device();
  for (Address p : {to, from})
    if (p && bytes && !d.contains(p, bytes))
      return refuse(kInvalidValue, std::to_string(bytes) + " bytes that are not within one allocation");
  return enqueue(stream, [=, &d]() -> Result {
    for (Address p : {to, from})
      if (p && bytes && !d.contains(p, bytes)) d.break_down(kIllegalAddress, "a graph copies freed memory");
    if (d.fault == kOk) work();
    return kOk;
  });
}

}  // namespace cuda
