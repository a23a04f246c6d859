// WKV-5 and WKV-6 arithmetic, written once: the CPU build compiles it for vectors of key channels,
// the GPU build for one key channel per thread. Derivations: docs/kernels.md.
//
// F is a float or a vector of floats with the usual operators, and needs exp_(x <= 0) and
// where_(condition, yes, no).
#pragma once

#include "common/elements.h"

#ifdef __CUDACC__
#define WKV_UNROLL _Pragma("unroll")
#else
#define WKV_UNROLL
#include <cmath>
#endif

namespace wkv6 {

constexpr int CHUNK = 32;         // tokens between checkpoints, as in models/ops/wkv6/reference.py
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
  return {where_(w <= 0.f, factor, F{} + NAN), where_(w > SLOW, lost - (slow - 1.f), F{})};
}

// ---------------------------------------------------------------- gradients, one chunk
//
// A pair of tokens s < t adds the same amount to the gradient of every log-decay between them. So
// that of r_t, times r_t, is added to all log-decays between t and where the pair was divided, and
// that of k_s, times k_s, likewise: running sums, and no decay is ever divided by.
//
// `io` gives r(t), k(t), the decay d(t), table(t, s) = v_s . grad_y_t, and references to the gradients
// gr(t), gk(t), gw(t).

// since[t]: the decay from the start of the run to the state that token first + t reads.
template <int L, class F, class IO>
WKV_HD void decays_since(const IO& io, int first, F* since) {
  since[0] = F{} + 1.f;
  WKV_UNROLL for (int t = 1; t < L; t++) since[t] = since[t - 1] * io.d(first + t - 1);
}

// until[s]: the decay from the state that token first + s leaves to the end of the run.
template <int L, class F, class IO>
WKV_HD void decays_until(const IO& io, int first, F* until) {
  until[L - 1] = F{} + 1.f;
  WKV_UNROLL for (int s = L - 1; s > 0; s--) until[s - 1] = until[s] * io.d(first + s);
}

// All pairs of tokens in [first, first + L): those of either half, and those across the middle.
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
    WKV_UNROLL for (int s = 0; s < HALF; s++) {
      k[s] = io.k(first + s) * until[s];
      grad_k[s] = F{};
    }
    WKV_UNROLL for (int t = 0; t < HALF; t++) {
      F r = io.r(middle + t) * since[t], sum{};
      WKV_UNROLL for (int s = 0; s < HALF; s++) {
        float x = io.table(middle + t, first + s);
        sum += k[s] * x;
        grad_k[s] += r * x;
      }
      grad_r[t] = sum;
    }
    F before{}, later{};
    WKV_UNROLL for (int s = 0; s < HALF; s++) {
      F grad = grad_k[s] * until[s];
      io.gk(first + s) += grad;
      io.gw(first + s) += before;
      before += io.k(first + s) * grad;
    }
    WKV_UNROLL for (int t = HALF - 1; t >= 0; t--) {
      F grad = grad_r[t] * since[t];
      io.gr(middle + t) += grad;
      io.gw(middle + t) += later;
      later += io.r(middle + t) * grad;
    }
  }
}

// All gradients of a chunk. On entry gr(t) is S grad_y_t with the state S before the chunk, and gk(t)
// is G v_t with the adjoint G after it; `through` is the row sums of S * G, u the bonus. Returns the
// chunk's part of the gradient of u.
template <class F, class IO>
WKV_HD F gradients(IO& io, F u, F through) {
  F grad_u{}, before{}, later{}, decays[CHUNK];
  decays_since<CHUNK>(io, 0, decays);
  through *= decays[CHUNK - 1] * io.d(CHUNK - 1);
  WKV_UNROLL for (int t = CHUNK - 1; t >= 0; t--) {
    F grad = io.gr(t) * decays[t], own = io.k(t) * io.table(t, t);
    io.gr(t) = grad + own * u;
    io.gw(t) = through + later;
    later += io.r(t) * grad;
    grad_u += io.r(t) * own;
  }
  decays_until<CHUNK>(io, 0, decays);
  WKV_UNROLL for (int t = 0; t < CHUNK; t++) {
    F grad = io.gk(t) * decays[t];
    io.gk(t) = grad + io.r(t) * u * io.table(t, t);
    io.gw(t) += before;
    before += io.k(t) * grad;
  }
  pairs<CHUNK, F>(io, 0);
  return grad_u;
}

}  // namespace wkv6
