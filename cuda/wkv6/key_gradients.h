// The gradients of r, k, w and u on the GPU: one block for one chunk of one head, given the state
// before the chunk and the adjoint after it. For wkv6/kernels.h.
#pragma once

#include "wkv6/scan.h"

namespace wkv6 {

// Calls body(E*) with the element type of that number. A type at run time: what is long here does not
// depend on it, and would take three times as long to compile.
template <class Body>
WKV_HD void with_type(Index type, Body body) {
  if (type == 0)
    body(static_cast<float*>(nullptr));
  else if (type == 1)
    body(static_cast<bf16*>(nullptr));
  else
    body(static_cast<fp16*>(nullptr));
}

template <class E>
WKV_HD const E* read_as(E*, const void* p) {
  return static_cast<const E*>(p);
}

template <int N>
struct KeyGradients {
  // In the matrix products a thread has TOKENS neighbouring tokens and KEYS keys, N / KEYS apart; they
  // go through TILE columns of the state or the adjoint at a time.
  static constexpr int KEYS = 4, TOKENS = CHUNK / 4, TILE = 16;
  static constexpr int WIDE = N + 4, NARROW = TILE + 4;  // rows that start in different banks

  struct Shared {
    alignas(16) float grad_y[CHUNK][WIDE], v[CHUNK][WIDE], tile[N][NARROW];
    float table[CHUNK][CHUNK];
  };
  struct Registers {
    float past[TOKENS][KEYS], future[TOKENS][KEYS], through[4];
  };

  // One key channel as `gradients` of wkv6/math.h wants it. What the products left in shared memory
  // becomes the gradients of r and k in place.
  struct Key {
    Shared& shared;
    int thread;
    float r_[CHUNK], k_[CHUNK], d_[CHUNK], gw_[CHUNK];

    WKV_HD float r(int t) const { return r_[t]; }
    WKV_HD float k(int t) const { return k_[t]; }
    WKV_HD float d(int t) const { return d_[t]; }
    WKV_HD float table(int t, int s) const { return shared.table[t][s]; }
    WKV_HD float& gr(int t) { return shared.grad_y[t][thread]; }
    WKV_HD float& gk(int t) { return shared.v[t][thread]; }
    WKV_HD float& gw(int t) { return gw_[t]; }
  };

  Shape<N> shape;
  Index type;  // of the elements of r, k, v and of the gradients of y, r and k: see with_type
  const void *r, *k, *v, *grad_y;
  const float *w, *u, *states, *adjoints;  // the last two [heads, chunks, N, N]
  void *gr, *gk;
  float *gw, *gu;  // gu, and gw of a constant decay, of every sequence and chunk: [B, chunks, H, N]

  WKV_HD void load(Shared& shared, Registers& own, int thread, Index at, int n) const {
    own = Registers{};
    with_type(type, [&](auto* element) {
      auto *y_ = read_as(element, grad_y), *v_ = read_as(element, v);
      WKV_UNROLL for (int t = 0; t < CHUNK; t++) {
        Index i = at + t * shape.row() + thread;
        shared.grad_y[t][thread] = t < n ? to_float(y_[i]) : 0.f;
        shared.v[t][thread] = t < n ? to_float(v_[i]) : 0.f;
      }
    });
  }

  // Columns [from, from + TILE) of a matrix; neighbouring threads read neighbouring quads of a row.
  static WKV_HD void load_tile(Shared& shared, int thread, const float* matrix, int from) {
    WKV_UNROLL for (int i = 0; i < TILE / 4; i++) {
      int quad = i * N + thread, row = quad / (TILE / 4), c = quad % (TILE / 4) * 4;
      store_quad(&shared.tile[row][c], load_quad(matrix + row * N + from + c));
    }
  }

  // The same quads of both matrices multiplied, for their row sums.
  static WKV_HD void add_through(Registers& own, int thread, const float* state,
                                 const float* adjoint, int from) {
    WKV_UNROLL for (int i = 0; i < TILE / 4; i++) {
      int quad = i * N + thread, at = quad / (TILE / 4) * N + from + quad % (TILE / 4) * 4;
      Quad s = load_quad(state + at), g = load_quad(adjoint + at);
      WKV_UNROLL for (int j = 0; j < 4; j++) own.through[i] += s.x[j] * g.x[j];
    }
  }

  // sums[t, key] += rows[t] . tile[key], over the columns of the tile.
  static WKV_HD void multiply(const Shared& shared, const float (*rows)[WIDE], int thread, int from,
                              float (*sums)[KEYS]) {
    int first = thread / (N / KEYS) * TOKENS, key = thread % (N / KEYS);
    WKV_UNROLL for (int c = 0; c < TILE; c += 4) {
      Quad x[KEYS];
      WKV_UNROLL for (int i = 0; i < KEYS; i++)
        x[i] = load_quad(&shared.tile[key + i * (N / KEYS)][c]);
      WKV_UNROLL for (int t = 0; t < TOKENS; t++) {
        Quad y = load_quad(&rows[first + t][from + c]);
        WKV_UNROLL for (int i = 0; i < KEYS; i++)
          WKV_UNROLL for (int j = 0; j < 4; j++) sums[t][i] += x[i].x[j] * y.x[j];
      }
    }
  }

  // table[t][s] = grad_y_t . v_s: each thread one s, and every N / CHUNK-th t.
  static WKV_HD void fill_table(Shared& shared, int thread) {
    constexpr int STEP = N / CHUNK, COUNT = CHUNK / STEP;
    int s = thread % CHUNK, first = thread / CHUNK;
    float sums[COUNT] = {};
    for (int c = 0; c < N; c += 4) {
      Quad x = load_quad(&shared.v[s][c]);
      WKV_UNROLL for (int i = 0; i < COUNT; i++) {
        Quad y = load_quad(&shared.grad_y[first + i * STEP][c]);
        WKV_UNROLL for (int j = 0; j < 4; j++) sums[i] += x.x[j] * y.x[j];
      }
    }
    WKV_UNROLL for (int i = 0; i < COUNT; i++) shared.table[first + i * STEP][s] = sums[i];
  }

  // The products take the place of what they were made of, and of the tile.
  static WKV_HD void hand_over(Shared& shared, const Registers& own, int thread) {
    int first = thread / (N / KEYS) * TOKENS, key = thread % (N / KEYS);
    WKV_UNROLL for (int t = 0; t < TOKENS; t++)
      WKV_UNROLL for (int i = 0; i < KEYS; i++) {
        shared.grad_y[first + t][key + i * (N / KEYS)] = own.past[t][i];
        shared.v[first + t][key + i * (N / KEYS)] = own.future[t][i];
      }
    WKV_UNROLL for (int i = 0; i < TILE / 4; i++) {
      int quad = i * N + thread;
      shared.tile[quad / (TILE / 4)][quad % (TILE / 4)] = own.through[i];
    }
  }

  WKV_HD void differentiate(Shared& shared, int thread, Index head, Index chunk, int n) const {
    Index at = shape.at(head, chunk * CHUNK) + thread, row = shape.row();
    Index decay_at = shape.decay_at(head, chunk * CHUNK) + thread;
    Key key{shared, thread, {}, {}, {}, {}};
    with_type(type, [&](auto* element) {
      auto *r_ = read_as(element, r), *k_ = read_as(element, k);
      WKV_UNROLL for (int t = 0; t < CHUNK; t++) {
        key.r_[t] = t < n ? to_float(r_[at + t * row]) : 0.f;
        key.k_[t] = t < n ? to_float(k_[at + t * row]) : 0.f;
      }
    });
    WKV_UNROLL for (int t = 0; t < CHUNK; t++)
      key.d_[t] = t < n ? decay(w[shape.constant ? decay_at : decay_at + t * row]).factor : 1.f;
    float through = 0, sum = 0;
    WKV_UNROLL for (int i = 0; i < TILE / 4; i++) through += shared.tile[thread][i];
    float grad_u = gradients(key, u[head % shape.H * N + thread], through);
    with_type(type, [&](auto* element) {
      auto *gr_ = static_cast<decltype(element)>(gr), *gk_ = static_cast<decltype(element)>(gk);
      for (int t = 0; t < n; t++) {
        from_float(key.gr(t), gr_[at + t * row]);
        from_float(key.gk(t), gk_[at + t * row]);
      }
    });
    WKV_UNROLL for (int t = 0; t < CHUNK; t++)
      if (t < n) {
        if (shape.constant)
          sum += key.gw(t);
        else
          gw[at + t * row] = key.gw(t);
      }
    Index part = ((head / shape.H * shape.chunks() + chunk) * shape.H + head % shape.H) * N + thread;
    gu[part] = grad_u;
    if (shape.constant) gw[part] = sum;
  }

  template <class Block>
  WKV_HD void run(Block& block, Shared& shared, Index head, Index chunk) const {
    Index t = chunk * CHUNK, matrix = (head * shape.chunks() + chunk) * N * N;
    int n = int(shape.T - t < CHUNK ? shape.T - t : CHUNK);
    const float *state = states + matrix, *adjoint = adjoints + matrix;
    block.each([&](int thread, Registers& own) {
      load(shared, own, thread, shape.at(head, t), n);
    });
    for (int from = 0; from < N; from += TILE) {
      block.each([&](int thread, Registers& own) {
        load_tile(shared, thread, state, from);
        add_through(own, thread, state, adjoint, from);
      });
      block.each([&](int thread, Registers& own) {
        multiply(shared, shared.grad_y, thread, from, own.past);
      });
      block.each([&](int thread, Registers&) { load_tile(shared, thread, adjoint, from); });
      block.each([&](int thread, Registers& own) {
        multiply(shared, shared.v, thread, from, own.future);
      });
    }
    block.each([&](int thread, Registers&) { fill_table(shared, thread); });
    block.each([&](int thread, Registers& own) { hand_over(shared, own, thread); });
    block.each([&](int thread, Registers&) { differentiate(shared, thread, head, chunk, n); });
  }
};

}  // namespace wkv6
