// The GPU scan of wkv4/scan.h, run on the CPU one thread after the other, between the same barriers.
// It is slow and exists for tests, which have no GPU.

#include <vector>

#include "wkv4/scan.h"

namespace wkv {

static bool would_hang;

inline void wait_for(const unsigned* flags, int count, int) {
  for (int i = 0; i < count; i++) would_hang |= flags[i] == 0;
}
inline void raise(unsigned* flag, int lane) {
  if (lane == LANES - 1) *flag = 1;  // the last to write, here
}

template <class Phase>
void each_thread(Phase phase) {
  for (int warp = 0; warp < WARPS; warp++)
    for (int lane = 0; lane < LANES; lane++) phase(warp, lane);
}

template <class Pass, class After>
int scan(Pass pass, After after) {
  Shape s = pass.shape;
  Index columns = s.B * s.columns();
  std::vector<unsigned> posted(columns * s.segments()), totalled(columns * s.groups());
  std::vector<Pair> summaries(posted.size() * 4 * LANES), totals(totalled.size() * 4 * LANES);
  pass.board = {nullptr, posted.data(), totalled.data(), summaries.data(), totals.data()};
  would_hang = false;
  for (Index ticket = 0; ticket < columns * s.segments(); ticket++) {
    std::vector<Shared> block(1);
    Shared& shared = block[0];
    shared.ticket = unsigned(ticket);
    each_thread([&](int warp, int lane) { pass.summarise(shared, warp, lane); });
    for (int lane = 0; lane < LANES; lane++) pass.collect(shared, lane);
    each_thread([&](int warp, int lane) { pass.apply(shared, warp, lane); });
    after(pass, shared);
  }
  return would_hang;
}

}  // namespace wkv

using namespace wkv;

#define WKV4(NAME, E)                                                                             \
  int wkv4_forward_##NAME(Index B, Index T, Index C, const float* w, const float* u, const E* k,  \
                          const E* v, const float* state, E* y, float* state_out,                 \
                          float* checkpoints) {                                                   \
    Forward<E> pass{{B, T, C}, w, u, k, v, state, y, state_out, checkpoints, {}};                 \
    return scan(pass, [](auto&, auto&) {});                                                       \
  }                                                                                               \
  int wkv4_backward_##NAME(Index B, Index T, Index C, const float* w, const float* u, const E* k, \
                           const E* v, const float* checkpoints, const float* adjoint,            \
                           const E* grad, float* partial, E* gk, E* gv, float* adjoint_in) {      \
    Backward<E> pass{{B, T, C}, w, u, k, v, checkpoints, adjoint, grad, partial, gk, gv,          \
                     adjoint_in, {}};                                                             \
    return scan(pass, [](auto& pass, auto& shared) {                                              \
      for (int lane = 0; lane < LANES; lane++) pass.add_up(shared, lane);                         \
    });                                                                                           \
  }

extern "C" {
WKV4(float32, float)
WKV4(bfloat16, bf16)
WKV4(float16, fp16)
}
