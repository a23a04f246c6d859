// The kernels of WKV-4 for the GPU: launch geometry and synchronisation around wkv4/scan.h.
// Compiled by NVRTC without any header of CUDA; launched from models/ops/wkv4/cuda.py.

#define NAN __int_as_float(0x7fc00000)

#include "wkv4/scan.h"

namespace wkv {

__device__ void wait_for(const unsigned* flags, int count, int lane) {
  unsigned value = lane >= count;
  while (!value) {
    value = gpu::load_acquire(flags + lane);
    if (!value) __nanosleep(20);
  }
  __syncwarp();
  __threadfence();  // what one lane has seen raised holds for all
}

__device__ void raise(unsigned* flag, int lane) {
  __threadfence();
  __syncwarp();
  if (lane == 0) gpu::store_release(flag, 1);
}

template <class Pass>
__device__ void scan(const Pass& pass, Shared& shared) {
  int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (threadIdx.x == 0) shared.ticket = atomicAdd(pass.board.ticket, 1u);
  __syncthreads();
  pass.summarise(shared, warp, lane);
  __syncthreads();
  if (warp == 0) pass.collect(shared, lane);
  __syncthreads();
  pass.apply(shared, warp, lane);
}

}  // namespace wkv

using namespace wkv;

// Three blocks per multiprocessor, two going backward: as many as the registers allow, and their
// segments in 16-bit types still fit its cache for the second look at them.
#define WKV4(NAME, E)                                                                            \
  extern "C" __global__ void __launch_bounds__(WARPS* LANES, 3) wkv4_forward_##NAME(             \
      Index B, Index T, Index C, const float* w, const float* u, const E* k, const E* v,         \
      const float* state, E* y, float* state_out, float* checkpoints, unsigned* ticket,          \
      unsigned* posted, unsigned* totalled, Pair* summaries, Pair* totals) {                     \
    GPU_SHARED(Shared, shared);                                                                  \
    Board board{ticket, posted, totalled, summaries, totals};                                    \
    scan(Forward<E>{{B, T, C}, w, u, k, v, state, y, state_out, checkpoints, board}, shared);    \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(WARPS* LANES, 2) wkv4_backward_##NAME(            \
      Index B, Index T, Index C, const float* w, const float* u, const E* k, const E* v,         \
      const float* checkpoints, const float* adjoint, const E* grad, float* partial, E* gk,      \
      E* gv, float* adjoint_in, unsigned* ticket, unsigned* posted, unsigned* totalled,          \
      Pair* summaries, Pair* totals) {                                                           \
    GPU_SHARED(Shared, shared);                                                                  \
    Board board{ticket, posted, totalled, summaries, totals};                                    \
    Backward<E> pass{{B, T, C}, w,       u,  k,  v,          checkpoints,                        \
                     adjoint,   grad,    partial, gk, gv, adjoint_in,  board};                   \
    scan(pass, shared);                                                                          \
    __syncthreads();                                                                             \
    if (threadIdx.x < LANES) pass.add_up(shared, threadIdx.x);                                   \
  }

WKV4(float32, float)
WKV4(bfloat16, bf16)
WKV4(float16, fp16)

// out[c] = sum of `count` rows of `width` floats, in a fixed order. 32 x 32 threads, 32 columns.
extern "C" __global__ void __launch_bounds__(1024) wkv4_reduce(Index count, Index width,
                                                               const float* rows, float* out) {
  using Part = double[32][33];
  GPU_SHARED(Part, part);
  int x = threadIdx.x % 32, y = threadIdx.x / 32;
  Index c = Index(blockIdx.x) * 32 + x;
  double sum = 0;
  if (c < width)
    for (Index i = y; i < count; i += 32) sum += rows[i * width + c];
  part[y][x] = sum;
  __syncthreads();
  if (y == 0 && c < width) {
    double total = 0;
    for (int i = 0; i < 32; i++) total += part[i][x];
    out[c] = float(total);
  }
}
