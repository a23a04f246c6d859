// WKV-4 on the GPU: one pass over memory, parallel in time. See docs/wkv.md for the picture.
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
// The phases between two barriers of a block are plain functions of (warp, lane): the kernels in
// wkv4_cuda.cu call them in parallel, wkv4_scan_host.cpp one thread after the other, to test them.
#pragma once

#include "pair.h"
#include "wkv4_math.h"

namespace wkv {

using Index = long long;

constexpr int LANES = 32;                // of a warp
constexpr int COLUMN = 2 * LANES;        // channels of a block
constexpr int WARPS = 8;                 // of a block, one behind the other in time
constexpr int SEGMENT = WARPS * CHUNK;   // tokens of a block
constexpr int GROUP = 16;                // segments between two full prefixes
constexpr int BATCH = 4;                 // summaries read at once
constexpr int STEP = 4;                  // tokens whose backward values fit in registers

// A segment's sums and the running maximum of its keys.
struct Summary {
  Sums<Pair> sums;
  Pair top;
};

WKV_HD Summary nothing() { return {empty<Pair>(), Pair{EMPTY, EMPTY}}; }

WKV_HD Summary combine(Summary l, Summary r, Pair decay) {
  return {combine(l.sums, r.sums, decay), max_(l.top + decay, r.top)};
}

// Memory through which blocks talk. Zeroed before every launch.
struct Board {
  unsigned* ticket;      // next place in line
  unsigned* posted;      // [columns, segments] summary of a segment is there
  unsigned* totalled;    // [columns, groups] everything up to the end of a group is there
  Pair* summaries;       // [columns, segments, 4, LANES]
  Pair* totals;          // [columns, groups, 4, LANES]
};

// Values visible to the threads of one block.
struct Shared {
  unsigned ticket;
  Summary own[WARPS][LANES];   // of every warp's tile
  Summary before[LANES];       // of all segments earlier in the scan
  Gradients<Pair> gradients[WARPS][LANES];
};

struct Shape {
  Index B, T, C;
  WKV_HD Index columns() const { return (C + COLUMN - 1) / COLUMN; }    // of one sequence
  WKV_HD Index segments() const { return (T + SEGMENT - 1) / SEGMENT; }
  WKV_HD Index groups() const { return (segments() + GROUP - 1) / GROUP; }
  WKV_HD Index tiles() const { return (T + CHUNK - 1) / CHUNK; }
};

WKV_HD int clamp(Index n, int most) { return n < 0 ? 0 : n > most ? most : int(n); }

// Where a thread works. `order` counts segments in the direction of the scan, `segment` in time.
struct Place {
  Shape shape;
  Index column, order, segment, b, channel;
  int lane, count;  // `count` of the two channels from `channel` on exist

  WKV_HD Place(Shape s, unsigned ticket, int lane, bool backward) : shape(s), lane(lane) {
    Index all = s.B * s.columns();
    column = ticket % all;
    order = ticket / all;
    segment = backward ? s.segments() - 1 - order : order;
    b = column / s.columns();
    channel = column % s.columns() * COLUMN + 2 * lane;
    count = clamp(s.C - channel, 2);
  }
  // Tokens of segment number `i` in time, of its warp's tile.
  WKV_HD int tokens(Index i) const { return clamp(shape.T - i * SEGMENT, SEGMENT); }
  WKV_HD int tokens(int warp) const {
    return clamp(shape.T - segment * SEGMENT - warp * CHUNK, CHUNK);
  }
  WKV_HD Index token(int warp) const { return segment * SEGMENT + warp * CHUNK; }
  WKV_HD Index tile(int warp) const { return segment * WARPS + warp; }
};

template <class E>
WKV_HD bool aligned(const void* a, const void* b, const void* c) {
  using Address = unsigned long long;
  return ((Address)(a) | (Address)(b) | (Address)(c)) % (2 * sizeof(E)) == 0;
}

WKV_HD void wait_for(const unsigned* flags, int count, int lane);  // until all are raised
WKV_HD void raise(unsigned* flag, int lane);                       // after what all lanes wrote

WKV_HD void post(Pair* slots, const Summary& x, int lane) {
  slots[0 * LANES + lane] = x.sums.a;
  slots[1 * LANES + lane] = x.sums.b;
  slots[2 * LANES + lane] = x.sums.p;
  slots[3 * LANES + lane] = x.top;
}
WKV_HD Summary read(const Pair* slots, int lane) {
  return {{slots[0 * LANES + lane], slots[1 * LANES + lane], slots[2 * LANES + lane]},
          slots[3 * LANES + lane]};
}

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

// ---------------------------------------------------------------- the scan over segments

// Publishes a segment's summary and returns, in `shared.before`, what precedes it; `first` precedes
// all. Run by the first warp. At the end of the scan, `finish(everything)`.
template <class Finish>
WKV_HD void look_back(const Place& at, const Board& board, Shared& shared, Pair w, Summary first,
                      bool backward, Finish finish) {
  Shape s = at.shape;
  int lane = at.lane;
  auto length = [&](Index order) {
    return float(at.tokens(backward ? s.segments() - 1 - order : order));
  };
  // This segment, its warps in the direction of the scan.
  Summary mine = nothing();
  WKV_ROLLED
  for (int i = 0; i < WARPS; i++) {
    int warp = backward ? WARPS - 1 - i : i;
    mine = combine(mine, shared.own[warp][lane], w * float(at.tokens(warp)));
  }
  Index slot = at.column * s.segments(), group = at.order / GROUP, group_slot = at.column * s.groups();
  post(board.summaries + (slot + at.order) * 4 * LANES, mine, lane);
  raise(board.posted + slot + at.order, lane);
  // The earlier segments of the group, a few loads under way at once; then all before the group.
  Index start = group * GROUP;
  int count = int(at.order - start);
  wait_for(board.posted + slot + start, count, lane);
  Summary near = nothing();
  float tokens = 0;
  WKV_ROLLED
  for (int i = 0; i < count; i += BATCH) {
    Summary batch[BATCH];
    for (int j = 0; j < BATCH; j++)
      if (i + j < count) batch[j] = read(board.summaries + (slot + start + i + j) * 4 * LANES, lane);
    for (int j = 0; j < BATCH; j++)
      if (i + j < count) {
        float length_j = length(start + i + j);
        near = combine(near, batch[j], w * length_j);
        tokens += length_j;
      }
  }
  Summary far = first;
  if (group > 0) {
    wait_for(board.totalled + group_slot + group - 1, 1, lane);
    far = read(board.totals + (group_slot + group - 1) * 4 * LANES, lane);
  }
  Summary before = combine(far, near, w * tokens);
  shared.before[lane] = before;
  Summary all = combine(before, mine, w * length(at.order));
  if (at.order + 1 == s.segments()) {
    finish(all);
  } else if (at.order % GROUP == GROUP - 1) {
    post(board.totals + (group_slot + group) * 4 * LANES, all, lane);
    raise(board.totalled + group_slot + group, lane);
  }
}

// What precedes a warp's tile in the direction of the scan.
WKV_HD Summary before_warp(const Place& at, const Shared& shared, Pair w, int warp, bool backward) {
  Summary sum = shared.before[at.lane];
  WKV_ROLLED
  for (int i = 0; i < WARPS; i++) {
    int other = backward ? WARPS - 1 - i : i;
    if (other == warp) break;
    sum = combine(sum, shared.own[other][at.lane], w * float(at.tokens(other)));
  }
  return sum;
}

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
    int n = at.tokens(warp);
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
    int n = at.tokens(warp);
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
    int n = at.tokens(warp);
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
    int n = at.tokens(warp);
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
