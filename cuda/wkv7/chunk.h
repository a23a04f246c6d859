// WKV-7 in chunks: what the forward and the backward pass of the GPU have in common. The formulas
// are in docs/kernels.md.
//
// A block owns one head of one sequence for a segment of time and goes through it chunk by chunk.
// Its work on a chunk is a list of phases; all warps finish a phase before any begins the next.
// Rows of the state, one per value channel, do not act on each other, so each warp keeps 16 of them
// in registers as sums of the tensor core.
//
// Within a chunk, decays are taken relative to its start: A~ = a e^before, R~ = r e^here,
// B~ = b e^-here, K~ = k e^-here. That overflows once decays add up to 88, so a chunk in which they
// add up to more than RANGE is done in pieces in which they do not. RWKV-7 has at most 20 in a
// chunk.
#pragma once

#include "wkv7/warp_mma.h"

namespace wkv7 {

constexpr int N = 64;             // head size
constexpr int CHUNK = 32;         // tokens
constexpr int HALF = CHUNK / 2;   // rows of a tile
constexpr int STRIDE = N + 8;     // cells from row to row of a tile of channels: no bank conflicts
constexpr int WIDE = CHUNK + 8;   // the same for tiles of tokens
constexpr int NARROW = HALF + 8;  // the same for tiles of half of them
constexpr int ROW = HALF + 4;     // floats from row to row of the equations
constexpr int BLOCK = HALF * ROW + HALF;  // and from one half of them to the other
constexpr int SPREAD = N + 4;             // floats of a row that is spread
// Logarithms of decays are to base 2.
constexpr float LOG2E = 1.44269504f;
constexpr float RANGE = 88;   // 2^88 leaves room for sums of products in a float
constexpr float FLOOR = -88;  // of one token; so little of a state is as good as none of it

enum Scores { AB, AK, RB, RK };

// In shared memory, of a block of WARPS warps.
template <class Cell, int WARPS>
struct alignas(16) Chunk {
  Cell q[2 * CHUNK * STRIDE];  // A~, then R~
  Cell k[2 * CHUNK * STRIDE];  // B~, then K~
  // tril(A~ B~^T, -1), tril(A~ K~^T, -1), tril(R~ B~^T), tril(R~ K~^T)
  Cell scores[4][CHUNK * WIDE];
  Cell inverse[CHUNK * NARROW];  // the inverses of both diagonal blocks of 1 - tril(A~ B~^T, -1)
  float ab[2 * BLOCK];           // both diagonal blocks of tril(A~ B~^T, -1), transposed
  // Sums of log-decays, from the first row of a warp to before (row i) and after (row i + 1) each
  // of its rows, one more than it has rows. They and `bases` are spread.
  float steps[(CHUNK + WARPS) * SPREAD];
  float bases[WARPS][SPREAD];  // from the start of the piece to the first row of a warp
  float last[N];                    // the decay over the whole piece
  int tokens;                       // of the piece
};

// Where a block works: on one head of one sequence, in tensors [B, T, H, N].
struct Place {
  Index origin;      // of the first token
  int stride;        // from token to token
  Index checkpoint;  // of the first of the checkpoints [B, chunks, H, N, N]
  Index first, end;  // tokens of the segment
  Index T;

  WKV_WARP Index row(Index t) const { return origin + t * stride; }
  // Chunks start at multiples of CHUNK.
  WKV_WARP Index saved(Index t) const { return checkpoint + t / CHUNK * (Index(stride) * N); }
};

// Log-decays to base 2 and not below FLOOR; NaN stays NaN.
WKV_WARP Pair floored(Pair w) {
  w = w * LOG2E;
  return {w.x < FLOOR ? FLOOR : w.x, w.y < FLOOR ? FLOOR : w.y};
}

template <class E>
struct Inputs {
  const E *r, *k, *v, *a, *b;
  const float* w;
};

WKV_WARP int smaller(Index a, Index b) { return int(a < b ? a : b); }

// ---------------------------------------------------------------- phases

// A chunk's rows are shared by WARPS warps. Where a thread has eight channels of a row, eight
// threads have the row and the warp has four at a time.
template <int WARPS>
struct Rows {
  static constexpr int EACH = CHUNK / WARPS;
  template <class X>  // float or const float
  static WKV_WARP X* steps(X* all, int warp) {
    return all + warp * (EACH + 1) * SPREAD;
  }

  // f(i, row, its number in the warp, first channel) for the i-th row of each thread
  template <class F>
  static WKV_WARP void each(int warp, F f) {
    each_lane([&](int lane) {
      WKV_UNROLL
      for (int i = 0; i < EACH / 4; i++)
        f(i, warp * EACH + 4 * i + lane / 8, 4 * i + lane / 8, lane % 8 * 8);
    });
  }

  // What threads hold of some rows of a tensor; rows beyond the last are the last once more.
  template <class E>
  struct Held {
    Registers<Eight<E>, EACH / 4> eights;

    WKV_WARP Held(const Place& at, const E* from, Index t, int most, int warp) {
      const E* rows = from + at.row(t);
      each(warp, [&](int i, int row, int, int c) {
        eights[i] = load_eight(rows + (smaller(row, most - 1) * at.stride + c));
      });
    }
    template <class Cell>
    WKV_WARP void store(Cell* to, int warp, bool zero) const {
      each(warp, [&](int i, int row, int, int c) {
        Eight<Cell> out{};
        WKV_UNROLL
        for (int j = 0; j < 4; j++)
          if (!zero) out.set(j, eights[i].get(j));
        store_eight(to + row * STRIDE + c, out);
      });
    }
  };
};

// Reads the log-decays of `most` tokens from t on and adds them up.
template <int WARPS, class Cell>
WKV_WARP void add_up(Chunk<Cell, WARPS>& sh, const Place& at, const float* w, Index t, int most,
                     int warp) {
  constexpr int EACH = Rows<WARPS>::EACH;
  each_lane([&](int lane) {
    int c = 2 * lane;
    const float* from = w + at.row(t) + c;
    Pair step[EACH], sum{};
    WKV_UNROLL
    for (int i = 0; i < EACH; i++)
      step[i] = load_pair(from + smaller(warp * EACH + i, most - 1) * at.stride);
    float* to = Rows<WARPS>::steps(sh.steps, warp) + spread(c);
    store_pair(to, sum);
    WKV_UNROLL
    for (int i = 0; i < EACH; i++) {
      Pair next = sum + floored(step[i]);
      if (warp * EACH + i < most) sum = next;
      store_pair(to + (i + 1) * SPREAD, sum);
    }
  });
}

// Tokens of the piece that starts at t: up to `most`, as long as decays are within RANGE. After
// add_up; the same in every warp. On the way, the warp's row of `bases`.
template <int WARPS, class Cell>
WKV_WARP int fitting(Chunk<Cell, WARPS>& sh, const Place& at, const float* w, Index t, int most,
                     int warp) {
  constexpr int EACH = Rows<WARPS>::EACH;
  int fit;
  each_lane([&](int lane) {
    Pair sum{};
    WKV_UNROLL
    for (int i = 0; i < WARPS; i++) {
      if (i == warp) store_pair(sh.bases[warp] + spread(2 * lane), sum);
      sum += pair_at(Rows<WARPS>::steps(sh.steps, i) + EACH * SPREAD + spread(2 * lane));
    }
    fit = fabsf(sum.x) <= RANGE && fabsf(sum.y) <= RANGE ? most : 0;
  });
  __syncwarp();
  if (least(fit) == most) return most;
  each_lane([&](int lane) {
    const float* from = w + at.row(t) + 2 * lane;
    Pair sum{};
    int count = 0;
    WKV_ROLLED
    for (; count < most; count++) {
      sum += floored(load_pair(from + count * at.stride));
      if (!(fabsf(sum.x) <= RANGE && fabsf(sum.y) <= RANGE)) break;
    }
    fit = count > 1 ? count : 1;
  });
  return least(fit);
}

// The factors of eight channels of a row: the decay to before and to after it, and one over the
// latter.
template <class Math, int WARPS>
struct Factors {
  Eight<float> base, before, here;

  template <class Cell>
  WKV_WARP Factors(const Chunk<Cell, WARPS>& sh, int warp, int row, int c) {
    const float* steps = Rows<WARPS>::steps(sh.steps, warp) + row * SPREAD;
    base = spread_at(sh.bases[warp], c);
    before = spread_at(steps, c);
    here = spread_at(steps + SPREAD, c);
  }
  WKV_WARP Pair to_before(int i) const { return exp2_<Math>(base.get(i) + before.get(i)); }
  WKV_WARP Pair to_here(int i) const { return exp2_<Math>(base.get(i) + here.get(i)); }
  WKV_WARP Pair grown(int i) const { return exp2_<Math>(-(base.get(i) + here.get(i))); }
};

// The piece from t on, scaled, to shared memory; rows beyond are zero.
template <class Math, int WARPS, class E>
WKV_WARP void scale(Chunk<typename Math::Cell, WARPS>& sh, const Place& at, const Inputs<E>& in,
                    Index t, int most, int warp) {
  using Cell = typename Math::Cell;
  using Held = typename Rows<WARPS>::template Held<E>;
  Held a{at, in.a, t, most, warp}, r{at, in.r, t, most, warp};
  Held b{at, in.b, t, most, warp}, k{at, in.k, t, most, warp};
  int n = fitting<WARPS>(sh, at, in.w, t, most, warp);
  Rows<WARPS>::each(warp, [&](int slot, int row, int own, int c) {
    Factors<Math, WARPS> x(sh, warp, own, c);
    Eight<Cell> a_, r_, b_, k_;
    WKV_UNROLL
    for (int i = 0; i < 4; i++) {
      Pair here = x.to_here(i), grown = x.grown(i);
      a_.set(i, a.eights[slot].get(i) * x.to_before(i));
      r_.set(i, r.eights[slot].get(i) * here);
      b_.set(i, b.eights[slot].get(i) * grown);
      k_.set(i, k.eights[slot].get(i) * grown);
      if (row == n - 1) store_pair(sh.last + c + 2 * i, here);
    }
    if (row >= n) a_ = r_ = b_ = k_ = Eight<Cell>{};
    int cell = row * STRIDE + c;
    store_eight(sh.q + cell, a_);
    store_eight(sh.q + CHUNK * STRIDE + cell, r_);
    store_eight(sh.k + cell, b_);
    store_eight(sh.k + CHUNK * STRIDE + cell, k_);
  });
  each_lane([&](int lane) {
    if (warp == 0 && lane == 0) sh.tokens = n;
  });
}

// Ask for the rows of a chunk from t on, to be in the cache when their turn comes.
template <class X>
WKV_WARP void announce_rows(const Place& at, const X* from, Index t) {
  constexpr int SECTOR = 32 / sizeof(X), COUNT = N / SECTOR;  // of the cache; of a row
  each_lane([&](int lane) {
    const X* rows = from + at.row(t) + lane % COUNT * SECTOR;
    WKV_UNROLL
    for (int row = lane / COUNT; row < CHUNK; row += LANES / COUNT)
      gpu::prefetch(rows + row * at.stride);
  });
}
// Of all inputs and of one more, unless null, if there is a whole chunk. Four warps.
template <class E>
WKV_WARP void announce(const Place& at, const Inputs<E>& in, const E* also, Index t, int warp) {
  if (t < at.first || t + CHUNK > at.end) return;
  if (warp == 0) announce_rows(at, in.r, t), announce_rows(at, in.k, t);
  if (warp == 1) announce_rows(at, in.v, t), announce_rows(at, in.a, t);
  if (warp == 2) announce_rows(at, in.b, t);
  if (warp == 2 && also) announce_rows(at, also, t);
  if (warp == 3) announce_rows(at, in.w, t);
  __syncwarp();
}
// Of a state.
WKV_WARP void announce_state(const float* state) {
  each_lane([&](int lane) {
    for (int i = 8 * lane; i < N * N; i += 8 * LANES) gpu::prefetch(state + i);
  });
}

}  // namespace wkv7
