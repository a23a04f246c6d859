// The kernels of formulas, launched from models/ops/elementwise/cuda.py: a plan, then the fields.
#pragma once

#include "elementwise/lanes.h"

constexpr int MOST_FIELDS = 24;

template <class Walk, class Formula>
WKV_HD void run(const Index (&fields)[MOST_FIELDS], const Plan& plan) {
  static_assert(sizeof(Formula) <= sizeof fields, "more fields than arguments");
  Formula f;
  memcpy(&f, fields, sizeof f);
  if (plan.wide)
    Walk::template run<true>(f, plan);
  else
    Walk::template run<false>(f, plan);
}

#define GPU_ENTRY(NAME, WALK, FORMULA, SUFFIX, ...)                                               \
  extern "C" __global__ void __launch_bounds__(WALK##_THREADS) NAME##_##SUFFIX(                   \
      Index wide, Index span, Index lanes, Index columns, Index sums, float* partial, Index a,    \
      Index b, Index c, Index d, Index e, Index f, Index g, Index h, Index i, Index j, Index k,   \
      Index l, Index m, Index n, Index o, Index p, Index q, Index r, Index s, Index t, Index u,   \
      Index v, Index w, Index x) {                                                                \
    const Index fields[MOST_FIELDS] = {a, b, c, d, e, f, g, h, i, j, k, l,                        \
                                       m, n, o, p, q, r, s, t, u, v, w, x};                       \
    run<WALK, FORMULA<__VA_ARGS__>>(fields, {wide, span, lanes, columns, sums, partial});         \
  }

// Threads of a block, at most.
#define Flat_THREADS 256
#define Channels_THREADS 128
#define Heads_THREADS 128
#define Rows_THREADS 1024
#define Tokens_THREADS 128

// Of the dtype that is asked for with -D: nobody waits for kernels of others.
#ifdef OF_float32
#define GPU_ENTRIES(NAME, WALK, FORMULA) GPU_ENTRY(NAME, WALK, FORMULA, float32, float)
#define GPU_STREAM_ENTRIES(NAME, WALK, FORMULA) GPU_ENTRY(NAME, WALK, FORMULA, float32, float, float)
#endif
#ifdef OF_bfloat16
#define GPU_ENTRIES(NAME, WALK, FORMULA) GPU_ENTRY(NAME, WALK, FORMULA, bfloat16, bf16)
#define GPU_STREAM_ENTRIES(NAME, WALK, FORMULA)          \
  GPU_ENTRY(NAME, WALK, FORMULA, bfloat16, bf16, bf16)   \
  GPU_ENTRY(NAME, WALK, FORMULA, bfloat16_float32, bf16, float)
#endif
#ifdef OF_float16
#define GPU_ENTRIES(NAME, WALK, FORMULA) GPU_ENTRY(NAME, WALK, FORMULA, float16, fp16)
#define GPU_STREAM_ENTRIES(NAME, WALK, FORMULA)         \
  GPU_ENTRY(NAME, WALK, FORMULA, float16, fp16, fp16)   \
  GPU_ENTRY(NAME, WALK, FORMULA, float16_float32, fp16, float)
#endif
