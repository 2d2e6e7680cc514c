/*
Sanitiser annotations of the runtime and the device. Both are compiled without instrumentation, with -DSIMT_ASAN or
-DSIMT_TSAN. ASAN(...) and TSAN(...) expand to their arguments, or to nothing.
*/
#pragma once
#include <cstddef>

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define TSAN(...) __VA_ARGS__
#else
#define TSAN(...)
#endif
#ifdef SIMT_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_poison_memory_region(void const volatile*, size_t);
void __asan_unpoison_memory_region(void const volatile*, size_t);
}
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif

// TSan attributes memory that a fiber allocates to writes of that fiber. Hides the runtime's shared allocations from
// it.
struct Quiet {
  Quiet() { TSAN(AnnotateIgnoreWritesBegin(__FILE__, __LINE__); AnnotateIgnoreReadsBegin(__FILE__, __LINE__);) }
  ~Quiet() { TSAN(AnnotateIgnoreReadsEnd(__FILE__, __LINE__); AnnotateIgnoreWritesEnd(__FILE__, __LINE__);) }
};
