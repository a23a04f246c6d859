// WKV-5 and WKV-6 on the GPU: what one block does with one time segment of one head, as phases
// between its barriers. wkv6/kernels.h makes kernels of it. A Block has each(f), which calls
// f(thread, its registers) and ends with a barrier.
#pragma once

#include "gpu/scalar.h"
#include "wkv6/math.h"

namespace wkv6 {

using Index = long long;

constexpr int PARTS = 4;  // threads that share a column of the state, each with its part of the keys

// Where things lie; heads are numbered b H + h.
template <int N>
struct Shape {
  Index T, H, constant;  // constant: the decay is [H, N]
  WKV_HD Index chunks() const { return (T + CHUNK - 1) / CHUNK; }
  WKV_HD Index row() const { return H * N; }
  WKV_HD Index at(Index head, Index t) const { return ((head / H * T + t) * H + head % H) * N; }
  WKV_HD Index decay_at(Index head, Index t) const {
    return constant ? head % H * N : at(head, t);
  }
};

// How time is cut. Segments and chunks are numbered as they are met, which is from right to left when
// the adjoint is carried.
struct Cut {
  Index segments, span;  // span: chunks of a segment
};

// The recurrence in one direction. Forward it reads y from z = r, p = k, q = v; backward it reads the
// gradient of v from z = k, p = r and q = the gradient of y.
template <int N, class E>
struct Pass {
  static constexpr int STAGE = 1024 / N;       // tokens in shared memory at a time
  static constexpr int SHARE = N / STAGE;      // threads that share a token's bonus
  static constexpr int KEYS = N / PARTS;       // of a thread
  static_assert(CHUNK % STAGE == 0 && N % STAGE == 0, "no rest in the loops below");

  struct Shared {
    alignas(16) float z[STAGE][N], d[STAGE][N], p[STAGE][N], q[STAGE][N], sums[PARTS][STAGE][N];
    float u[N], rest[N], bonus[STAGE][SHARE];
  };
  struct Registers {
    float s[KEYS][4];  // the state: KEYS keys, four values
    float log;         // sum of one key's log-decays
  };

  Shape<N> shape;
  bool back;
  const E *z, *p, *q;
  const float *w, *u;
  E* out;

  static WKV_HD int key(int thread) { return thread / (N / 4) * KEYS; }
  static WKV_HD int value(int thread) { return thread % (N / 4) * 4; }

  // The part of a state [N, N] that a thread holds.
  static WKV_HD void get(Registers& own, int thread, const float* state) {
    WKV_UNROLL for (int i = 0; i < KEYS; i++) {
      Quad x = load_quad(state + (key(thread) + i) * N + value(thread));
      WKV_UNROLL for (int j = 0; j < 4; j++) own.s[i][j] = x.x[j];
    }
  }
  static WKV_HD void put(const Registers& own, int thread, float* state) {
    WKV_UNROLL for (int i = 0; i < KEYS; i++) {
      Quad x;
      WKV_UNROLL for (int j = 0; j < 4; j++) x.x[j] = own.s[i][j];
      store_quad(state + (key(thread) + i) * N + value(thread), x);
    }
  }

  // n tokens from t on to shared memory, each thread one channel.
  WKV_HD void stage(Shared& shared, Registers& own, int thread, Index head, Index t, int n) const {
    Index at = shape.at(head, t) + thread, row = shape.row();
    Index decay_at = shape.decay_at(head, t) + thread, decay_row = shape.constant ? 0 : row;
    float rest = 0, log = 0;
    WKV_UNROLL for (int i = 0; i < STAGE; i++)
      if (i < n) {
        float x = w[decay_at + i * decay_row];
        Decay<float> d = decay(x);
        shared.z[i][thread] = to_float(z[at + i * row]);
        shared.p[i][thread] = to_float(p[at + i * row]);
        shared.q[i][thread] = to_float(q[at + i * row]);
        shared.d[i][thread] = d.factor;
        rest += d.rest;
        log += x;
      }
    shared.rest[thread] = rest;
    own.log += log;
  }

  // A thread's share of one token's sum of z u p. The keys are taken in an order of its own, so that
  // the threads of a warp do not all want the same bank.
  WKV_HD void bonus(Shared& shared, int thread, int n) const {
    int i = thread / SHARE, share = thread % SHARE;
    if (i >= n) return;
    float sum = 0;
    for (int j = 0; j < STAGE; j++) {
      int c = share * STAGE + (i + j) % STAGE;
      sum += shared.z[i][c] * shared.u[c] * shared.p[i][c];
    }
    shared.bonus[i][share] = sum;
  }

  template <bool OUTPUT>
  WKV_HD void step(Shared& shared, Registers& own, int thread, int n) const {
    for (int done = 0; done < n; done++) {
      int i = back ? n - 1 - done : done;
      Quad now = load_quad(&shared.q[i][value(thread)]), sum{};
      WKV_UNROLL for (int k = 0; k < KEYS; k += 4) {
        Quad d = load_quad(&shared.d[i][key(thread) + k]);
        Quad p = load_quad(&shared.p[i][key(thread) + k]), z{};
        if (OUTPUT) z = load_quad(&shared.z[i][key(thread) + k]);
        WKV_UNROLL for (int a = 0; a < 4; a++)
          WKV_UNROLL for (int j = 0; j < 4; j++) {
            float& s = own.s[k + a][j];
            if (OUTPUT) sum.x[j] += z.x[a] * s;
            s = d.x[a] * s + p.x[a] * now.x[j];
          }
      }
      if (OUTPUT) store_quad(&shared.sums[thread / (N / 4)][i][value(thread)], sum);
    }
    WKV_UNROLL for (int k = 0; k < KEYS; k++)
      WKV_UNROLL for (int j = 0; j < 4; j++)
        own.s[k][j] += own.s[k][j] * shared.rest[key(thread) + k];
  }

  WKV_HD void write(Shared& shared, int thread, Index head, Index t, int n) const {
    Index at = shape.at(head, t) + thread;
    for (int i = 0; i < n; i++) {
      float sum = 0;
      WKV_UNROLL for (int j = 0; j < SHARE; j++) sum += shared.bonus[i][j];
      sum *= shared.q[i][thread];
      WKV_UNROLL for (int j = 0; j < PARTS; j++) sum += shared.sums[j][i][thread];
      from_float(sum, out[at + i * shape.row()]);
    }
  }

  // One segment. `checkpoints` [chunks, N, N] of this head, or null, get the state that each chunk
  // starts from (or the adjoint it ends with).
  template <bool OUTPUT, class Block>
  WKV_HD void walk(Block& block, Shared& shared, Index head, Index segment, Cut cut,
                   float* checkpoints) const {
    block.each([&](int thread, Registers&) {
      shared.u[thread] = u[head % shape.H * N + thread];
    });
    Index end = (segment + 1) * cut.span;
    for (Index met = segment * cut.span; met < end && met < shape.chunks(); met++) {
      Index chunk = back ? shape.chunks() - 1 - met : met;
      if (checkpoints)
        block.each([&](int thread, Registers& own) {
          put(own, thread, checkpoints + chunk * N * N);
        });
      for (int part = 0; part < CHUNK / STAGE; part++) {
        Index t = chunk * CHUNK + (back ? CHUNK / STAGE - 1 - part : part) * STAGE;
        if (t >= shape.T) continue;
        int n = int(shape.T - t < STAGE ? shape.T - t : STAGE);
        block.each([&](int thread, Registers& own) { stage(shared, own, thread, head, t, n); });
        block.each([&](int thread, Registers& own) {
          if (OUTPUT) bonus(shared, thread, n);
          step<OUTPUT>(shared, own, thread, n);
        });
        if (OUTPUT) block.each([&](int thread, Registers&) { write(shared, thread, head, t, n); });
      }
    }
  }

  // What a segment adds, from a state of zeros, and its log-decays: the last one met is not asked.
  template <class Block>
  WKV_HD void summarise(Block& block, Shared& shared, Index head, Index segment, Cut cut,
                        float* sums, float* logs) const {
    block.each([&](int, Registers& own) { own = Registers{}; });
    walk<false>(block, shared, head, segment, cut, nullptr);
    Index at = head * cut.segments + segment;
    block.each([&](int thread, Registers& own) {
      put(own, thread, sums + at * N * N);
      logs[at * N + thread] = own.log;
    });
  }

  // The outputs of a segment from `start`, [heads, segments, N, N], and `result` from the last one.
  template <class Block>
  WKV_HD void apply(Block& block, Shared& shared, Index head, Index segment, Cut cut,
                    const float* start, float* result, float* checkpoints) const {
    block.each([&](int thread, Registers& own) {
      own.log = 0;
      get(own, thread, start + (head * cut.segments + segment) * N * N);
    });
    walk<true>(block, shared, head, segment, cut,
               checkpoints ? checkpoints + head * shape.chunks() * N * N : nullptr);
    block.each([&](int thread, Registers& own) {
      if (segment + 1 == cut.segments) put(own, thread, result + head * N * N);
    });
  }
};

// One element of a head's state, carried over the segments: `sums` [heads, segments, N, N], which held
// what each segment adds, then holds what comes before each.
template <int N>
WKV_HD void carry(Index element, Cut cut, const float* given, float* sums, const float* logs) {
  Index head = element / (N * N), key = element % (N * N) / N;
  float carried = given[element];
  for (Index segment = 0; segment < cut.segments; segment++) {
    Index at = head * cut.segments + segment;
    float* sum = sums + at * N * N + element % (N * N);
    float added = *sum;
    *sum = carried;
    carried = carried * expf(logs[at * N + key]) + added;
  }
}

}  // namespace wkv6
