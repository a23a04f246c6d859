// WKV-4 on the GPU: one pass over memory, parallel in time. See docs/kernels.md for the picture.
//
// A block owns 64 channels of one sequence (a column) for a segment of 256 tokens: 8 warps of 32
// tokens, 2 channels per lane. It summarises its segment, publishes the summary, collects what
// comes before from its predecessors, and goes over its segment again, which is still in the cache.
// The backward pass is the same scan of adjoints from the end of the sequence.
//
// Blocks take their place in line from a counter, segments first, so whatever a block waits for
// belongs to blocks that already run: no deadlock however the hardware schedules them. What is
// combined with what depends on positions alone, so results do not change from run to run.
//
// The phases between two barriers of a block are functions of (warp, lane), called by the kernels in
// wkv4/gpu.cu.
#pragma once

#include "wkv4/lookback.h"

namespace wkv {

constexpr int STEP = 4;  // tokens whose backward values fit in registers

// Rows (a, b, p) of C floats.
WKV_HD Sums<Pair> load_rows(const float* rows, Index C, Index c, int count) {
  return {load_pair(rows + c, count), load_pair(rows + C + c, count),
          load_pair(rows + 2 * C + c, count)};
}
WKV_HD void store_rows(float* rows, Index C, Index c, int count, Sums<Pair> s) {
  store_pair(rows + c, s.a, count);
  store_pair(rows + C + c, s.b, count);
  store_pair(rows + 2 * C + c, s.p, count);
}

// Constants of a thread's channels. No error can be raised here: w >= 0 gives NaN instead.
WKV_HD Channel<Pair> constants(const Place& at, const float* w, const float* u, int span) {
  Pair decay = load_pair(w + at.channel, at.count);
  decay = where_(decay < 0.f, max_(decay, Pair{FASTEST, FASTEST}), Pair{NAN, NAN});
  if (at.count < 2) decay.y = -1.f;
  Pair minus_one = expm1_(decay * float(span));
  return channel(decay, load_pair(u + at.channel, at.count), minus_one, span);
}

// One thread's channels of one tile: rows of C elements. WHOLE: both channels exist, aligned.
template <class E, bool WHOLE>
struct Tile {
  const E *k_, *v_, *grad_;
  E *y_, *gk_, *gv_;
  Index stride;
  int count;

  WKV_HD Pair read(const E* p, int t) const {
    if constexpr (WHOLE) return load_pair(p + t * stride);
    return load_pair(p + t * stride, count);
  }
  WKV_HD void write(E* p, int t, Pair x) const {
    if constexpr (WHOLE)
      store_pair(p + t * stride, x);
    else
      store_pair(p + t * stride, x, count);
  }
  WKV_HD Pair k(int t) const { return read(k_, t); }
  WKV_HD Pair v(int t) const { return read(v_, t); }
  WKV_HD Pair grad(int t) const { return read(grad_, t); }
  WKV_HD void y(int t, Pair x) const { write(y_, t, x); }
  WKV_HD void gk(int t, Pair x) const { write(gk_, t, x); }
  WKV_HD void gv(int t, Pair x) const { write(gv_, t, x); }
  // The same tile from token `t` on.
  WKV_HD Tile from(int t) const {
    Index i = t * stride;
    return {k_ + i, v_ + i, grad_ + i, y_ + i, gk_ + i, gv_ + i, stride, count};
  }
};

// ---------------------------------------------------------------- forward

template <class E>
struct Forward {
  Shape shape;
  const float *w, *u;
  const E *k, *v;
  const float* state;
  E* y;
  float *state_out, *checkpoints;  // no checkpoints: null
  Board board;

  // body(tile) for a warp's tile.
  template <class Body>
  WKV_HD void with_tile(const Place& at, int warp, Body body) const {
    Index i = (at.b * shape.T + at.token(warp)) * shape.C + at.channel;
    if (at.count == 2 && shape.C % 2 == 0 && aligned<E>(k, v, y))
      body(Tile<E, true>{k + i, v + i, k, y + i, y, y, shape.C, 2});
    else
      body(Tile<E, false>{k + i, v + i, k, y + i, y, y, shape.C, at.count});
  }

  WKV_HD void summarise(Shared& shared, int warp, int lane) const {
    Place at(shape, shared.ticket, lane, false);
    Summary own = nothing();
    int n = at.tile_tokens(warp);
    if (at.count > 0 && n > 0) {
      Channel<Pair> c = constants(at, w, u, CHUNK);
      with_tile(at, warp, [&](auto io) { forward_tile<false>(io, n, c, own.sums, own.top); });
    }
    shared.own[warp][lane] = own;
  }

  WKV_HD void collect(Shared& shared, int lane) const {
    Place at(shape, shared.ticket, lane, false);
    float* out = state_out + at.b * 3 * shape.C;
    Sums<Pair> start = load_rows(state + at.b * 3 * shape.C, shape.C, at.channel, at.count);
    Pair decay = constants(at, w, u, CHUNK).w;
    look_back(at, board, shared, decay, {start, start.p}, false, [&](const Summary& all) {
      store_rows(out, shape.C, at.channel, at.count, rescale(all.sums, all.top));
    });
  }

  WKV_HD void apply(Shared& shared, int warp, int lane) const {
    Place at(shape, shared.ticket, lane, false);
    int n = at.tile_tokens(warp);
    if (at.count == 0 || n == 0) return;
    Channel<Pair> c = constants(at, w, u, CHUNK);
    Sums<Pair> s = before_warp(at, shared, c.w, warp, false).sums;
    if (checkpoints)
      store_rows(checkpoints + (at.b * shape.tiles() + at.tile(warp)) * 3 * shape.C, shape.C,
                 at.channel, at.count, s);
    Pair unused{};
    with_tile(at, warp, [&](auto io) { forward_tile<true>(io, n, c, s, unused); });
  }
};

// ---------------------------------------------------------------- backward

template <class E>
struct Backward {
  Shape shape;
  const float *w, *u;
  const E *k, *v;
  const float *checkpoints, *adjoint;
  const E* grad;
  float* partial;  // [B, segments, 2, C]: gradients of w and u from every block
  E *gk, *gv;
  float* adjoint_in;
  Board board;

  template <class Body>
  WKV_HD void with_tile(const Place& at, int warp, Body body) const {
    Index i = (at.b * shape.T + at.token(warp)) * shape.C + at.channel;
    if (at.count == 2 && shape.C % 2 == 0 && aligned<E>(k, v, grad) && aligned<E>(gk, gv, gv))
      body(Tile<E, true>{k + i, v + i, grad + i, gk, gk + i, gv + i, shape.C, 2});
    else
      body(Tile<E, false>{k + i, v + i, grad + i, gk, gk + i, gv + i, shape.C, at.count});
  }
  WKV_HD Sums<Pair> checkpoint(const Place& at, int warp) const {
    return load_rows(checkpoints + (at.b * shape.tiles() + at.tile(warp)) * 3 * shape.C, shape.C,
                     at.channel, at.count);
  }

  WKV_HD void summarise(Shared& shared, int warp, int lane) const {
    Place at(shape, shared.ticket, lane, true);
    Summary own = nothing();
    int n = at.tile_tokens(warp);
    if (at.count > 0 && n > 0) {
      Channel<Pair> c = constants(at, w, u, CHUNK);
      Sums<Pair> start = checkpoint(at, warp);
      with_tile(at, warp, [&](auto io) { own.sums = adjoint_tile(io, n, c, start); });
    }
    shared.own[warp][lane] = own;
  }

  WKV_HD void collect(Shared& shared, int lane) const {
    Place at(shape, shared.ticket, lane, true);
    float* out = adjoint_in + at.b * 3 * shape.C;
    Sums<Pair> end = load_rows(adjoint + at.b * 3 * shape.C, shape.C, at.channel, at.count);
    Pair decay = constants(at, w, u, CHUNK).w;
    look_back(at, board, shared, decay, {end, end.p}, true, [&](const Summary& all) {
      store_rows(out, shape.C, at.channel, at.count, all.sums);
    });
  }

  WKV_HD void apply(Shared& shared, int warp, int lane) const {
    Place at(shape, shared.ticket, lane, true);
    int n = at.tile_tokens(warp);
    Gradients<Pair> g{};
    if (at.count > 0 && n > 0) {
      Channel<Pair> c = constants(at, w, u, STEP);
      Sums<Pair> adj = before_warp(at, shared, c.w, warp, true).sums, start = checkpoint(at, warp);
      with_tile(at, warp, [&](auto io) { pull(io, n, c, start, adj, g); });
    }
    shared.gradients[warp][lane] = g;
  }

  // A tile in steps: the states before every step, then the steps from the last to the first.
  template <class IO>
  static WKV_HD void pull(const IO& io, int n, const Channel<Pair>& c, Sums<Pair> s,
                          Sums<Pair>& adj, Gradients<Pair>& g) {
    Sums<Pair> starts[CHUNK / STEP];
    Pair unused{};
    int steps = (n + STEP - 1) / STEP;
    WKV_ROLLED
    for (int i = 0; i < steps; i++) {
      starts[i] = s;
      if (i + 1 < steps) forward_tile<false>(io.from(i * STEP), Const<STEP>{}, c, s, unused);
    }
    WKV_ROLLED
    for (int i = steps - 1; i >= 0; i--) {
      IO step = io.from(i * STEP);
      if (n - i * STEP >= STEP) {
        Tape<Pair, STEP> tape;
        backward_tile(step, Const<STEP>{}, c, starts[i], adj, g, tape);
      } else {  // the last tokens of the sequence
        Pulled<Pair> x = backward_safe<Pair, STEP>(step, n - i * STEP, c, starts[i], adj);
        adj = x.adj;
        g.w.add(x.gw);
        g.u.add(x.gu);
      }
    }
  }

  WKV_HD void add_up(const Shared& shared, int lane) const {
    Place at(shape, shared.ticket, lane, true);
    Total<Pair> sum_w{}, sum_u{};
    for (int warp = 0; warp < WARPS; warp++) {
      const Gradients<Pair>& g = shared.gradients[warp][lane];
      sum_w.add(g.w.sum + g.w.rest);
      sum_u.add(g.u.sum + g.u.rest);
    }
    float* out = partial + (at.b * shape.segments() + at.segment) * 2 * shape.C + at.channel;
    store_pair(out, sum_w.sum + sum_w.rest, at.count);
    store_pair(out + shape.C, sum_u.sum + sum_u.rest, at.count);
  }
};

}  // namespace wkv
