// What RWKV-5, 6 and 7 do to heads around their recurrences, and the rotation of attention; with
// gradients. models/rwkv5.py and models/rwkv7.py say what is computed.
//
// A row is a token: `count` heads of `size` channels.
#pragma once

#include "elementwise/norms.h"

constexpr float SMALLEST_NORM = 1e-12f;

// ---------------------------------------------------------------- RWKV-5 and 6: norm and gate

template <class E>
struct GatedHeadNorm {
  static constexpr int SUMS = 0;
  Index rows, count, size;
  const E *y, *g;
  const float *weight, *bias;
  Number eps;
  E* out;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    auto value = [&](Index c, auto m) { return m.read(y + at + c); };
    Moments of = moments<true>(team, size, eps, value);
    team.each([&](Index c, auto m, vec*) {
      vec n = (value(c, m) - of.mean) * of.inverse, k = m.read(g + at + c);
      vec normed = n * m.read(weight + channel + c) + m.read(bias + channel + c);
      m.write(out + at + c, normed * k * sigmoid(k));
    });
  }
};

template <class E>
struct GatedHeadNormBackward {
  static constexpr int SUMS = 2;
  Index rows, count, size;
  const E *y, *g;
  const float *weight, *bias;
  Number eps;
  const E* grad;
  E *gy, *gg;
  float *gweight, *gbias;
  WKV_HD float* total(int q) const { return q ? gbias : gweight; }
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    auto value = [&](Index c, auto m) { return m.read(y + at + c); };
    Moments of = moments<true>(team, size, eps, value);
    NormBackward norm;
    team.each([&](Index c, auto m, vec* sums) {
      vec n = m.only((value(c, m) - of.mean) * of.inverse), k = m.read(g + at + c);
      vec scale = m.read(weight + channel + c), share = sigmoid(k), from = m.read(grad + at + c);
      vec normed = n * scale + m.read(bias + channel + c), q = from * k * share;
      m.write(gg + at + c, from * normed * share * (1.f + k * sigmoid(-k)));
      sums[0] += q * n;
      sums[1] += q;
      norm.add(q * scale, n);
    });
    auto pull = norm.template finish<true>(team, size, of.inverse);
    team.each([&](Index c, auto m, vec*) {
      vec n = (value(c, m) - of.mean) * of.inverse, k = m.read(g + at + c);
      vec q = m.read(grad + at + c) * k * sigmoid(k);
      m.write(gy + at + c, pull(q * m.read(weight + channel + c), n));
    });
  }
};

// ---------------------------------------------------------------- RWKV-7: norm, bonus and gate

// sum_n r_n k_n r_k[n] over a head.
template <class Team, class E>
WKV_HD float bonus_of(Team& team, const E* r, const E* k, const float* r_k) {
  vec sum{};
  team.each([&](Index c, auto m, vec*) {
    sum += m.only(m.read(r + c) * m.read(k + c) * m.read(r_k + c));
  });
  return team.sum(sum);
}

template <class E>
struct BonusHeadNorm {
  static constexpr int SUMS = 0;
  Index rows, count, size;
  const E *y, *r, *k, *v, *g;
  const float *r_k, *weight, *bias;
  Number eps;
  E* out;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    auto value = [&](Index c, auto m) { return m.read(y + at + c); };
    Moments of = moments<true>(team, size, eps, value);
    float bonus = bonus_of(team, r + at, k + at, r_k + channel);
    team.each([&](Index c, auto m, vec*) {
      vec n = (value(c, m) - of.mean) * of.inverse;
      vec normed = n * m.read(weight + channel + c) + m.read(bias + channel + c);
      m.write(out + at + c, (normed + bonus * m.read(v + at + c)) * m.read(g + at + c));
    });
  }
};

template <class E>
struct BonusHeadNormBackward {
  static constexpr int SUMS = 3;
  Index rows, count, size;
  const E *y, *r, *k, *v, *g;
  const float *r_k, *weight, *bias;
  Number eps;
  const E* grad;
  E *gy, *gr, *gk, *gv, *gg;
  float *gr_k, *gweight, *gbias;
  WKV_HD float* total(int q) const { return q == 0 ? gr_k : q == 1 ? gweight : gbias; }
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    auto value = [&](Index c, auto m) { return m.read(y + at + c); };
    Moments of = moments<true>(team, size, eps, value);
    float bonus = bonus_of(team, r + at, k + at, r_k + channel);
    NormBackward norm;
    vec through_bonus{};
    team.each([&](Index c, auto m, vec* sums) {
      vec n = m.only((value(c, m) - of.mean) * of.inverse), value = m.read(v + at + c);
      vec scale = m.read(weight + channel + c), from = m.read(grad + at + c);
      vec all = n * scale + m.read(bias + channel + c) + bonus * value;
      vec q = from * m.read(g + at + c);
      m.write(gg + at + c, from * all);
      m.write(gv + at + c, q * bonus);
      through_bonus += q * value;
      sums[1] += q * n;
      sums[2] += q;
      norm.add(q * scale, n);
    });
    float gbonus = team.sum(through_bonus);
    auto pull = norm.template finish<true>(team, size, of.inverse);
    team.each([&](Index c, auto m, vec* sums) {
      vec n = (value(c, m) - of.mean) * of.inverse;
      vec q = m.read(grad + at + c) * m.read(g + at + c);
      m.write(gy + at + c, pull(q * m.read(weight + channel + c), n));
      vec read = m.read(r + at + c), key = m.read(k + at + c);
      vec share = m.read(r_k + channel + c) * gbonus;
      m.write(gr + at + c, key * share);
      m.write(gk + at + c, read * share);
      sums[0] += read * key * gbonus;
    });
  }
};

// ---------------------------------------------------------------- RWKV-7: keys of the delta rule

// 1 / |k k_k| of a head.
template <class Team, class E>
WKV_HD float inverse_norm(Team& team, const E* k, const float* k_k) {
  vec sum{};
  team.each([&](Index c, auto m, vec*) {
    vec u = m.read(k + c) * m.read(k_k + c);
    sum += u * u;
  });
  float norm = sqrtf(team.sum(sum));
  return 1 / (norm < SMALLEST_NORM ? SMALLEST_NORM : norm);
}

template <class E>
struct DeltaKeys {
  static constexpr int SUMS = 0;
  Index rows, count, size;
  const E *k, *e;
  const float *a0, *k_k, *k_a;
  E *key, *a, *b;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    float inverse = inverse_norm(team, k + at, k_k + channel);
    team.each([&](Index c, auto m, vec*) {
      vec own = m.read(k + at + c), rate = sigmoid(m.read(a0 + channel + c) + m.read(e + at + c));
      vec kappa = own * m.read(k_k + channel + c) * inverse;
      m.write(key + at + c, own * (1.f + (rate - 1.f) * m.read(k_a + channel + c)));
      m.write(a + at + c, -kappa);
      m.write(b + at + c, kappa * rate);
    });
  }
};

template <class E>
struct DeltaKeysBackward {
  static constexpr int SUMS = 3;
  Index rows, count, size;
  const E *k, *e;
  const float *a0, *k_k, *k_a;
  const E *gkey, *ga, *gb;
  E *gk, *ge;
  float *ga0, *gk_k, *gk_a;
  WKV_HD float* total(int q) const { return q == 0 ? ga0 : q == 1 ? gk_k : gk_a; }
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index channel = head * size, at = row * count * size + channel;
    float inverse = inverse_norm(team, k + at, k_k + channel);
    auto rate_of = [&](Index c, auto m) {
      return sigmoid(m.read(a0 + channel + c) + m.read(e + at + c));
    };
    auto through = [&](Index c, auto m, vec rate) {  // dL/dkappa
      return m.read(gb + at + c) * rate - m.read(ga + at + c);
    };
    vec product{};
    team.each([&](Index c, auto m, vec*) {
      vec kappa = m.read(k + at + c) * m.read(k_k + channel + c) * inverse;
      product += kappa * through(c, m, rate_of(c, m));
    });
    float along = team.sum(product);
    if (!(inverse < 1 / SMALLEST_NORM)) along = 0;
    team.each([&](Index c, auto m, vec* sums) {
      vec own = m.read(k + at + c), scale = m.read(k_k + channel + c);
      vec rate = rate_of(c, m), kappa = own * scale * inverse;
      vec share = m.read(k_a + channel + c), from = m.read(gkey + at + c);
      vec gu = (through(c, m, rate) - kappa * along) * inverse;
      vec grate = m.read(gb + at + c) * kappa + from * own * share;
      vec gsum = grate * rate * (1.f - rate);
      m.write(ge + at + c, gsum);
      m.write(gk + at + c, from * (1.f + (rate - 1.f) * share) + gu * scale);
      sums[0] += gsum;
      sums[1] += gu * own;
      sums[2] += from * own * (rate - 1.f);
    });
  }
};

// ---------------------------------------------------------------- attention: rotation

// Heads of 2 `size` channels, `stride` elements from row to row in x and dense in out; row r is at
// position r % length. (first, second) -> (first cos - second sin, second cos + first sin).
template <class E>
struct Rotate {
  static constexpr int SUMS = 0;
  Index rows, length, count, size, stride;
  const E* x;
  const float *cosine, *sine;
  Number direction;
  E* out;
  template <class Team>
  WKV_HD void of(Team& team, Index row, Index head) const {
    Index position = row % length * size;
    const E* from = x + row * stride + head * 2 * size;
    E* to = out + (row * count + head) * 2 * size;
    float turn = direction;
    team.each([&](Index i, auto m, vec*) {
      vec first = m.read(from + i), second = m.read(from + size + i);
      vec cos = m.read(cosine + position + i), sin = m.read(sine + position + i) * turn;
      m.write(to + i, first * cos - second * sin);
      m.write(to + size + i, second * cos + first * sin);
    });
  }
};

// ENTRY(name, way over memory, formula)
#define HEAD_FORMULAS(ENTRY)                                       \
  ENTRY(gated_head_norm, Heads, GatedHeadNorm)                     \
  ENTRY(gated_head_norm_backward, Heads, GatedHeadNormBackward)    \
  ENTRY(bonus_head_norm, Heads, BonusHeadNorm)                     \
  ENTRY(bonus_head_norm_backward, Heads, BonusHeadNormBackward)    \
  ENTRY(delta_keys, Heads, DeltaKeys)                              \
  ENTRY(delta_keys_backward, Heads, DeltaKeysBackward)             \
  ENTRY(rotate, Heads, Rotate)
