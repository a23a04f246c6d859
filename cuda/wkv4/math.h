// WKV-4 arithmetic, written once: the CPU build compiles it for vectors of channels, the GPU build
// for a pair of channels per thread. Derivations: docs/kernels.md. Reference: models/ops/wkv4/reference.py.
//
// F is a vector of floats with the usual operators, and needs exp_(x <= 88), quick_exp_ (the same,
// for single tokens: its error is not carried along), min_, max_, abs_, round_, any_above(x, limit),
// same(x, y) (in every lane) and where_(condition, yes, no). max_ keeps its second argument when the
// first is NaN. `Count` is int, or Const<n> for loops to unroll.
//
// An IO object gives one tile of tokens: k(t), v(t), grad(t) read, y(t, x), gk(t, x), gv(t, x) write.
#pragma once

#include "common/elements.h"

namespace wkv {

constexpr int CHUNK = 32;           // tokens between checkpoints, as in reference.py
constexpr float EMPTY = -1e38f;     // exponent of an empty sum
constexpr float FASTEST = -1e30f;   // decays below count as this: 0 tokens of it are still 0
constexpr float FAST_RANGE = 20.f;  // |k - reference| for which one exponent serves a whole tile
constexpr float FAST_BONUS = 15.f;  // the same for |u|
constexpr float KEEP_RANGE = 8.f;   // how far the first key may be before the reference moves
constexpr float FAST_SUM = 1e-10f;  // times a sum, above FAST_RANGE: too near to overflow

// Two sums with a common exponent, true values a e^p and b e^p: a state, or the adjoint of one.
template <class F>
struct Sums {
  F a, b, p;
};

// Constants of a channel, for tiles of `span` tokens.
template <class F>
struct Channel {
  F w, u;
  F W, U;        // e^w, e^u
  F tile, rest;  // e^{span w} in two parts: a rounded factor would change the decay over long T
  F misfit;      // above FAST_RANGE where the fast path must not be taken at all
  int span;
};

// `minus_one` is e^{span w} - 1, computed as such.
template <class F>
WKV_HD Channel<F> channel(F w, F u, F minus_one, int span) {
  F misfit = max_(abs_(u) - FAST_BONUS, F{}) * 1e9f, tile = exp_(w * float(span));
  F rest = minus_one - (tile - 1.f);
  return {w, u, exp_(w), exp_(min_(u, F{} + FAST_BONUS)), tile, rest, misfit, span};
}

// What is left of `x` after a tile of n tokens, and `more` added in the tile. One rounding.
template <class F>
WKV_HD F after_tile(const Channel<F>& c, int n, F x, F more) {
  return n == c.span ? c.tile * x + (c.rest * x + more) : exp_(c.w * float(n)) * x + more;
}

template <int N>
struct Const {
  WKV_HD constexpr operator int() const { return N; }
};

template <class F>
WKV_HD Sums<F> empty() {
  return {F{}, F{}, F{} + EMPTY};
}

// (l.p - q) + decay, not (l.p + decay) - q: the rounding of q = l.p + decay must not be lost.
template <class F>
WKV_HD Sums<F> combine(Sums<F> l, Sums<F> r, F decay) {
  F q = max_(l.p + decay, r.p);
  F x = exp_((l.p - q) + decay), y = exp_(r.p - q);
  return {x * l.a + y * r.a, x * l.b + y * r.b, q};
}

// The same sums at exponent `p`, which must not be far below their own.
template <class F>
WKV_HD Sums<F> rescale(Sums<F> s, F p) {
  if (same(s.p, p)) return s;
  F x = exp_(s.p - p);
  return {x * s.a, x * s.b, p};
}

// Neumaier's compensated sum: partial sums over a million tokens keep fp32 accuracy.
template <class F>
struct Total {
  F sum, rest;
  WKV_HD void add(F x) {
    F t = sum + x, back = t - sum;
    rest += (sum - (t - back)) + (x - back);
    sum = t;
  }
};

// ---------------------------------------------------------------- forward, one tile
//
// `s` is the state before the tile, replaced by the one after it, at whatever exponent suits the
// arithmetic. `top` follows the running maximum max(pp + w, k), the exponent states are handed out
// with.

template <class F>
struct Walk {
  Sums<F> s;
  F top;
};

// Any exponents. The sums of this tile alone, `own`, follow a running maximum; what came before is
// added to them afresh at every token, so that its decay is rounded once per tile, not per token.
template <bool OUTPUT, class F, class IO>
WKV_RARE Walk<F> forward_safe(IO io, int n, Channel<F> c, Sums<F> s, F top) {
  Sums<F> own = empty<F>();
  WKV_ROLLED
  for (int t = 0; t < n; t++) {
    F k = io.k(t), v = io.v(t);
    top = max_(top + c.w, k);
    if constexpr (OUTPUT) {
      Sums<F> before = combine(s, own, c.w * float(t));
      F p = max_(before.p, c.u + k);
      F past = exp_(before.p - p), now = exp_((k - p) + c.u);
      io.y(t, (past * before.a + now * v) / (past * before.b + now));
    }
    own = combine(own, {v, F{} + 1.f, k}, c.w);
  }
  return {combine(s, own, c.w * float(n)), top};
}

// Reference exponent of a tile. Whole numbers, so that differences of two are exact, and moved
// only when needed, so that a state is rarely rescaled.
template <class F>
WKV_HD F reference(F first_key, F carried) {
  return where_(abs_(first_key - carried) < KEEP_RANGE, carried, round_(first_key));
}

// One exponential per token: all exponents relative to one reference r. The sums of the tile alone
// are kept apart from those that run on from before, for the sake of what is handed to the next
// tile: it is rounded once per tile, not per token. Returns false, with the
// outputs of this tile to be overwritten, if some key is too far from r.
template <bool OUTPUT, class F, class IO, class Count>
WKV_HD bool forward_fast(const IO& io, Count n, const Channel<F>& c, Sums<F>& s, F& top) {
  F r = reference(io.k(0), s.p);
  Sums<F> start = rescale(s, r);
  F worst = max_(abs_(start.b) * FAST_SUM, max_(s.p - r, c.misfit));
  F a = start.a, b = start.b, own_a{}, own_b{}, peak = top;
  WKV_AHEAD
  for (int t = 0; t < n; t++) {
    F k = io.k(t), v = io.v(t), x = k - r;
    peak = max_(peak + c.w, k);
    worst = max_(abs_(x), worst);
    F e = quick_exp_(x), ev = e * v;
    if constexpr (OUTPUT) {
      F now = c.U * e;
      io.y(t, (a + now * v) / (b + now));
      a = c.W * a + ev;
      b = c.W * b + e;
    }
    own_a = c.W * own_a + ev;
    own_b = c.W * own_b + e;
  }
  if (any_above(worst, FAST_RANGE)) return false;
  s = {after_tile(c, n, start.a, own_a), after_tile(c, n, start.b, own_b), r};
  top = peak;
  return true;
}

template <bool OUTPUT, class F, class IO, class Count>
WKV_HD void forward_tile(const IO& io, Count n, const Channel<F>& c, Sums<F>& s, F& top) {
  if (forward_fast<OUTPUT>(io, n, c, s, top)) return;
  Walk<F> walk = forward_safe<OUTPUT>(io, n, c, s, top);
  s = walk.s;
  top = walk.top;
}

// ---------------------------------------------------------------- backward, one tile
//
// `s` is the state before the tile. With q = gradient / denominator, the adjoints obey
// P_{t-1} = W P_t + q_t and Q_{t-1} = W Q_t - q_t y_t.

// A token seen from the backward pass, all relative to the exponent p of its denominator. d = v - y;
// q y and q d are each computed from what they are small in: a large bonus makes y so close to v
// that their difference would be rounding error, a slow decay makes y much smaller than v.
template <class F>
struct Token {
  F now, q, qy, qd, p;
};

template <class F>
WKV_HD Token<F> token(Sums<F> before, F u, F k, F v, F grad) {
  F p = max_(before.p, u + k);
  F past = exp_(before.p - p), now = exp_((k - p) + u);
  F inverse = 1.f / (past * before.b + now), q = grad * inverse;
  return {now, q, q * ((past * before.a + now * v) * inverse),
          q * ((past * (v * before.b - before.a)) * inverse), p};
}

// What the tile alone gives to the adjoint of the state before it. Going forward in time: token t
// counts with e^{t w}.
template <class F, class IO>
WKV_RARE Sums<F> adjoint_safe(IO io, int n, Channel<F> c, Sums<F> s) {
  Sums<F> own = empty<F>(), sum = empty<F>();
  WKV_ROLLED
  for (int t = 0; t < n; t++) {
    F k = io.k(t), v = io.v(t);
    Token<F> x = token(combine(s, own, c.w * float(t)), c.u, k, v, io.grad(t));
    sum = combine({x.q, -x.qy, -x.p}, sum, c.w * float(t));
    own = combine(own, {v, F{} + 1.f, k}, c.w);
  }
  return sum;
}

template <class F, class IO, class Count>
WKV_HD Sums<F> adjoint_tile(const IO& io, Count n, const Channel<F>& c, Sums<F> s) {
  F r = reference(io.k(0), s.p);
  Sums<F> start = rescale(s, r);
  F worst = max_(abs_(start.b) * FAST_SUM, max_(s.p - r, c.misfit));
  F a = start.a, b = start.b, P{}, Q{}, weight = F{} + 1.f;
  WKV_AHEAD
  for (int t = 0; t < n; t++) {
    F x = io.k(t) - r, v = io.v(t);
    worst = max_(abs_(x), worst);
    F e = quick_exp_(x), now = c.U * e, ev = e * v;
    F inverse = 1.f / (b + now), q = io.grad(t) * inverse * weight;
    P += q;
    Q += -q * ((a + c.U * ev) * inverse);
    a = c.W * a + ev;
    b = c.W * b + e;
    weight = weight * c.W;
  }
  if (any_above(worst, FAST_RANGE)) return adjoint_safe(io, n, c, s);
  return {P, Q, -r};
}

// Sums over tokens: gradients of w and of u.
template <class F>
struct Gradients {
  Total<F> w, u;
};

// What the sweep back needs of each token.
template <class F, int N>
struct Tape {
  F e[N], q[N], qy[N], qd[N], a[N], b[N];
};

template <class F>
struct Pulled {
  Sums<F> adj;
  F gw, gu;
};

template <class F, int N, class IO>
WKV_RARE Pulled<F> backward_safe(IO io, int n, Channel<F> c, Sums<F> s, Sums<F> adj) {
  Token<F> tokens[N];
  Sums<F> before[N], own = empty<F>();
  WKV_ROLLED
  for (int t = 0; t < n; t++) {
    F k = io.k(t), v = io.v(t);
    before[t] = combine(s, own, c.w * float(t));
    tokens[t] = token(before[t], c.u, k, v, io.grad(t));
    own = combine(own, {v, F{} + 1.f, k}, c.w);
  }
  own = empty<F>();
  F gw{}, gu{};
  WKV_ROLLED
  for (int t = n - 1; t >= 0; t--) {
    Token<F> x = tokens[t];
    Sums<F> past = before[t], after = combine(adj, own, c.w * float(n - 1 - t));
    F v = io.v(t), later = exp_(io.k(t) + after.p), bonus = x.now * x.qd;
    io.gv(t, x.now * x.q + later * after.a);
    io.gk(t, bonus + later * (after.a * v + after.b));
    gu += bonus;
    gw += exp_((past.p + after.p) + c.w) * (past.a * after.a + past.b * after.b);
    own = combine(own, {x.q, -x.qy, -x.p}, c.w);
  }
  return {combine(adj, own, c.w * float(n)), gw, gu};
}

// `adj` is the adjoint of the state after the tile, replaced by that of the state before it.
template <class F, class IO, class Count, int N>
WKV_HD void backward_tile(const IO& io, Count n, const Channel<F>& c, Sums<F> s, Sums<F>& adj,
                          Gradients<F>& g, Tape<F, N>& tape) {
  F r = reference(io.k(0), s.p);
  Sums<F> start = rescale(s, r), end = rescale(adj, -r);
  F worst = max_(abs_(start.b) * FAST_SUM, max_(s.p - r, c.misfit));
  worst = max_(abs_(end.a) * FAST_SUM, max_(abs_(end.b) * FAST_SUM, max_(adj.p + r, worst)));
  F a = start.a, b = start.b;
  for (int t = 0; t < n; t++) {
    F x = io.k(t) - r, v = io.v(t);
    worst = max_(abs_(x), worst);
    F e = quick_exp_(x), now = c.U * e, ev = e * v;
    F inverse = 1.f / (b + now), q = io.grad(t) * inverse;
    tape.e[t] = e;
    tape.q[t] = q;
    tape.qy[t] = q * ((a + c.U * ev) * inverse);
    tape.qd[t] = q * ((v * b - a) * inverse);
    tape.a[t] = a, tape.b[t] = b;
    a = c.W * a + ev;
    b = c.W * b + e;
  }
  if (any_above(worst, FAST_RANGE)) {
    Pulled<F> result = backward_safe<F, N>(io, n, c, s, adj);
    g.w.add(result.gw);
    g.u.add(result.gu);
    adj = result.adj;
    return;
  }
  F P = end.a, Q = end.b, own_P{}, own_Q{}, gw{}, gu{};
  for (int t = n - 1; t >= 0; t--) {
    F q = tape.q[t], e = tape.e[t], v = io.v(t), bonus = c.U * tape.qd[t];
    io.gv(t, e * (P + c.U * q));
    io.gk(t, e * (bonus + (P * v + Q)));
    gu += e * bonus;
    gw += tape.a[t] * P + tape.b[t] * Q;
    P = c.W * P + q;
    Q = c.W * Q - tape.qy[t];
    own_P = c.W * own_P + q;
    own_Q = c.W * own_Q - tape.qy[t];
  }
  g.w.add(c.W * gw);
  g.u.add(gu);
  adj = {after_tile(c, n, end.a, own_P), after_tile(c, n, end.b, own_Q), -r};
}

}  // namespace wkv
