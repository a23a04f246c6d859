// Switching between the threads of an emulated GPU, each a stack of its own.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emulator {

#ifdef __x86_64__

// What calls must keep is on the stack.
struct Context {
  void* stack = nullptr;
};
extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
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
)");

inline void switch_context(Context& from, Context& to) { emulator_switch(&from.stack, to.stack); }
// `enter`, which does not return, is called at the first switch to it.
inline void make_context(Context& made, char* stack, size_t bytes, void (*enter)()) {
  void** top = reinterpret_cast<void**>(uintptr_t(stack + bytes) & ~uintptr_t(15));
  *--top = nullptr;  // the return address that nobody returns to
  *--top = reinterpret_cast<void*>(enter);
  for (int kept = 0; kept < 6; kept++) *--top = nullptr;
  made.stack = top;
}

#else

#include <ucontext.h>

struct Context {
  ucontext_t place;
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.place, &to.place); }
inline void make_context(Context& made, char* stack, size_t bytes, void (*enter)()) {
  getcontext(&made.place);
  made.place.uc_stack.ss_sp = stack;
  made.place.uc_stack.ss_size = bytes;
  made.place.uc_link = nullptr;
  makecontext(&made.place, enter, 0);
}

#endif

}  // namespace emulator
