// Token shifts: every token blended with the one before it in several proportions, which are weights
// (RWKV-4 to 7) or depend on the data (RWKV-6); and their gradients.
//
//     out_m = base + (other - base) share_m
//
// where `other` is the token that the shares are of, the current or the previous one. A walk goes
// down `rows` tokens of sequence b from token t on, over one vector of channels.
#pragma once

#include "elementwise/lanes.h"

constexpr int MOST_MIXES = 6, DYNAMIC_MIXES = 5;
constexpr Index AHEAD = 32;  // rows that are fetched ahead

// The shares: `mu` [M, C], and what is added to them for each token, `change` [M, B, T, C], if any.
template <class E>
struct Shares {
  const float* mu;
  const E* change;
  Index C, all;
  template <class Lanes>
  WKV_HD vec operator()(int m, Index at, Index c, Lanes lanes, vec fixed) const {
    return change ? fixed + lanes.read(change + m * all + at + c) : fixed;
  }
};

template <int M, class E, class Lanes>
WKV_HD void mix(Index T, Index C, const E* z, const E* previous, const Shares<E>& shares,
                bool of_previous, int count, E* const* out, Index b, Index t, Index rows, Index c,
                Lanes lanes) {
  Index from = (b * T + t) * C;
  vec past = lanes.read(t > 0 ? z + from - C + c : previous + b * C + c);
  vec fixed[M];
  for (int m = 0; m < M; m++)
    if (m < count) fixed[m] = lanes.read(shares.mu + m * C + c);
  for (Index i = 0; i < rows; i++) {
    Index at = from + i * C;
    lanes.prefetch(z + at + AHEAD * C + c);
    vec now = lanes.read(z + at + c);
    vec base = of_previous ? now : past, step = of_previous ? past - now : now - past;
    for (int m = 0; m < M; m++)
      if (m < count)
        lanes.write(out[m] + at + c, base + step * shares(m, at, c, lanes, fixed[m]));
    past = now;
  }
}

// Of each gradient g_m the part g_m share_m goes to `other`, the rest to `base`.
template <int M, class E, class Lanes>
WKV_HD void mix_backward(Index T, Index C, const E* z, const E* previous, const Shares<E>& shares,
                         bool of_previous, int count, const E* const* grad, E* gz, E* gprevious,
                         E* gchange, Index b, Index t, Index rows, Index c, Lanes lanes,
                         vec* sums) {
  Index from = (b * T + t) * C;
  vec past = lanes.read(t > 0 ? z + from - C + c : previous + b * C + c);
  vec fixed[M], pending{};  // pending: what the row before takes of its own gradients
  for (int m = 0; m < M; m++)
    if (m < count) fixed[m] = lanes.read(shares.mu + m * C + c);
  for (Index i = 0; i <= rows; i++) {
    Index at = from + i * C;
    vec own{}, to_past{};
    if (t + i < T) {  // row `rows` belongs to the next walk: only what it sends back
      vec all{}, weighted{}, now{}, step{};
      if (i < rows) {
        now = lanes.read(z + at + c);
        step = of_previous ? past - now : now - past;
      }
      for (int m = 0; m < M; m++) {
        if (m >= count) continue;
        lanes.prefetch(grad[m] + at + AHEAD * C + c);
        vec g = lanes.read(grad[m] + at + c), through = g * step;
        weighted += g * shares(m, at, c, lanes, fixed[m]);
        all += g;
        if (i < rows) {
          sums[m] += through;
          if (gchange) lanes.write(gchange + m * shares.all + at + c, through);
        }
      }
      own = of_previous ? all - weighted : weighted;
      to_past = of_previous ? weighted : all - weighted;
      past = now;
    }
    if (i > 0)
      lanes.write(gz + at - C + c, pending + to_past);
    else if (t == 0)
      lanes.write(gprevious + b * C + c, to_past);
    pending = own;
  }
}

template <class E>
struct TokenShiftMix {
  static constexpr int SUMS = 0, MOST = MOST_MIXES;
  Index B, T, C, count;
  const E *z, *previous;
  const float* mu;
  Number of_previous;
  E* out[MOST_MIXES];
  template <int M, class Lanes>
  WKV_HD void walk(Index b, Index t, Index rows, Index c, Lanes lanes, vec*) const {
    Shares<E> shares{mu, nullptr, C, 0};
    mix<M>(T, C, z, previous, shares, of_previous.value != 0, int(count), out, b, t, rows, c, lanes);
  }
};

template <class E>
struct TokenShiftMixBackward {
  static constexpr int SUMS = MOST_MIXES, MOST = MOST_MIXES;
  Index B, T, C, count;
  const E *z, *previous;
  const float* mu;
  Number of_previous;
  const E* grad[MOST_MIXES];
  E *gz, *gprevious;
  float* gmu;
  WKV_HD float* total(int q) const { return gmu + q * C; }
  template <int M, class Lanes>
  WKV_HD void walk(Index b, Index t, Index rows, Index c, Lanes lanes, vec* sums) const {
    Shares<E> shares{mu, nullptr, C, 0};
    mix_backward<M>(T, C, z, previous, shares, of_previous.value != 0, int(count), grad, gz,
                    gprevious, static_cast<E*>(nullptr), b, t, rows, c, lanes, sums);
  }
};

template <class E>
struct DynamicMix {
  static constexpr int SUMS = 0, MOST = DYNAMIC_MIXES;
  Index B, T, C, count;
  const E *z, *previous;
  const float* mu;
  const E* change;
  E* out[MOST_MIXES];
  template <int M, class Lanes>
  WKV_HD void walk(Index b, Index t, Index rows, Index c, Lanes lanes, vec*) const {
    Shares<E> shares{mu, change, C, B * T * C};
    mix<M>(T, C, z, previous, shares, true, M, out, b, t, rows, c, lanes);
  }
};

template <class E>
struct DynamicMixBackward {
  static constexpr int SUMS = DYNAMIC_MIXES, MOST = DYNAMIC_MIXES;
  Index B, T, C, count;
  const E *z, *previous;
  const float* mu;
  const E* change;
  const E* grad[MOST_MIXES];
  E *gz, *gprevious, *gchange;
  float* gmu;
  WKV_HD float* total(int q) const { return gmu + q * C; }
  template <int M, class Lanes>
  WKV_HD void walk(Index b, Index t, Index rows, Index c, Lanes lanes, vec* sums) const {
    Shares<E> shares{mu, change, C, B * T * C};
    mix_backward<M>(T, C, z, previous, shares, true, M, grad, gz, gprevious, gchange, b, t, rows, c,
                    lanes, sums);
  }
};

// ENTRY(name, way over memory, formula)
#define SHIFT_FORMULAS(ENTRY)                                    \
  ENTRY(token_shift_mix, Tokens, TokenShiftMix)                  \
  ENTRY(token_shift_mix_backward, Tokens, TokenShiftMixBackward) \
  ENTRY(dynamic_mix, Tokens, DynamicMix)                         \
  ENTRY(dynamic_mix_backward, Tokens, DynamicMixBackward)
