// The kernels of WKV-7 for the GPU: launch geometry around wkv7/launch_map.h.
// Compiled by NVRTC without any header of CUDA; launched from models/ops/wkv7/cuda.py.

#include "wkv7/launch_map.h"

using namespace wkv7;

// Four blocks of the forward and two of the backward pass share a multiprocessor with 16-bit types.
#define WKV7(NAME, E, MATH, BLOCKS)                                                               \
  extern "C" __global__ void __launch_bounds__(FORWARD_WARPS* LANES, 2 * BLOCKS)                  \
      wkv7_forward_##NAME(Index B, Index T, Index H, Index span, const E* r, const float* w,      \
                          const E* k, const E* v, const E* a, const E* b, const float* start,     \
                          E* y, float* end, float* checkpoints) {                                 \
    auto& shared = *static_cast<ForwardShared<MATH::Cell>*>(gpu::shared_memory());                \
    Block<ForwardOwn> block;                                                                      \
    Mode mode = gridDim.z == 1 ? GIVEN : blockIdx.z == 0 ? FROM_ZERO : FROM_IDENTITY;             \
    forward_job<MATH>(block, shared, {B, T, H, span},                                             \
                      Forward<E>{{r, k, v, a, b, w}, start, y, end, checkpoints},                 \
                      {blockIdx.x, blockIdx.y, mode});                                            \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(BACKWARD_WARPS* LANES, BLOCKS)                     \
      wkv7_backward_##NAME(Index B, Index T, Index H, Index span, const E* r, const float* w,     \
                           const E* k, const E* v, const E* a, const E* b,                        \
                           const float* checkpoints, const float* start, const E* grad_y, E* gr,  \
                           float* gw, E* gk, E* gv, E* ga, E* gb, float* end) {                   \
    auto& shared = *static_cast<BackwardShared<MATH::Cell>*>(gpu::shared_memory());               \
    Block<BackwardOwn> block;                                                                     \
    bool given = gridDim.z == 1;                                                                  \
    Mode mode = given ? GIVEN : blockIdx.z == 0 ? FROM_ZERO : FROM_IDENTITY;                      \
    backward_job<MATH>(                                                                           \
        block, shared, {B, T, H, span},                                                           \
        Backward<E>{{r, k, v, a, b, w}, grad_y, checkpoints, start, gr, gk, gv, ga, gb, gw, end}, \
        {blockIdx.x, blockIdx.y + !given, mode});                                                 \
  }

WKV7(float32, float, Exact<3>, 1)
WKV7(bfloat16, bf16, Fast, 2)
WKV7(float16, fp16, Exact<2>, 1)

extern "C" __global__ void __launch_bounds__(JOIN_WARPS* LANES)
    wkv7_join(Index B, Index T, Index H, Index span, const float* given, const float* summaries,
              float* starts, Index backwards) {
  using Rows = float[JOIN_ROWS][N];
  GPU_SHARED(Rows, rows);
  Block<JoinOwn> block;
  join(block, rows, {B, T, H, span}, given, summaries, starts, blockIdx.x, blockIdx.y, backwards);
}
