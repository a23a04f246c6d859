// The forward pass of WKV-7 on the GPU. See wkv7/chunk.h and docs/kernels.md.
#pragma once

#include "wkv7/products.h"

namespace wkv7 {

constexpr int FORWARD_WARPS = 4;

// What a segment starts from. A summary of a segment is its end state from nothing, and from the
// identity without values.
enum Mode { GIVEN, FROM_ZERO, FROM_IDENTITY };

template <class Cell>
struct ForwardShared {
  Chunk<Cell, FORWARD_WARPS> chunk;
  Cell v[CHUNK * STRIDE];
};

struct ForwardOwn {
  Strip<8> state;  // [16 values, keys]
  Strip<4> u, y;   // [16 values, tokens]
};

template <class E>
struct Forward {
  Inputs<E> in;
  const float* start;  // of this segment, [N, N]
  E* y;
  float *end, *checkpoints;  // no checkpoints, no y: null
};

WKV_WARP void start_state(Strip<8>& s, Mode mode, const float* from, int warp) {
  if (mode == GIVEN) return load_state(s, from, warp);
  each_pair(s, [&](int row, int c, float& x, float& y) {
    int diagonal = mode == FROM_IDENTITY ? 16 * warp + row : -1;
    x = c == diagonal, y = c + 1 == diagonal;
  });
}

// u = S0 A~^T + V^T tril(A~ K~^T)^T and the parts of y and the state that do not need the solution.
template <class Math>
WKV_WARP void forward_known(ForwardShared<typename Math::Cell>& sh, ForwardOwn& own, int warp) {
  auto& chunk = sh.chunk;
  clear(own.u);
  clear(own.y);
  WKV_UNROLL
  for (int j = 0; j < N / 16; j++) {
    auto state = to_left<Math::PARTS>(own.state, j);
    add_product<false, Math>(own.u, state, chunk.q, STRIDE, 16 * j);
    add_product<false, Math>(own.y, state, chunk.q + CHUNK * STRIDE, STRIDE, 16 * j);
  }
  auto v = [&](int half) {
    return operand<LEFT, true, Math>(sh.v, STRIDE, 16 * warp, HALF * half);
  };
  add_later<Math>(own.u, v, chunk.scores[AK]);
  add_later<Math>(own.y, v, chunk.scores[RK]);
  WKV_UNROLL
  for (int half = 0; half < 2; half++)
    add_product<true, Math>(own.state, v(half), chunk.k, STRIDE, CHUNK + HALF * half);
}

// The rest, with the solution.
template <class Math>
WKV_WARP void forward_solved(ForwardShared<typename Math::Cell>& sh, ForwardOwn& own) {
  auto& chunk = sh.chunk;
  Strip<4> written = solved<Math>(chunk, own.u);
  auto u = [&](int half) { return to_left<Math::PARTS>(written, half); };
  add_later<Math>(own.y, u, chunk.scores[RB]);
  WKV_UNROLL
  for (int half = 0; half < 2; half++)
    add_product<true, Math>(own.state, u(half), chunk.k, STRIDE, HALF * half);
  each_pair(own.state, [&](int, int c, float& x, float& y) {
    Pair decay = pair_at(chunk.last + c);
    x *= decay.x, y *= decay.y;
  });
}

template <class Math, class E, class Block>
WKV_WARP void forward_segment(Block& block, ForwardShared<typename Math::Cell>& sh,
                              const Forward<E>& pass, const Place& at, Mode mode) {
  using Held = typename Rows<FORWARD_WARPS>::template Held<E>;
  auto& chunk = sh.chunk;
  auto most = [&](Index t) { return smaller(CHUNK - t % CHUNK, at.end - t); };
  auto begin = [&](Index t, int warp, ForwardOwn& own) {
    if (pass.checkpoints && t % CHUNK == 0)
      store_state(pass.checkpoints + at.saved(t), own.state, warp);
    add_up<FORWARD_WARPS>(chunk, at, pass.in.w, t, most(t), warp);
  };
  block.phase([&](int warp, ForwardOwn& own) {
    start_state(own.state, mode, pass.start, warp);
    begin(at.first, warp, own);
  });
  int n = 0;
  for (Index t = at.first; t < at.end; t += n) {
    block.phase([&](int warp, ForwardOwn&) {
      Held v{at, pass.in.v, t, most(t), warp};
      scale<Math, FORWARD_WARPS>(chunk, at, pass.in, t, most(t), warp);
      // What rows beyond the piece are does not matter: they meet rows of zeros.
      v.store(sh.v, warp, mode == FROM_IDENTITY);
    });
    n = chunk.tokens;
    block.phase([&](int warp, ForwardOwn&) {
      announce<E>(at, pass.in, nullptr, t + CHUNK, warp);
      score<Math>(chunk, warp, 0);
      score<Math>(chunk, warp, 1);
    });
    block.phase([&](int warp, ForwardOwn& own) {
      if (warp == 0) solve(chunk);
      forward_known<Math>(sh, own, warp);
    });
    block.phase([&](int warp, ForwardOwn& own) {
      forward_solved<Math>(sh, own);
      if (pass.y) {
        put(sh.v, 16 * warp, own.y);  // its columns of v, which only this warp has read
        __syncwarp();
        write_rows(pass.y, at, sh.v, t, n, 16 * warp);
      }
      if (t + n < at.end) begin(t + n, warp, own);
    });
  }
  if (pass.end)
    block.phase([&](int warp, ForwardOwn& own) { store_state(pass.end, own.state, warp); });
}

}  // namespace wkv7
