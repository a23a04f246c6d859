// The backward pass of WKV-7 on the GPU. See wkv7/chunk.h and docs/kernels.md.
//
// The adjoint G of the state runs from the end to the start, and its rows do not act on each other
// either: four warps keep 16 each. The other four solve for u again, from the state at the start of
// the chunk, which the forward pass saved. The gradients of r, a, b and k sum over values, so they
// come last, from tiles in shared memory, each warp with 16 rows of them.
#pragma once

#include "wkv7/forward.h"

namespace wkv7 {

constexpr int BACKWARD_WARPS = 8;

template <class Cell>
struct BackwardShared {
  Chunk<Cell, BACKWARD_WARPS> chunk;
  // Rows of [N] channels: u, v, e = adjoint of u before the solution, gradient of y. Later, as
  // floats, the gradients of A~ and R~; then, in their place, what they contribute to the gradient
  // of w.
  alignas(16) Cell rows[4 * CHUNK * STRIDE];
  // The state at the start of the piece, then G as it acts on the piece. Later the gradients of B~,
  // K~.
  alignas(16) Cell states[2 * N * STRIDE];
  Cell gv[CHUNK * STRIDE];
  float with_state[4][N];  // column sums of the state times its adjoint, by 16 rows

  WKV_WARP Cell* u() { return rows; }
  WKV_WARP Cell* e() { return rows + 2 * CHUNK * STRIDE; }
  WKV_WARP Cell* adjoint() { return states + N * STRIDE; }
  WKV_WARP float* grad_q() { return reinterpret_cast<float*>(rows); }
  WKV_WARP float* grad_k() { return reinterpret_cast<float*>(states); }
};

struct BackwardOwn {
  Strip<8> adjoint;  // [16 values, keys]; of the first four warps
  Strip<4> u, v;     // [16 values, tokens]; u is its adjoint in the first four warps
  Strip<8> grad;     // [16 rows of A~, R~, B~, K~; keys]
};

template <class E>
struct Backward {
  Inputs<E> in;
  const E* grad_y;
  const float *checkpoints, *start;  // start: the adjoint at the end of this segment
  E *gr, *gk, *gv, *ga, *gb;         // gr null: nothing but the adjoint is wanted
  float *gw, *end;
};

// The saved state, moved on by `skipped` tokens of the chunk, to its tile. One token after the
// other: only chunks that are done in pieces need this. Two warps, a row of the state per lane.
template <class Cell, class E>
WKV_WARP void replay(BackwardShared<Cell>& sh, const Place& at, const Inputs<E>& in,
                     const float* checkpoint, Index t, int skipped, int warp) {
  if (warp >= 2) return;
  float* state = sh.grad_q();  // [keys, values]
  each_lane([&](int lane) {
    int row = warp * LANES + lane;
    for (int c = 0; c < N; c++) state[c * STRIDE + row] = checkpoint[row * N + c];
    for (Index i = at.row(t), n = 0; n < skipped; n++, i += at.stride) {
      float u = 0, v = to_float(in.v[i + row]);
      for (int c = 0; c < N; c++) u += state[c * STRIDE + row] * to_float(in.a[i + c]);
      for (int c = 0; c < N; c++)
        state[c * STRIDE + row] = state[c * STRIDE + row] * expf(in.w[i + c]) +
                                  u * to_float(in.b[i + c]) + v * to_float(in.k[i + c]);
    }
    for (int c = 0; c < N; c++) from_float(state[c * STRIDE + row], sh.states[row * STRIDE + c]);
  });
}

// The saved state to its tile.
template <class Cell>
WKV_WARP void load_tile(Cell* tile, const float* from, int warp) {
  each_lane([&](int lane) {
    WKV_UNROLL
    for (int row = warp * 4 + lane / 8; row < N; row += 4 * BACKWARD_WARPS) {
      Eight<float> x = load_eight(from + row * N + lane % 8 * 8);
      Eight<Cell> out;
      WKV_UNROLL
      for (int i = 0; i < 4; i++) out.set(i, x.get(i));
      store_eight(tile + row * STRIDE + lane % 8 * 8, out);
    }
  });
}

// What does not need the solution. First four warps: the adjoints of u, v and of the state. Rows of
// G are scaled by the decay of the piece at once.
template <class Math>
WKV_WARP void adjoint_known(BackwardShared<typename Math::Cell>& sh, BackwardOwn& own, int warp,
                            bool all) {
  using Cell = typename Math::Cell;
  auto& chunk = sh.chunk;
  each_pair(own.adjoint, [&](int row, int c, float& x, float& y) {
    Pair decay = pair_at(chunk.last + c);
    x *= decay.x, y *= decay.y;
    store_pair(sh.adjoint() + (16 * warp + row) * STRIDE + c, Pair{x, y});
  });
  clear(own.u);
  clear(own.v);
  WKV_UNROLL
  for (int j = 0; j < N / 16; j++) {
    auto adjoint = to_left<Math::PARTS>(own.adjoint, j);
    add_product<false, Math>(own.u, adjoint, chunk.k, STRIDE, 16 * j);
    if (all) add_product<false, Math>(own.v, adjoint, chunk.k + CHUNK * STRIDE, STRIDE, 16 * j);
  }
  auto grad_y = [&](int half) {
    return operand<LEFT, true, Math>(sh.e() + CHUNK * STRIDE, STRIDE, 16 * warp, HALF * half);
  };
  add_earlier<Math>(own.u, grad_y, chunk.scores[RB]);
  if (all) add_earlier<Math>(own.v, grad_y, chunk.scores[RK]);
  WKV_UNROLL
  for (int half = 0; half < 2; half++)
    add_product<true, Math>(own.adjoint, grad_y(half), chunk.q, STRIDE, CHUNK + HALF * half);
}

// Last four warps: u before the solution.
template <class Math>
WKV_WARP void state_known(BackwardShared<typename Math::Cell>& sh, BackwardOwn& own, int warp) {
  clear(own.u);
  WKV_SOME(Math)
  for (int j = 0; j < N / 16; j++)
    add_product<false, Math>(own.u,
                             operand<LEFT, false, Math>(sh.states, STRIDE, 16 * warp, 16 * j),
                             sh.chunk.q, STRIDE, 16 * j);
  auto v = [&](int half) {
    return operand<LEFT, true, Math>(sh.u() + CHUNK * STRIDE, STRIDE, 16 * warp, HALF * half);
  };
  add_later<Math>(own.u, v, sh.chunk.scores[AK]);
}

template <class Math>
WKV_WARP void adjoint_solved(BackwardShared<typename Math::Cell>& sh, BackwardOwn& own, int warp,
                             bool all) {
  auto& chunk = sh.chunk;
  Strip<4> read = solved_backwards<Math>(chunk, own.u);
  auto e = [&](int half) { return to_left<Math::PARTS>(read, half); };
  WKV_UNROLL
  for (int half = 0; half < 2; half++)
    add_product<true, Math>(own.adjoint, e(half), chunk.q, STRIDE, HALF * half);
  if (!all) return;
  add_earlier<Math>(own.v, e, chunk.scores[AK]);
  put(sh.e(), 16 * warp, read);
  put(sh.gv, 16 * warp, own.v);
  sum_rows(own.adjoint, sh.states + 16 * warp * STRIDE, STRIDE, sh.with_state[warp]);
}

template <class Math>
WKV_WARP void state_solved(BackwardShared<typename Math::Cell>& sh, BackwardOwn& own, int warp) {
  Strip<4> written = solved<Math>(sh.chunk, own.u);
  put(sh.u(), 16 * warp, written);
}

// 16 rows (number `strip` of 4) of the gradients of [A~; R~] or, with `writes`, of [B~; K~]:
//   tril([e; grad y] [u; v]^T) [B~; K~] + [e; grad y] S0        or, the other way round,
//   tril([e; grad y] [u; v]^T)^T [A~; R~] + [u; v] G.
template <class Math>
WKV_WARP void contract(BackwardShared<typename Math::Cell>& sh, BackwardOwn& own, int strip,
                       bool writes) {
  using Cell = typename Math::Cell;
  const Cell *mine = writes ? sh.u() : sh.e(), *others = writes ? sh.e() : sh.u();
  const Cell *state = writes ? sh.adjoint() : sh.states, *rows = writes ? sh.chunk.q : sh.chunk.k;
  bool second = strip / 2, late = strip % 2;  // R~ or K~; second half of the tokens
  // The half of the other tokens that these never meet: earlier reads, later writes.
  int skipped = writes == late ? (late ? 0 : 1) : -1;
  clear(own.grad);
  WKV_SOME(Math)
  for (int k = 0; k < N; k += 16)
    add_product<true, Math>(own.grad, operand<LEFT, false, Math>(mine, STRIDE, 16 * strip, k),
                            state, STRIDE, k);
  WKV_ROLLED
  for (int side = 0; side < 2; side++) {  // u or e, then v or the gradient of y
    const Cell* right = others + side * CHUNK * STRIDE;
    Strip<4> scores;
    clear(scores);
    WKV_SOME(Math)
    for (int k = 0; k < N; k += 16) {
      auto left = operand<LEFT, false, Math>(mine, STRIDE, 16 * strip, k);
      WKV_UNROLL
      for (int half = 0; half < 2; half++)
        if (half != skipped)
          multiply(scores, 2 * half, left,
                   operand<RIGHT, false, Math>(right, STRIDE, HALF * half, k));
    }
    // r and what it reads may be of one token; a is before the writes of its own.
    int least_age = writes ? !side : !second;
    each_pair(scores, [&](int row, int other, float& x, float& y) {
      int age = HALF * late + row - other;
      x = (writes ? -age : age) >= least_age ? x : 0;
      y = (writes ? 1 - age : age - 1) >= least_age ? y : 0;
    });
    WKV_UNROLL
    for (int half = 0; half < 2; half++)
      if (half != skipped)
        add_product<true, Math>(own.grad, to_left<Math::PARTS>(scores, half), rows, STRIDE,
                                side * CHUNK + HALF * half);
  }
}

// Gradients of r, k, a, b from those of their scaled forms, and the pieces of that of w: in grad_q,
// of row t what counts up to t, of row CHUNK + t what counts from t + 1.
template <class Math, class E>
WKV_WARP void unscale(BackwardShared<typename Math::Cell>& sh, const Place& at,
                      const Backward<E>& pass, Index t, int n, int warp) {
  auto& chunk = sh.chunk;
  Index origin = at.row(t);
  Rows<BACKWARD_WARPS>::each(warp, [&](int, int row, int own, int c) {
    if (row >= n) return;
    int first = row * STRIDE + c, second = first + CHUNK * STRIDE;
    float *grad_a = sh.grad_q() + row * STRIDE, *grad_r = grad_a + CHUNK * STRIDE;
    const float *grad_b = sh.grad_k() + row * STRIDE, *grad_k = grad_b + CHUNK * STRIDE;
    auto a = spread_at(grad_a, c), r = spread_at(grad_r, c);
    auto b = spread_at(grad_b, c), k = spread_at(grad_k, c);
    auto a_ = eight_at(chunk.q + first), r_ = eight_at(chunk.q + second);
    auto b_ = eight_at(chunk.k + first), k_ = eight_at(chunk.k + second);
    Eight<E> ga, gr, gb, gk;
    Eight<float> up_to, after;
    Factors<Math, BACKWARD_WARPS> x(chunk, warp, own, c);
    WKV_UNROLL
    for (int i = 0; i < 4; i++) {
      Pair grown = x.grown(i);
      ga.set(i, a.get(i) * x.to_before(i));
      gr.set(i, r.get(i) * x.to_here(i));
      gb.set(i, b.get(i) * grown);
      gk.set(i, k.get(i) * grown);
      up_to.set(i, a.get(i) * a_.get(i));
      after.set(i, r.get(i) * r_.get(i) - b.get(i) * b_.get(i) - k.get(i) * k_.get(i));
    }
    Index to = origin + row * at.stride + c;
    write_eight(pass.ga + to, ga);
    write_eight(pass.gr + to, gr);
    write_eight(pass.gb + to, gb);
    write_eight(pass.gk + to, gk);
    store_spread(grad_a, c, up_to);
    store_spread(grad_r, c, after);
  });
}

// The gradient of w: what state and adjoint have in common at the start, less what has been read or
// written since. Two warps.
template <class Cell>
WKV_WARP void decay_gradient(BackwardShared<Cell>& sh, const Place& at, float* gw, Index t, int n,
                             int warp) {
  if (warp >= 2) return;
  each_lane([&](int lane) {
    int c = warp * LANES + lane;
    float rest = 0;
    for (int i = 0; i < 4; i++) rest += sh.with_state[i][c];
    const float* pieces = sh.grad_q() + spread(c);
    float* to = gw + at.row(t) + c;
    for (int row = 0; row < n; row++) {
      rest -= pieces[row * STRIDE];
      to[row * at.stride] = rest;
      rest -= pieces[(CHUNK + row) * STRIDE];
    }
  });
}

// A piece: n tokens from t on, but for `decay_gradient`.
template <class Math, class E, class Block>
WKV_WARP void backward_piece(Block& block, BackwardShared<typename Math::Cell>& sh,
                             const Backward<E>& pass, const Place& at, Index t, int n) {
  auto& chunk = sh.chunk;
  const bool all = pass.gr;
  block.phase([&](int warp, BackwardOwn&) {
    announce<E>(at, pass.in, pass.grad_y, t - CHUNK, warp);
    if (all && warp == 4 && t - CHUNK >= at.first)
      announce_state(pass.checkpoints + at.saved(t - CHUNK));
    score<Math>(chunk, warp % 4, warp / 4);
  });
  block.phase([&](int warp, BackwardOwn& own) {
    if (warp == 7) solve(chunk);
    if (warp < 4) adjoint_known<Math>(sh, own, warp, all);
    if (warp >= 4 && all) state_known<Math>(sh, own, warp - 4);
  });
  block.phase([&](int warp, BackwardOwn& own) {
    if (warp < 4) adjoint_solved<Math>(sh, own, warp, all);
    if (warp >= 4 && all) state_solved<Math>(sh, own, warp - 4);
  });
  if (!all) return;
  block.phase([&](int warp, BackwardOwn& own) { contract<Math>(sh, own, warp % 4, warp >= 4); });
  block.phase([&](int warp, BackwardOwn& own) {
    float* out = warp < 4 ? sh.grad_q() : sh.grad_k();
    each_pair(own.grad, [&](int row, int c, float x, float y) {
      store_pair(out + (warp % 4 * 16 + row) * STRIDE + spread(c), Pair{x, y});
    });
    if (warp < 4) write_rows(pass.gv, at, sh.gv, t, n, 16 * warp);
  });
  block.phase([&](int warp, BackwardOwn&) { unscale<Math>(sh, at, pass, t, n, warp); });
}

template <class Math, class E, class Block>
WKV_WARP void backward_segment(Block& block, BackwardShared<typename Math::Cell>& sh,
                               const Backward<E>& pass, const Place& at, Mode mode) {
  auto& chunk = sh.chunk;
  using Held = typename Rows<BACKWARD_WARPS>::template Held<E>;
  block.phase([&](int warp, BackwardOwn& own) {
    if (warp < 4) start_state(own.adjoint, mode, pass.start, warp);
  });
  Index chunks = (at.end - at.first + CHUNK - 1) / CHUNK, piece = 0;
  int n = 0;
  // The last thing to do for a piece, while the next one begins.
  auto finish = [&](int warp) {
    if (pass.gr && n) decay_gradient(sh, at, pass.gw, piece, n, warp);
  };
  for (Index i = chunks - 1; i >= 0; i--) {
    Index t = at.first + i * CHUNK;
    const float* checkpoint = pass.gr ? pass.checkpoints + at.saved(t) : nullptr;
    // Pieces are those of the forward pass, the last first. All is one piece, as a rule.
    for (int end = smaller(CHUNK, at.end - t), start = 0; end > 0; end = start) {
      start = 0;
      for (bool replayed = false;;) {
        block.phase([&](int warp, BackwardOwn&) {
          finish(warp);
          add_up<BACKWARD_WARPS>(chunk, at, pass.in.w, t + start, end - start, warp);
        });
        block.phase([&](int warp, BackwardOwn&) {
          Index from = t + start;
          Held v{at, pass.in.v, from, end - start, warp};
          Held grad_y{at, pass.grad_y, from, end - start, warp};
          if (pass.gr && start == 0) load_tile(sh.states, checkpoint, warp);
          scale<Math, BACKWARD_WARPS>(chunk, at, pass.in, from, end - start, warp);
          v.store(sh.u() + CHUNK * STRIDE, warp, false);
          grad_y.store(sh.e() + CHUNK * STRIDE, warp, mode == FROM_IDENTITY);
        });
        int found = chunk.tokens;
        n = 0;
        if (replayed || (start == 0 && found == end)) {
          n = found;
          break;
        }
        if (start + found < end) {
          start += found;
          continue;
        }
        if (pass.gr)
          block.phase(
              [&](int warp, BackwardOwn&) { replay(sh, at, pass.in, checkpoint, t, start, warp); });
        replayed = true;
      }
      piece = t + start;
      backward_piece<Math>(block, sh, pass, at, piece, n);
    }
  }
  block.phase([&](int warp, BackwardOwn& own) {
    finish(warp);
    if (pass.end && warp < 4) store_state(pass.end, own.adjoint, warp);
  });
}

}  // namespace wkv7
