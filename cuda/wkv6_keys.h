// The gradients of r, k, w and u on the GPU: one block for one chunk of one head, given the state
// before the chunk and the adjoint after it. Host-and-device code, as wkv6_scan.h.
#pragma once

#include "wkv6_scan.h"

namespace wkv6 {

template <int N, class E>
struct KeyGradients {
  static constexpr int ROWS = CHUNK / PARTS;  // tokens of a thread in the matrix products
  static constexpr int KEYS = 4;              // and keys, N / 4 apart
  static constexpr int TILE = 16;             // values of the state and adjoint at a time
  static constexpr int WIDE = N + 4, NARROW = TILE + 4;  // rows that start in different banks

  struct Shared {
    alignas(16) float grad_y[CHUNK][WIDE], v[CHUNK][WIDE], tile[N][NARROW];
    float table[CHUNK][CHUNK];
  };
  struct Registers {
    float past[ROWS][KEYS], future[ROWS][KEYS];
    float through[TILE / 4];
  };

  Shape<N> shape;
  const E *r, *k, *v, *grad_y;
  const float *w, *u, *states, *adjoints;
  E *gr, *gk;
  float *gw, *gu;  // gu, and gw of a constant decay, for every sequence and chunk: [B, chunks, H, N]

  // A thread's key as `gradients` of wkv6_math.h wants it. The sums over r and k take the place of
  // what the products left in shared memory.
  struct Key {
    Shared& shared;
    int thread;
    const float *r_, *k_, *d_;
    float* gw;

    WKV_HD float r(int t) const { return r_[t]; }
    WKV_HD float k(int t) const { return k_[t]; }
    WKV_HD float d(int t) const { return d_[t]; }
    WKV_HD float table(int t, int s) const { return shared.table[t][s]; }
    WKV_HD void add_r(int t, float x) { shared.grad_y[t][thread] += x; }
    WKV_HD void add_k(int t, float x) { shared.v[t][thread] += x; }
    WKV_HD void add_w(int t, float x) { gw[t] += x; }
  };
};

}  // namespace wkv6
