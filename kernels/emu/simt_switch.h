/*
Stack switching on one host thread. On x86-64: a dozen instructions that push the callee-saved registers and exchange
the stack pointer. Elsewhere, or with -DSIMT_UCONTEXT: the C library's ucontext, which is twenty times slower (it also
switches the signal mask with a system call).
*/
#pragma once
#include <cstddef>

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)

struct SimtContext {
  void* stack_pointer = nullptr;
};

asm(R"(
.text
.type simt_switch_stacks,@function
simt_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stacks,.-simt_switch_stacks
)");
extern "C" void simt_switch_stacks(void** save, void* load);

inline void simt_switch(SimtContext* from, SimtContext* to) {
  simt_switch_stacks(&from->stack_pointer, to->stack_pointer);
}

// Prepares a stack as if `entry` had been interrupted before its first instruction: six registers, then the return
// address for `ret`. On entry the stack pointer is 8 less than a multiple of 16, as after a call.
inline void simt_prepare(SimtContext* context, void* stack, size_t bytes, void (*entry)()) {
  void** top = (void**)((unsigned char*)stack + bytes - 64);
  *--top = nullptr;
  *--top = (void*)entry;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context->stack_pointer = top;
}

#else

#include <ucontext.h>

struct SimtContext {
  ucontext_t state;
};
inline void simt_switch(SimtContext* from, SimtContext* to) { swapcontext(&from->state, &to->state); }
inline void simt_prepare(SimtContext* context, void* stack, size_t bytes, void (*entry)()) {
  getcontext(&context->state);
  context->state.uc_stack.ss_sp = stack;
  context->state.uc_stack.ss_size = bytes;
  context->state.uc_link = nullptr;
  makecontext(&context->state, entry, 0);
}

#endif
