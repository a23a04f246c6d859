// LayerNorm and RMSNorm of rows, alone or of what is added to the residual stream; and their gradients.
// The stream's elements are S, what goes into and out of a layer E.
#pragma once

#include "elementwise/lanes.h"

struct Moments {
  float mean, inverse;  // of the deviation, or of the root mean square
};

// Of value(channel, lanes) over the `size` channels of a team.
template <bool CENTRED, class Team, class Value>
WKV_HD Moments moments(Team& team, Index size, float eps, Value value) {
  float mean = 0;
  if constexpr (CENTRED) {
    vec sum{};
    team.each([&](Index c, auto m, vec*) { sum += value(c, m); });
    mean = team.sum(sum) / size;
  }
  vec squares{};
  team.each([&](Index c, auto m, vec*) {
    vec away = m.only(value(c, m) - mean);
    squares += away * away;
  });
  return {mean, 1 / sqrtf(team.sum(squares) / size + eps)};
}

// Through n = (y - mean) / deviation, given t = dL/dn: sums first, then gy.
struct NormBackward {
  vec t_sum{}, tn_sum{};
  WKV_HD void add(vec t, vec n) {
    t_sum += t;
    tn_sum += t * n;
  }
  template <bool CENTRED, class Team>
  WKV_HD auto finish(Team& team, Index size, float inverse) const {
    float t_mean = CENTRED ? team.sum(t_sum) / size : 0.f, tn_mean = team.sum(tn_sum) / size;
    return [=](vec t, vec n) { return (t - t_mean - n * tn_mean) * inverse; };
  }
};

// What is learned per channel: RMSNorm has no bias, and no field for one.
template <bool CENTRED>
struct Affine {
  const float *weight, *bias;
  template <class Lanes>
  WKV_HD vec operator()(Index c, Lanes m, vec n) const {
    return n * m.read(weight + c) + m.read(bias + c);
  }
};
template <>
struct Affine<false> {
  const float* weight;
  template <class Lanes>
  WKV_HD vec operator()(Index c, Lanes m, vec n) const {
    return n * m.read(weight + c);
  }
};

template <bool CENTRED, class Team, class Value, class E>
WKV_HD void normalise(Team& team, Index size, float eps, Value value, Affine<CENTRED> affine,
                      E* out) {
  Moments of = moments<CENTRED>(team, size, eps, value);
  team.each([&](Index c, auto m, vec*) {
    m.write(out + c, affine(c, m, (value(c, m) - of.mean) * of.inverse));
  });
}

// pass(channel, lanes, gradient of x) for every vector; sums: gradients of weight and bias.
template <bool CENTRED, class Team, class S, class E, class Pass>
WKV_HD void normalise_backward(Team& team, Index size, float eps, const S* x, const float* weight,
                               const E* grad, Pass pass) {
  Moments of = moments<CENTRED>(team, size, eps, [&](Index c, auto m) { return m.read(x + c); });
  NormBackward norm;
  team.each([&](Index c, auto m, vec* sums) {
    vec n = m.only((m.read(x + c) - of.mean) * of.inverse), from = m.read(grad + c);
    norm.add(from * m.read(weight + c), n);
    sums[0] += from * n;
    if constexpr (CENTRED) sums[1] += from;
  });
  auto pull = norm.template finish<CENTRED>(team, size, of.inverse);
  team.each([&](Index c, auto m, vec*) {
    vec n = (m.read(x + c) - of.mean) * of.inverse;
    pass(c, m, pull(m.read(grad + c) * m.read(weight + c), n));
  });
}

// ---------------------------------------------------------------- alone

template <class E, class S, bool CENTRED>
struct NormOf {
  static constexpr int SUMS = 0;
  static constexpr Index count = 1;
  Index rows, size;
  const S* x;
  Affine<CENTRED> affine;
  Number eps;
  E* out;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index) const {
    auto value = [&](Index c, auto m) { return m.read(x + row * size + c); };
    normalise<CENTRED>(team, size, eps, value, affine, out + row * size);
  }
};
template <class E, class S>
using LayerNorm = NormOf<E, S, true>;
template <class E, class S>
using RMSNorm = NormOf<E, S, false>;

template <class E, class S, bool CENTRED>
struct NormBackwardOf {
  static constexpr int SUMS = 1 + CENTRED;
  static constexpr Index count = 1;
  Index rows, size;
  const S* x;
  const float* weight;
  Number eps;
  const E* grad;
  S* gx;
  float *gweight, *gbias;
  WKV_HD float* total(int q) const { return q ? gbias : gweight; }
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index) const {
    normalise_backward<CENTRED>(
        team, size, eps, x + row * size, weight, grad + row * size,
        [&](Index c, auto m, vec through) { m.write(gx + row * size + c, through); });
  }
};
template <class E, class S>
using LayerNormBackward = NormBackwardOf<E, S, true>;
template <class E, class S>
using RMSNormBackward = NormBackwardOf<E, S, false>;

// ---------------------------------------------------------------- of a sum

// sum = x + delta, and its norm. Each vector of the sum is rounded to what is kept of it.
template <class E, class S>
struct Sum {
  const S* x;
  const E* delta;
  S* sum;
  template <class Lanes>
  WKV_HD vec operator()(Index c, Lanes m) const {
    return rounded<S>(m.read(x + c) + m.read(delta + c));
  }
  template <class Team>
  WKV_HD void keep(Team& team) const {
    team.each([&](Index c, auto m, vec*) { m.write(sum + c, (*this)(c, m)); });
  }
};

template <class E, class S, bool CENTRED>
struct AddNormOf {
  static constexpr int SUMS = 0;
  static constexpr Index count = 1;
  Index rows, size;
  const S* x;
  const E* delta;
  Affine<CENTRED> affine;
  Number eps;
  S* sum;
  E* out;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index) const {
    Sum<E, S> value{x + row * size, delta + row * size, sum + row * size};
    normalise<CENTRED>(team, size, eps, value, affine, out + row * size);
    value.keep(team);
  }
};
template <class E, class S>
using AddLayerNorm = AddNormOf<E, S, true>;
template <class E, class S>
using AddRMSNorm = AddNormOf<E, S, false>;

template <class E, class S, bool CENTRED>
struct AddNormBackwardOf {
  static constexpr int SUMS = 1 + CENTRED;
  static constexpr Index count = 1;
  Index rows, size;
  const S* sum;
  const float* weight;
  Number eps;
  const S* gsum;
  const E* grad;
  S* gx;
  E* gdelta;
  float *gweight, *gbias;
  WKV_HD float* total(int q) const { return q ? gbias : gweight; }
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index) const {
    normalise_backward<CENTRED>(team, size, eps, sum + row * size, weight, grad + row * size,
                                [&](Index c, auto m, vec through) {
                                  vec all = m.read(gsum + row * size + c) + through;
                                  m.write(gx + row * size + c, all);
                                  m.write(gdelta + row * size + c, all);
                                });
  }
};
template <class E, class S>
using AddLayerNormBackward = AddNormBackwardOf<E, S, true>;
template <class E, class S>
using AddRMSNormBackward = AddNormBackwardOf<E, S, false>;

// ENTRY(name, way over memory, formula)
#define LAYER_NORM_FORMULAS(ENTRY)                    \
  ENTRY(layer_norm, Rows, LayerNorm)                  \
  ENTRY(layer_norm_backward, Rows, LayerNormBackward) \
  ENTRY(add_layer_norm, Rows, AddLayerNorm)           \
  ENTRY(add_layer_norm_backward, Rows, AddLayerNormBackward)
#define RMS_NORM_FORMULAS(ENTRY)                  \
  ENTRY(rms_norm, Rows, RMSNorm)                  \
  ENTRY(rms_norm_backward, Rows, RMSNormBackward) \
  ENTRY(add_rms_norm, Rows, AddRMSNorm)           \
  ENTRY(add_rms_norm_backward, Rows, AddRMSNormBackward)
