// The GPU code of wkv6/scan.h and wkv6/key_gradients.h, run on the CPU one thread after the other, between the
// same barriers. It is slow and exists for tests, which have no GPU.

#include <vector>

#include "wkv6/key_gradients.h"

using namespace wkv6;

namespace {

bool backwards;  // the order of the threads, which must not show: else a barrier is missing

template <class Registers>
struct Block {
  std::vector<Registers> own;
  explicit Block(int threads) : own(threads) {}
  template <class Phase>
  void each(Phase phase) {
    int threads = int(own.size());
    for (int i = 0; i < threads; i++) {
      int thread = backwards ? threads - 1 - i : i;
      phase(thread, own[thread]);
    }
  }
};

template <int N, class E>
void scan(Pass<N, E> pass, Index heads, Cut cut, const float* given, float* result,
          float* checkpoints) {
  std::vector<float> sums(cut.segments > 1 ? heads * cut.segments * N * N : 0);
  std::vector<float> logs(heads * cut.segments * N);
  auto run = [&](Index segments, auto work) {
    for (Index i = 0; i < heads * segments; i++) {
      Block<typename Pass<N, E>::Registers> block(N);
      std::vector<typename Pass<N, E>::Shared> shared(1);
      work(block, shared[0], i / segments, i % segments);
    }
  };
  if (cut.segments > 1) {
    run(cut.segments - 1, [&](auto& block, auto& shared, Index head, Index segment) {
      pass.summarise(block, shared, head, segment, cut, sums.data(), logs.data());
    });
    for (Index i = 0; i < heads * N * N; i++) carry<N>(i, cut, given, sums.data(), logs.data());
    given = sums.data();
  }
  run(cut.segments, [&](auto& block, auto& shared, Index head, Index segment) {
    pass.apply(block, shared, head, segment, cut, given, result, checkpoints);
  });
}

}  // namespace

#define WKV6(NAME, E, N)                                                                          \
  void wkv6_scan_##NAME##_##N(Index heads, Index T, Index H, Index constant, Index back,          \
                              Index segments, Index span, const float* w, const float* u,         \
                              const E* z, const E* p, const E* q, E* out, const float* given,     \
                              float* result, float* checkpoints) {                                \
    Pass<N, E> pass{{T, H, constant}, back != 0, z, p, q, w, u, out};                             \
    scan(pass, heads, {segments, span}, given, result, checkpoints);                              \
  }

#define WKV6_KEYS(N)                                                                              \
  void wkv6_keys_##N(Index heads, Index type, Index T, Index H, Index constant, const void* r,    \
                     const float* w, const void* k, const void* v, const float* u,                \
                     const void* grad_y, const float* states, const float* adjoints, void* gr,    \
                     float* gw, void* gk, float* gu) {                                            \
    using Run = KeyGradients<N>;                                                                  \
    Run run{{T, H, constant}, type, r, k, v, grad_y, w, u, states, adjoints, gr, gk, gw, gu};     \
    for (Index i = 0; i < heads * run.shape.chunks(); i++) {                                      \
      Block<Run::Registers> block(N);                                                             \
      std::vector<Run::Shared> shared(1);                                                         \
      run.run(block, shared[0], i / run.shape.chunks(), i % run.shape.chunks());                  \
    }                                                                                             \
  }

extern "C" {
void wkv6_order(Index last_first) { backwards = last_first != 0; }
WKV6(float32, float, 32)
WKV6(bfloat16, bf16, 32)
WKV6(float16, fp16, 32)
WKV6(float32, float, 64)
WKV6(float32, float, 128)
WKV6_KEYS(32)
WKV6_KEYS(64)
WKV6_KEYS(128)
}
