// WKV-5 and WKV-6 arithmetic, written once: the CPU build compiles it for vectors of key channels,
// the GPU build for one key channel per thread. Derivations: docs/wkv.md.
//
// F is a float or a vector of floats with the usual operators, and needs exp_(x <= 0) and
// where_(condition, yes, no).
#pragma once

#include "elements.h"

namespace wkv6 {

constexpr int CHUNK = 32;         // tokens between checkpoints, as in models/wkv/v6/reference.py
constexpr float SLOW = -0.34f;    // above this, e^w is 1 + a short series
constexpr float NOTHING = -87.f;  // below this, e^w is 0

// e^w = factor (1 + rest): a rounded factor would change the decay, which shows over long T.
template <class F>
struct Decay {
  F factor, rest;
};

// A positive w, which is no decay, gives NaN.
template <class F>
WKV_HD Decay<F> decay(F w) {
  F p = w * 1.38436153e-3f + 8.37419927e-3f;
  p = p * w + 4.16680053e-2f;
  p = p * w + 1.66664302e-1f;
  p = p * w + 0.49999994f;
  p = p * w + 1.f;
  F lost = p * w, slow = lost + 1.f;
  F factor = where_(w > SLOW, slow, where_(w < NOTHING, F{}, exp_(w)));
  F nan = F{} + __builtin_nanf("");
  return {where_(w <= 0.f, factor, nan), where_(w > SLOW, lost - (slow - 1.f), F{})};
}

// Gradients that reach a run of L tokens from one of its ends, handed to the tokens. `io` gives
// read(t), what token t's query meets at the run's start, with its decay since(t) from there, and
// its gradient; see Pairs below for both.
//
// A pair of tokens adds the same amount to the gradient of every log-decay between them: hence
// running sums, over the far side of each token.

// Queries of tokens [first, first + L), whose keys lie before: since[t] is the decay from `first` to
// the state that token first + t reads, grad[t] the gradient of r_t since[t].
template <int L, class F, class IO>
WKV_HD void queries(IO& io, int first, const F* since, const F* grad) {
  F later{};
  for (int t = L - 1; t >= 0; t--) {
    F g = grad[t] * since[t];
    io.add_w(first + t, later);
    io.add_r(first + t, g);
    later = later + io.r(first + t) * g;
  }
}

// Keys of tokens [first, first + L), whose queries lie behind: until[s] is the decay from the state
// that token first + s leaves to that of the last, grad[s] the gradient of k_s until[s].
template <int L, class F, class IO>
WKV_HD void keys(IO& io, int first, const F* until, const F* grad) {
  F before{};
  for (int s = 0; s < L; s++) {
    F g = grad[s] * until[s];
    io.add_w(first + s, before);
    io.add_k(first + s, g);
    before = before + io.k(first + s) * g;
  }
}

template <int L, class F, class IO>
WKV_HD void decays_since(const IO& io, int first, F* since) {
  since[0] = F{} + 1.f;
  for (int t = 1; t < L; t++) since[t] = since[t - 1] * io.d(first + t - 1);
}

template <int L, class F, class IO>
WKV_HD void decays_until(const IO& io, int first, F* until) {
  until[L - 1] = F{} + 1.f;
  for (int s = L - 1; s > 0; s--) until[s - 1] = until[s] * io.d(first + s);
}

// Gradients of r, k and w from all pairs of tokens s < t in [first, first + L): those of either half,
// and those across the middle, where both decays are measured from, so that none is divided by.
// io.table(t, s) is v_s . grad_y_t.
template <int L, class F, class IO>
WKV_HD void pairs(IO& io, int first) {
  if constexpr (L > 1) {
    constexpr int HALF = L / 2;
    int middle = first + HALF;
    pairs<HALF, F>(io, first);
    pairs<HALF, F>(io, middle);
    F until[HALF], since[HALF], k[HALF], grad_k[HALF], grad_r[HALF];
    decays_until<HALF>(io, first, until);
    decays_since<HALF>(io, middle, since);
    for (int s = 0; s < HALF; s++) {
      k[s] = io.k(first + s) * until[s];
      grad_k[s] = F{};
    }
    for (int t = 0; t < HALF; t++) {
      F r = io.r(middle + t) * since[t], sum{};
      for (int s = 0; s < HALF; s++) {
        float x = io.table(middle + t, first + s);
        sum = sum + k[s] * x;
        grad_k[s] = grad_k[s] + r * x;
      }
      grad_r[t] = sum;
    }
    keys<HALF>(io, first, until, grad_k);
    queries<HALF>(io, middle, since, grad_r);
  }
}

// All gradients of one chunk. io.past(t) is S grad_y_t with the state S before the chunk,
// io.future(t) is G v_t with the adjoint G after it, `through` the row sums of S * G, `u` the bonus.
// Returns the chunk's part of the gradient of u.
template <class F, class IO>
WKV_HD F gradients(IO& io, F u, F through) {
  F since[CHUNK], until[CHUNK], grad_u{};
  decays_since<CHUNK>(io, 0, since);
  decays_until<CHUNK>(io, 0, until);
  through = through * (since[CHUNK - 1] * io.d(CHUNK - 1));
  for (int t = 0; t < CHUNK; t++) {
    F r = io.r(t), k = io.k(t), own = F{} + io.table(t, t);
    io.set(t, own * u * k, own * u * r, through);
    grad_u = grad_u + own * r * k;
  }
  F grad[CHUNK];
  for (int t = 0; t < CHUNK; t++) grad[t] = io.past(t);
  queries<CHUNK>(io, 0, since, grad);
  for (int t = 0; t < CHUNK; t++) grad[t] = io.future(t);
  keys<CHUNK>(io, 0, until, grad);
  pairs<CHUNK, F>(io, 0);
  return grad_u;
}

}  // namespace wkv6
