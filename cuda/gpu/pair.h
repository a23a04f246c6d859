// Two channels of one GPU thread: the value type wkv4/math.h is compiled for there, and the loads
// and stores that go with it.
#pragma once

#include "common/elements.h"

struct Mask {
  bool x, y;
};

struct alignas(8) Pair {
  float x, y;
};

#define PAIR_OPERATOR(op)                                                                 \
  WKV_HD Pair operator op(Pair a, Pair b) { return {a.x op b.x, a.y op b.y}; }            \
  WKV_HD Pair operator op(Pair a, float b) { return {a.x op b, a.y op b}; }               \
  WKV_HD Pair operator op(float a, Pair b) { return {a op b.x, a op b.y}; }
PAIR_OPERATOR(+)
PAIR_OPERATOR(-)
PAIR_OPERATOR(*)
PAIR_OPERATOR(/)
#undef PAIR_OPERATOR

WKV_HD Pair operator-(Pair a) { return {-a.x, -a.y}; }
WKV_HD Pair& operator+=(Pair& a, Pair b) { return a = a + b; }
WKV_HD Mask operator<(Pair a, float b) { return {a.x < b, a.y < b}; }

WKV_HD Pair where_(Mask m, Pair yes, Pair no) { return {m.x ? yes.x : no.x, m.y ? yes.y : no.y}; }
WKV_HD Pair min_(Pair a, Pair b) { return {fminf(a.x, b.x), fminf(a.y, b.y)}; }
WKV_HD Pair max_(Pair a, Pair b) { return {fmaxf(a.x, b.x), fmaxf(a.y, b.y)}; }
WKV_HD Pair abs_(Pair a) { return {fabsf(a.x), fabsf(a.y)}; }
WKV_HD Pair round_(Pair a) { return {rintf(a.x), rintf(a.y)}; }
WKV_HD Pair exp_(Pair a) { return {expf(a.x), expf(a.y)}; }
WKV_HD Pair expm1_(Pair a) { return {expm1f(a.x), expm1f(a.y)}; }
WKV_HD bool any_above(Pair a, float limit) { return a.x > limit || a.y > limit; }
WKV_HD bool same(Pair a, Pair b) { return a.x == b.x && a.y == b.y; }

WKV_HD Pair quick_exp_(Pair a) { return {__expf(a.x), __expf(a.y)}; }

// Two elements in memory, aligned as one.
template <class E>
struct alignas(2 * sizeof(E)) Packed {
  E x, y;
};

// Of data no thread writes meanwhile, so that loads may be moved ahead of stores.
template <class E>
WKV_HD Packed<E> load_packed(const E* p) {
  if constexpr (sizeof(E) == 4) {
    float2 both = __ldg(reinterpret_cast<const float2*>(p));
    return {both.x, both.y};
  } else {
    unsigned both = __ldg(reinterpret_cast<const unsigned*>(p));
    return {{(unsigned short)(both)}, {(unsigned short)(both >> 16)}};
  }
}

// Both elements, aligned.
template <class E>
WKV_HD Pair load_pair(const E* p) {
  Packed<E> both = load_packed(p);
  return {to_float(both.x), to_float(both.y)};
}
template <class E>
WKV_HD void store_pair(E* p, Pair value) {
  Packed<E> both;
  from_float(value.x, both.x);
  from_float(value.y, both.y);
  *reinterpret_cast<Packed<E>*>(p) = both;
}

// The first `count` of the two, anywhere.
template <class E>
WKV_HD Pair load_pair(const E* p, int count) {
  return {count > 0 ? to_float(p[0]) : 0.f, count > 1 ? to_float(p[1]) : 0.f};
}
template <class E>
WKV_HD void store_pair(E* p, Pair value, int count) {
  if (count > 0) from_float(value.x, p[0]);
  if (count > 1) from_float(value.y, p[1]);
}
