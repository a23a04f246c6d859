// Formulas in which every element stands for itself: gates, activations, RWKV-7's decay and value
// residual; and their gradients.
#pragma once

#include "elementwise/lanes.h"

constexpr float DECAY_SCALE = 0.60653066f;  // e^{-1/2}: the fastest decay of RWKV-7

// ---------------------------------------------------------------- flat arrays

// sigmoid(r) x.
template <class E>
struct Gate {
  Index n;
  const E *r, *x;
  E* out;
  template <class Lanes>
  WKV_HD void at(Index i, Lanes m) const {
    m.write(out + i, sigmoid(m.read(r + i)) * m.read(x + i));
  }
};

template <class E>
struct GateBackward {
  Index n;
  const E *r, *x, *grad;
  E *gr, *gx;
  template <class Lanes>
  WKV_HD void at(Index i, Lanes m) const {
    vec k = m.read(r + i), s = sigmoid(k), through = m.read(grad + i) * s;
    m.write(gr + i, through * m.read(x + i) * sigmoid(-k));  // 1 - s without cancellation
    m.write(gx + i, through);
  }
};

// max(x, 0)^2.
template <class E>
struct SquaredReLU {
  Index n;
  const E* x;
  E* out;
  template <class Lanes>
  WKV_HD void at(Index i, Lanes m) const {
    vec positive = max_(vec{}, m.read(x + i));
    m.write(out + i, positive * positive);
  }
};

template <class E>
struct SquaredReLUBackward {
  Index n;
  const E *x, *grad;
  E* gx;
  template <class Lanes>
  WKV_HD void at(Index i, Lanes m) const {
    m.write(gx + i, 2.f * max_(vec{}, m.read(x + i)) * m.read(grad + i));
  }
};

// ---------------------------------------------------------------- rows of channels

// x = (gate, up), each of `width`: out = gate sigmoid(gate) up.
template <class E>
struct SwiGLU {
  static constexpr int SUMS = 0;
  Index rows, width;
  const E* x;
  E* out;
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec*) const {
    const E* gate = x + row * 2 * width + c;
    vec k = m.read(gate);
    m.write(out + row * width + c, k * sigmoid(k) * m.read(gate + width));
  }
};

template <class E>
struct SwiGLUBackward {
  static constexpr int SUMS = 0;
  Index rows, width;
  const E *x, *grad;
  E* gx;
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec*) const {
    const E* gate = x + row * 2 * width + c;
    E* to = gx + row * 2 * width + c;
    vec k = m.read(gate), s = sigmoid(k), g = m.read(grad + row * width + c);
    m.write(to, g * m.read(gate + width) * s * (1.f + k * sigmoid(-k)));
    m.write(to + width, g * k * s);
  }
};

// -e^{-1/2} sigmoid(w0 + e).
template <class E>
struct LogDecay {
  static constexpr int SUMS = 0;
  Index rows, width;
  const E* e;
  const float* w0;
  float* out;
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec*) const {
    vec share = sigmoid(m.read(w0 + c) + m.read(e + row * width + c));
    m.write(out + row * width + c, -DECAY_SCALE * share);
  }
};

template <class E>
struct LogDecayBackward {
  static constexpr int SUMS = 1;
  Index rows, width;
  const E* e;
  const float *w0, *grad;
  E* ge;
  float* gw0;
  WKV_HD float* total(int) const { return gw0; }
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec* sums) const {
    vec x = m.read(w0 + c) + m.read(e + row * width + c);
    vec from = -DECAY_SCALE * m.read(grad + row * width + c) * sigmoid(x) * sigmoid(-x);
    m.write(ge + row * width + c, from);
    sums[0] += from;
  }
};

// v + (first - v) sigmoid(v0 + e).
template <class E>
struct ValueResidual {
  static constexpr int SUMS = 0;
  Index rows, width;
  const E *v, *first, *e;
  const float* v0;
  E* out;
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec*) const {
    Index at = row * width + c;
    vec share = sigmoid(m.read(v0 + c) + m.read(e + at)), own = m.read(v + at);
    m.write(out + at, own + (m.read(first + at) - own) * share);
  }
};

template <class E>
struct ValueResidualBackward {
  static constexpr int SUMS = 1;
  Index rows, width;
  const E *v, *first, *e;
  const float* v0;
  const E* grad;
  E *gv, *gfirst, *ge;
  float* gv0;
  WKV_HD float* total(int) const { return gv0; }
  template <class Lanes>
  WKV_HD void at(Index row, Index c, Lanes m, vec* sums) const {
    Index at = row * width + c;
    vec x = m.read(v0 + c) + m.read(e + at), share = sigmoid(x), rest = 1.f - share;
    vec from = m.read(grad + at);
    vec gsum = from * (m.read(first + at) - m.read(v + at)) * share * rest;
    m.write(gv + at, from * rest);
    m.write(gfirst + at, from * share);
    m.write(ge + at, gsum);
    sums[0] += gsum;
  }
};

// ENTRY(name, way over memory, formula)
#define POINTWISE_FORMULAS(ENTRY)                          \
  ENTRY(gate, Flat, Gate)                                  \
  ENTRY(gate_backward, Flat, GateBackward)                 \
  ENTRY(squared_relu, Flat, SquaredReLU)                   \
  ENTRY(squared_relu_backward, Flat, SquaredReLUBackward)  \
  ENTRY(swiglu, Channels, SwiGLU)                          \
  ENTRY(swiglu_backward, Channels, SwiGLUBackward)         \
  ENTRY(log_decay, Channels, LogDecay)                     \
  ENTRY(log_decay_backward, Channels, LogDecayBackward)    \
  ENTRY(value_residual, Channels, ValueResidual)           \
  ENTRY(value_residual_backward, Channels, ValueResidualBackward)
