// Streams, events and graphs of the driver substitute; see driver.cpp.
#include "driver.h"

#include <chrono>

using namespace cuda;

namespace {

struct Event {
  std::chrono::steady_clock::time_point time;
  bool timing = true, recorded = false, captured = false;
};

Handles<Event> events;
Handles<Graph> graphs, executables;

}  // namespace

// -------------------------------------------------------------------------------------------------- streams and events

EXPORT int cuStreamCreate(void** stream, unsigned) {
  return call([&](Device&) { return streams.add(new Stream, stream), kOk; });
}
EXPORT int cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
EXPORT int cuStreamDestroy_v2(void* stream) {
  std::lock_guard lock(device().mutex);
  std::erase(capturing, stream);
  const Result r = streams.destroy(stream);
  return device().fault_reported ? device().fault : r;
}
EXPORT int cuStreamSynchronize(void* stream) {
  return waiting_call([&](Device&) {
    Stream* s = stream_of(stream);
    if (!s) return refuse(kInvalidHandle, "not a live stream");
    if (s->capture) return s->spoiled = true, kCaptureUnsupported;
    return kOk;
  });
}
EXPORT int cuStreamQuery(void* stream) { return cuStreamSynchronize(stream); }  // no work is ever pending
EXPORT int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  return call([&](Device&) {
    const Event* e = events.get(event);
    const Stream* s = stream_of(stream);
    if (!e || !s) return refuse(kInvalidHandle, "not a live stream or event");
    if (e->captured && !s->capture) return refuse(kNotSupported, "the emulator captures one stream at a time");
    return kOk;
  });
}
EXPORT int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
  return call([&](Device&) { return enqueue(stream, [=] { return function(data), kOk; }); });
}
EXPORT int cuEventCreate(void** event, unsigned flags) {
  return call([&](Device&) { return events.add(new Event, event)->timing = !(flags & 2), kOk; });
}
EXPORT int cuEventDestroy_v2(void* event) {
  std::lock_guard lock(device().mutex);
  const Result r = events.destroy(event);
  return device().fault_reported ? device().fault : r;
}
EXPORT int cuEventRecord(void* event, void* stream) {
  return call([&](Device&) {
    Event* e = events.get(event);
    const Stream* s = stream_of(stream);
    if (!e || !s) return refuse(kInvalidHandle, "not a live stream or event");
    e->captured = s->capture != nullptr, e->recorded = !e->captured, e->time = std::chrono::steady_clock::now();
    return kOk;
  });
}
EXPORT int cuEventSynchronize(void* event) {
  return waiting_call([&](Device&) {
    const Event* e = events.get(event);
    if (!e) return refuse(kInvalidHandle, "not a live event");
    return e->captured ? kCapturedEvent : kOk;
  });
}
EXPORT int cuEventQuery(void* event) { return cuEventSynchronize(event); }
EXPORT int cuEventElapsedTime_v2(float* ms, void* from, void* to) {
  return waiting_call([&](Device&) {
    const Event *a = events.get(from), *b = events.get(to);
    if (!a || !b || !a->timing || !b->timing || !a->recorded || !b->recorded)
      return refuse(kInvalidHandle, "events without timing or not recorded");
    *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
    return kOk;
  });
}
EXPORT int cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }

// -------------------------------------------------------------------------------------------------------------- graphs

EXPORT int cuStreamBeginCapture_v2(void* stream, int mode) {
  return call([&](Device&) {
    Stream* s = stream_of(stream);
    if (!s) return refuse(kInvalidHandle, "not a live stream");
    if (s == &default_stream) return refuse(kCaptureUnsupported, "the default stream cannot be captured");
    if (s->capture) return refuse(kIllegalState, "the stream is already being captured");
    s->capture = std::make_unique<Graph>();
    s->mode = mode, s->owner = std::this_thread::get_id(), s->spoiled = false;
    capturing.push_back(s);
    return kOk;
  });
}
EXPORT int cuStreamEndCapture(void* stream, void** graph) {
  return call([&](Device&) {
    *graph = nullptr;
    Stream* s = stream_of(stream);
    if (!s || !s->capture) return refuse(kIllegalState, "the stream is not being captured");
    std::unique_ptr<Graph> captured = std::move(s->capture);
    std::erase(capturing, s);
    if (s->spoiled) return refuse(kCaptureInvalidated, "a call during the capture would have waited for the device");
    graphs.add(captured.release(), graph);
    return kOk;
  });
}
EXPORT int cuStreamIsCapturing(void* stream, int* status) {
  return call([&](Device&) {
    const Stream* s = stream_of(stream);
    if (!s) return refuse(kInvalidHandle, "not a live stream");
    *status = !s->capture ? 0 : s->spoiled ? 2 : 1;
    return kOk;
  });
}
EXPORT int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  return call([&](Device&) {
    const Graph* g = graphs.get(graph);
    if (!g) return refuse(kInvalidHandle, "not a live graph");
    executables.add(new Graph(*g), executable);
    return kOk;
  });
}
EXPORT int cuGraphUpload(void* executable, void*) {
  return call([&](Device&) { return executables.get(executable) ? kOk : refuse(kInvalidHandle, "not a live graph"); });
}
EXPORT int cuGraphLaunch(void* executable, void* stream) {
  return call([&](Device&) {
    const Graph* g = executables.get(executable);
    if (!g) return refuse(kInvalidHandle, "not a live graph");
    for (const Op& op : g->ops)
      if (const Result r = enqueue(stream, op)) return r;
    return kOk;
  });
}
EXPORT int cuGraphDestroy(void* graph) {
  std::lock_guard lock(device().mutex);
  return graphs.destroy(graph);
}
EXPORT int cuGraphExecDestroy(void* executable) {
  std::lock_guard lock(device().mutex);
  return executables.destroy(executable);
}
