// The kernels of WKV-5 and WKV-6 for the GPU and one head size, around wkv6/scan.h and wkv6/key_gradients.h.
// Included by wkv6/gpu_<size>.cu, so that only the sizes in use are compiled.
#pragma once

#define NAN __int_as_float(0x7fc00000)

#include "wkv6/key_gradients.h"

namespace wkv6 {

template <class Registers>
struct Block {
  Registers own;
  template <class Phase>
  __device__ __forceinline__ void each(Phase phase) {
    phase(int(threadIdx.x), own);
    __syncthreads();
  }
};

}  // namespace wkv6

using namespace wkv6;

// N threads and one block for each head and segment (summaries: but the last met), or head and chunk,
// all in blockIdx.x, which alone may be large.
#define WKV6(NAME, E, N)                                                                          \
  extern "C" __global__ void __launch_bounds__(N) wkv6_summarise_##NAME##_##N(                    \
      Index T, Index H, Index constant, Index back, Index segments, Index span, const float* w,   \
      const float* u, const E* p, const E* q, float* sums, float* logs) {                         \
    using Run = Pass<N, E>;                                                                       \
    GPU_SHARED(Run::Shared, shared);                                                              \
    Block<Run::Registers> block;                                                                  \
    Index head = blockIdx.x / (segments - 1), segment = blockIdx.x % (segments - 1);              \
    Run run{{T, H, constant}, back != 0, p, p, q, w, u, nullptr};                                 \
    run.summarise(block, shared, head, segment, {segments, span}, sums, logs);                    \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(N) wkv6_apply_##NAME##_##N(                        \
      Index T, Index H, Index constant, Index back, Index segments, Index span, const float* w,   \
      const float* u, const E* z, const E* p, const E* q, E* out, const float* start,             \
      float* result, float* checkpoints) {                                                        \
    using Run = Pass<N, E>;                                                                       \
    GPU_SHARED(Run::Shared, shared);                                                              \
    Block<Run::Registers> block;                                                                  \
    Index head = blockIdx.x / segments, segment = blockIdx.x % segments;                          \
    Run run{{T, H, constant}, back != 0, z, p, q, w, u, out};                                     \
    run.apply(block, shared, head, segment, {segments, span}, start, result, checkpoints);        \
  }

#define WKV6_SIZE(N)                                                                              \
  WKV6(float32, float, N)                                                                         \
  WKV6(bfloat16, bf16, N)                                                                         \
  WKV6(float16, fp16, N)                                                                          \
  extern "C" __global__ void __launch_bounds__(256) wkv6_carry_##N(                               \
      Index segments, Index elements, const float* given, float* sums, const float* logs) {       \
    Index element = Index(blockIdx.x) * 256 + threadIdx.x;                                        \
    if (element < elements) carry<N>(element, {segments, 0}, given, sums, logs);                  \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(N) wkv6_keys_##N(                                  \
      Index type, Index T, Index H, Index constant, const void* r, const float* w, const void* k, \
      const void* v, const float* u, const void* grad_y, const float* states,                     \
      const float* adjoints, void* gr, float* gw, void* gk, float* gu) {                          \
    using Run = KeyGradients<N>;                                                                  \
    GPU_SHARED(Run::Shared, shared);                                                              \
    Block<Run::Registers> block;                                                                  \
    Run run{{T, H, constant}, type, r, k, v, grad_y, w, u, states, adjoints, gr, gk, gw, gu};     \
    Index chunks = run.shape.chunks();                                                            \
    run.run(block, shared, blockIdx.x / chunks, blockIdx.x % chunks);                             \
  }
