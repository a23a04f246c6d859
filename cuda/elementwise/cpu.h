// What models/ops/elementwise/cpu.py calls: a formula, handed over as its fields, and how many threads.
#pragma once

#include "elementwise/lanes.h"

#define CPU_ENTRY(NAME, WALK, FORMULA, SUFFIX, E, ...)                                      \
  extern "C" void NAME##_##SUFFIX(const void* fields, int threads) {                        \
    FORMULA<__VA_ARGS__> f;                                                                 \
    std::memcpy(static_cast<void*>(&f), fields, sizeof f);                                  \
    WALK::run<E>(f, threads);                                                               \
  }

#define CPU_ENTRIES(NAME, WALK, FORMULA)                 \
  CPU_ENTRY(NAME, WALK, FORMULA, float32, float, float)  \
  CPU_ENTRY(NAME, WALK, FORMULA, bfloat16, bf16, bf16)   \
  CPU_ENTRY(NAME, WALK, FORMULA, float16, fp16, fp16)

// Of formulas beside the residual stream, which may be wider.
#define CPU_STREAM_ENTRIES(NAME, WALK, FORMULA)                         \
  CPU_ENTRY(NAME, WALK, FORMULA, float32, float, float, float)          \
  CPU_ENTRY(NAME, WALK, FORMULA, bfloat16, bf16, bf16, bf16)            \
  CPU_ENTRY(NAME, WALK, FORMULA, float16, fp16, fp16, fp16)             \
  CPU_ENTRY(NAME, WALK, FORMULA, bfloat16_float32, bf16, bf16, float)   \
  CPU_ENTRY(NAME, WALK, FORMULA, float16_float32, fp16, fp16, float)
