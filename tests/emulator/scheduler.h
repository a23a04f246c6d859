// A grid of blocks of threads, run on one CPU thread in an order that a seed decides.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "threads.h"

namespace emulator {

constexpr int MOST_ARGUMENTS = 32;

struct Launch {
  void* kernel;
  Dim grid;
  unsigned threads;       // of a block
  size_t shared_bytes;    // asked for at launch
  unsigned resident;      // blocks that run at a time
  uint64_t seed;          // 0: in order, 1: the last first, else random
  uint64_t arguments[MOST_ARGUMENTS];
};

// Memory between two pages that nobody may touch, right before the second or right after the first.
struct Guarded {
  char* memory = nullptr;
  size_t bytes = 0;
  char* pages = nullptr;
  size_t all = 0;

  void make(size_t bytes, unsigned char filling, bool at_end);
  // Whether the rest of its pages is as it was filled.
  bool is_clean(unsigned char filling) const;
  void free();
};

void run(const Launch& launch);

// Says what is wrong and which thread did it, and ends the process with status WRONG.
constexpr int WRONG = 77;
[[noreturn]] void fail(const char* what);

}  // namespace emulator
