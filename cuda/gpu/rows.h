// How the formulas of `elementwise/` walk over memory on a GPU. A thread has one vector of eight
// channels and goes down a span of rows, so that sums over rows stay in its registers; what it has
// added up is a row of `partial`, and `elementwise_sums` adds those up, in a fixed order.
#pragma once

#include "common/elements.h"

using Index = long long;

constexpr int LANES = 8, WARP = 32, MOST_WARPS = 32;

struct alignas(16) vec {
  float x[LANES];
};

#define EACH_LANE _Pragma("unroll") for (int i = 0; i < LANES; i++)
#define VEC_OPERATOR(op)                            \
  WKV_HD vec operator op(const vec& a, const vec& b) { \
    vec r;                                          \
    EACH_LANE r.x[i] = a.x[i] op b.x[i];            \
    return r;                                       \
  }                                                 \
  WKV_HD vec operator op(const vec& a, float b) {   \
    vec r;                                          \
    EACH_LANE r.x[i] = a.x[i] op b;                 \
    return r;                                       \
  }                                                 \
  WKV_HD vec operator op(float a, const vec& b) {   \
    vec r;                                          \
    EACH_LANE r.x[i] = a op b.x[i];                 \
    return r;                                       \
  }
VEC_OPERATOR(+)
VEC_OPERATOR(-)
VEC_OPERATOR(*)
VEC_OPERATOR(/)
#undef VEC_OPERATOR

WKV_HD vec operator-(const vec& a) { return 0.f - a; }
WKV_HD vec& operator+=(vec& a, const vec& b) { return a = a + b; }
// A NaN in the second argument stays.
WKV_HD vec max_(const vec& a, const vec& b) {
  vec r;
  EACH_LANE r.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i];
  return r;
}
WKV_HD vec min_(const vec& a, const vec& b) {
  vec r;
  EACH_LANE r.x[i] = a.x[i] < b.x[i] ? a.x[i] : b.x[i];
  return r;
}
WKV_HD vec exp_(const vec& a) {
  vec r;
  EACH_LANE r.x[i] = expf(a.x[i]);
  return r;
}
WKV_HD vec sigmoid(const vec& x) { return 1.f / (1.f + exp_(min_(vec{} + 88.f, 0.f - x))); }
// What is left of x when it is kept as an S.
template <class S>
WKV_HD vec rounded(const vec& a) {
  vec r;
  EACH_LANE {
    S kept;
    from_float(a.x[i], kept);
    r.x[i] = to_float(kept);
  }
  return r;
}

// ---------------------------------------------------------------- a vector in memory

// Eight elements as they lie there, moved 16 bytes at a time.
template <class E>
union Eight {
  E x[LANES];
  uint4 quads[sizeof(E) / 2];
};

// The first `count` channels of a vector, which read as 0 and are not written beyond. WIDE: it is
// eight, aligned, or none.
template <bool WIDE>
struct Lanes {
  int count;
  template <class E>
  WKV_HD vec read(const E* p) const {
    vec r{};
    if constexpr (WIDE) {
      Eight<E> all;
      if (!count) return r;
      for (unsigned q = 0; q < sizeof(E) / 2; q++)
        all.quads[q] = reinterpret_cast<const uint4*>(p)[q];
      EACH_LANE r.x[i] = to_float(all.x[i]);
    } else {
      EACH_LANE if (i < count) r.x[i] = to_float(p[i]);
    }
    return r;
  }
  template <class E>
  WKV_HD void write(E* p, const vec& value) const {
    if constexpr (WIDE) {
      Eight<E> all;
      EACH_LANE from_float(value.x[i], all.x[i]);
      if (count)
        for (unsigned q = 0; q < sizeof(E) / 2; q++)
          gpu::store_four(reinterpret_cast<uint4*>(p) + q, all.quads[q]);
    } else {
      EACH_LANE if (i < count) from_float(value.x[i], p[i]);
    }
  }
  WKV_HD vec only(const vec& value) const {
    vec r;
    EACH_LANE r.x[i] = i < count ? value.x[i] : 0.f;
    return r;
  }
  WKV_HD void prefetch(const void*) const {}
};

WKV_HD int lanes_at(Index c, Index width) {
  return c < width ? int(width - c < LANES ? width - c : LANES) : 0;
}

// ---------------------------------------------------------------- the ways over memory

// How a launch goes over rows: models/ops/elementwise/cuda.py plans it.
struct Plan {
  Index wide;     // whether vectors are whole and aligned
  Index span;     // rows of a thread
  Index lanes;    // threads that share a sum
  Index columns;  // teams of a block side by side; the others are below them
  Index sums;     // per channel, at most those of the formula
  float* partial;
};

template <int SUMS>
struct Sums {
  vec x[SUMS > 0 ? SUMS : 1];
};

template <int SUMS>
WKV_HD void keep_sums(const Plan& plan, const Sums<SUMS>& sums, Index row, Index width, Index c,
                      int count) {
  if constexpr (SUMS > 0)
    for (int q = 0; q < SUMS; q++)
      EACH_LANE if (q < plan.sums && i < count)
        plan.partial[(row * plan.sums + q) * width + c + i] = sums.x[q].x[i];
}

struct Flat {
  template <bool WIDE, class Formula>
  static WKV_HD void run(const Formula& f, const Plan&) {
    Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * LANES;
    f.at(i, Lanes<WIDE>{lanes_at(i, f.n)});
  }
};

struct Channels {
  template <bool WIDE, class Formula>
  static WKV_HD void run(const Formula& f, const Plan& plan) {
    Index c = (Index(blockIdx.y) * blockDim.x + threadIdx.x) * LANES;
    Index from = blockIdx.x * plan.span, end = from + plan.span;
    Lanes<WIDE> m{lanes_at(c, f.width)};
    Sums<Formula::SUMS> sums{};
    if (!m.count) return;
    for (Index row = from; row < end && row < f.rows; row++) f.at(row, c, m, sums.x);
    keep_sums(plan, sums, blockIdx.x, f.width, c, m.count);
  }
};

// Where the warps of a block tell each other their sums: of every second one here, of the others there,
// so that one barrier is enough.
struct Board {
  float sums[2][MOST_WARPS];
};

// Those who share a sum over a head, or over a whole row: lanes of a warp, or all warps of a block.
template <bool WIDE>
struct Team {
  Index c;
  Lanes<WIDE> m;
  vec* sums;
  int lanes;
  Board* board;  // null: no team is larger than a warp
  int turn = 0;
  template <class Body>
  WKV_HD void each(Body body) {
    body(c, m, sums);
  }
  WKV_HD float sum(const vec& value) {
    float all = 0;
    EACH_LANE all += value.x[i];
    for (int bits = (lanes < WARP ? lanes : WARP) / 2; bits; bits /= 2)
      all += __shfl_xor_sync(0xffffffffu, all, bits);
    if (board && lanes > WARP) {
      float* told = board->sums[turn];
      if (threadIdx.x % WARP == 0) told[threadIdx.x / WARP] = all;
      __syncthreads();
      all = 0;
      for (int i = 0; i < lanes / WARP; i++) all += told[i];
      turn = 1 - turn;
    }
    return all;
  }
};

struct Heads {
  template <bool WIDE, class Formula>
  static WKV_HD void run(const Formula& f, const Plan& plan, Board* board = nullptr) {
    int lanes = int(plan.lanes), team = threadIdx.x / lanes, lane = threadIdx.x % lanes;
    int columns = int(plan.columns), below = int(blockDim.x) / (lanes * columns);
    Index head = Index(blockIdx.y) * columns + team % columns, c = lane * LANES;
    Index first = blockIdx.x * plan.span * below + team / columns;
    int count = head < f.count ? lanes_at(c, f.size) : 0;
    Sums<Formula::SUMS> sums{};
    Team<WIDE> at{c, {0}, sums.x, lanes, board};
    for (Index i = 0; i < plan.span; i++) {  // all of them, since lanes wait for each other
      Index row = first + i * below;
      at.m.count = row < f.rows ? count : 0;
      f.of(at, row, head);
    }
    keep_sums(plan, sums, Index(blockIdx.x) * below + team / columns, f.count * f.size,
              head * f.size + c, count);
  }
};

struct Rows {
  template <bool WIDE, class Formula>
  static WKV_HD void run(const Formula& f, const Plan& plan) {
    GPU_SHARED(Board, board);
    Heads::run<WIDE>(f, plan, &board);
  }
};

struct Tokens {
  template <bool WIDE, class Formula>
  static WKV_HD void run(const Formula& f, const Plan& plan) {
    Index c = (Index(blockIdx.y) * blockDim.x + threadIdx.x) * LANES;
    Index walks = (f.T + plan.span - 1) / plan.span;
    Index b = blockIdx.x / walks, t = blockIdx.x % walks * plan.span;
    Lanes<WIDE> m{lanes_at(c, f.C)};
    Sums<Formula::SUMS> sums{};
    if (!m.count) return;
    Index rows = f.T - t < plan.span ? f.T - t : plan.span;
    f.template walk<Formula::MOST>(b, t, rows, c, m, sums.x);
    keep_sums(plan, sums, blockIdx.x, f.C, c, m.count);
  }
};
