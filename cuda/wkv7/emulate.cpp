// The GPU kernels of WKV-7, run on the CPU one warp after the other, between the same barriers. It
// is slow and exists for tests, which have no GPU.

#ifdef __GNUC__
#pragma GCC optimize("O1")  // at -O3 the compiler would be busy for minutes
#endif

#include <cstring>
#include <vector>

#include "wkv7/launch_map.h"

namespace wkv7 {

// Warps run first to last, or last to first: what depends on it would be a race on a GPU.
static bool reversed;

template <class Own>
struct Block {
  std::vector<Own> own;
  explicit Block(int warps) : own(warps) { memset(own.data(), 0xff, warps * sizeof(Own)); }
  template <class Phase>
  void phase(Phase f) {
    int warps = int(own.size());
    for (int i = 0; i < warps; i++) {
      int warp = reversed ? warps - 1 - i : i;
      f(warp, own[warp]);
    }
  }
};

template <class Shared>
struct Poisoned {
  std::vector<Shared> one;
  Poisoned() : one(1) { memset(static_cast<void*>(one.data()), 0xff, sizeof(Shared)); }
};

// body(job) for every block of a grid.
template <class Body>
void each_job(Index x, Index y, Index z, Index skipped, Body body) {
  for (Index k = 0; k < z; k++)
    for (Index j = 0; j < y; j++)
      for (Index i = 0; i < x; i++)
        body(Job{i, j + (z == 1 ? 0 : skipped),
                 z == 1   ? GIVEN
                 : k == 0 ? FROM_ZERO
                          : FROM_IDENTITY});
}

}  // namespace wkv7

using namespace wkv7;

#define WKV7(NAME, E, MATH)                                                                        \
  void wkv7_forward_##NAME(Index x, Index y_, Index z, Index B, Index T, Index H, Index span,      \
                           const E* r, const float* w, const E* k, const E* v, const E* a,         \
                           const E* b, const float* start, E* y, float* end, float* checkpoints) { \
    each_job(x, y_, z, 0, [&](Job job) {                                                           \
      Poisoned<ForwardShared<MATH::Cell>> shared;                                                  \
      Block<ForwardOwn> block(FORWARD_WARPS);                                                      \
      forward_job<MATH>(block, shared.one[0], {B, T, H, span},                                     \
                        Forward<E>{{r, k, v, a, b, w}, start, y, end, checkpoints}, job);          \
    });                                                                                            \
  }                                                                                                \
  void wkv7_backward_##NAME(Index x, Index y_, Index z, Index B, Index T, Index H, Index span,     \
                            const E* r, const float* w, const E* k, const E* v, const E* a,        \
                            const E* b, const float* checkpoints, const float* start,              \
                            const E* grad_y, E* gr, float* gw, E* gk, E* gv, E* ga, E* gb,         \
                            float* end) {                                                          \
    each_job(x, y_, z, 1, [&](Job job) {                                                           \
      Poisoned<BackwardShared<MATH::Cell>> shared;                                                 \
      Block<BackwardOwn> block(BACKWARD_WARPS);                                                    \
      backward_job<MATH>(                                                                          \
          block, shared.one[0], {B, T, H, span},                                                   \
          Backward<E>{                                                                             \
              {r, k, v, a, b, w}, grad_y, checkpoints, start, gr, gk, gv, ga, gb, gw, end},        \
          job);                                                                                    \
    });                                                                                            \
  }                                                                                                \
  Index wkv7_forward_shared_##NAME() { return sizeof(ForwardShared<MATH::Cell>); }                 \
  Index wkv7_backward_shared_##NAME() { return sizeof(BackwardShared<MATH::Cell>); }

extern "C" {
WKV7(float32, float, Exact<3>)
WKV7(bfloat16, bf16, Fast)
WKV7(float16, fp16, Exact<2>)

void wkv7_join(Index x, Index y, Index z, Index B, Index T, Index H, Index span, const float* given,
               const float* summaries, float* starts, Index backwards) {
  each_job(x, y, z, 0, [&](Job job) {
    float rows[JOIN_ROWS][N];
    Block<JoinOwn> block(JOIN_WARPS);
    join(block, rows, {B, T, H, span}, given, summaries, starts, job.column, job.segment,
         backwards);
  });
}

void wkv7_reverse(Index on) { reversed = on; }
}
