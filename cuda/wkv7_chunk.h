// WKV-7 in chunks: what the forward and the backward pass of the GPU have in common. The formulas are
// in docs/wkv.md.
//
// A block owns one head of one sequence for a segment of time and goes through it chunk by chunk. Its
// work on a chunk is a list of phases; all warps finish a phase before any begins the next. Rows of
// the state, one per value channel, do not act on each other, so each warp keeps 16 of them in
// registers as sums of the tensor core.
//
// Within a chunk, decays are taken relative to its start: A~ = a e^before, R~ = r e^here,
// B~ = b e^-here, K~ = k e^-here. That overflows once decays add up to 88, so a chunk in which they
// add up to more than RANGE is done in pieces in which they do not. RWKV-7 has at most 20 in a chunk.
#pragma once

#include "wkv7_warp.h"

namespace wkv7 {

constexpr int N = 64;              // head size
constexpr int CHUNK = 32;          // tokens
constexpr int HALF = CHUNK / 2;    // rows of a tile
constexpr int STRIDE = N + 8;      // cells from row to row of a tile of channels: no bank conflicts
constexpr int WIDE = CHUNK + 8;    // the same for tiles of tokens
constexpr int NARROW = HALF + 8;   // the same for tiles of half of them
constexpr int ROW = HALF + 4, BLOCK = HALF * ROW + HALF;  // of the equations: rows, halves
constexpr int MOST_WARPS = 8;      // of a block
// Logarithms of decays are to base 2.
constexpr float LOG2E = 1.44269504f;
constexpr float RANGE = 88;   // 2^88 leaves room for sums of products in a float
constexpr float FLOOR = -88;  // of one token; so little of a state is as good as none of it

enum Scores { AB, AK, RB, RK };

// In shared memory.
template <class Cell>
struct alignas(16) Chunk {
  Cell q[2 * CHUNK * STRIDE];       // A~, then R~
  Cell k[2 * CHUNK * STRIDE];       // B~, then K~
  Cell scores[4][CHUNK * WIDE];     // tril(A~ B~^T, -1), tril(A~ K~^T, -1), tril(R~ B~^T), tril(R~ K~^T)
  Cell inverse[CHUNK * NARROW];     // the inverses of both diagonal blocks of 1 - tril(A~ B~^T, -1)
  float ab[2 * BLOCK];              // both diagonal blocks of tril(A~ B~^T, -1), transposed
  // Sums of log-decays, from the first row of a warp to before (row i) and after (row i + 1) each of
  // its rows. A warp has ROWS + 1 of them in `steps`.
  float steps[(CHUNK + MOST_WARPS) * N];
  float bases[MOST_WARPS][N];  // from the start of the piece to the first row of a warp
  float last[N];               // the decay over the whole piece
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
  static WKV_WARP float* steps(float* all, int warp) { return all + warp * (EACH + 1) * N; }

  // f(lane, i, row, its number in the warp, first channel) for the i-th row of each thread
  template <class F>
  static WKV_WARP void each(int warp, F f) {
    each_lane([&](int lane) {
      WKV_UNROLL
      for (int i = 0; i < EACH / 4; i++)
        f(lane, i, warp * EACH + 4 * i + lane / 8, 4 * i + lane / 8, lane % 8 * 8);
    });
  }

  // What threads hold of some rows of a tensor; rows beyond the last are the last once more.
  template <class E>
  struct Held {
    Registers<Eight<E>, EACH / 4> eights;

    WKV_WARP Held(const Place& at, const E* from, Index t, int most, int warp) {
      const E* rows = from + at.row(t);
      each(warp, [&](int lane, int i, int row, int, int c) {
        eights.at(lane, i) = load_eight(rows + (smaller(row, most - 1) * at.stride + c));
      });
    }
    template <class Cell>
    WKV_WARP void store(Cell* to, int warp, bool zero) const {
      each(warp, [&](int lane, int i, int row, int, int c) {
        Eight<Cell> out{};
        WKV_UNROLL
        for (int j = 0; j < 4; j++)
          if (!zero) out.set(j, eights.at(lane, i).get(j));
        store_eight(to + row * STRIDE + c, out);
      });
    }
  };
};

// Reads the log-decays of `most` tokens from t on and adds them up.
template <int WARPS, class Cell>
WKV_WARP void add_up(Chunk<Cell>& sh, const Place& at, const float* w, Index t, int most, int warp) {
  constexpr int EACH = Rows<WARPS>::EACH;
  each_lane([&](int lane) {
    int c = 2 * lane;
    const float* from = w + at.row(t) + c;
    Pair step[EACH], sum{};
    WKV_UNROLL
    for (int i = 0; i < EACH; i++)
      step[i] = load_pair(from + smaller(warp * EACH + i, most - 1) * at.stride);
    float* to = Rows<WARPS>::steps(sh.steps, warp) + c;
    store_pair(to, sum);
    WKV_UNROLL
    for (int i = 0; i < EACH; i++) {
      Pair next = sum + floored(step[i]);
      if (warp * EACH + i < most) sum = next;
      store_pair(to + (i + 1) * N, sum);
    }
  });
}

// Tokens of the piece that starts at t: up to `most`, as long as decays are within RANGE. After
// add_up; the same in every warp. On the way, the warp's row of `bases`.
template <int WARPS, class Cell>
WKV_WARP int fitting(Chunk<Cell>& sh, const Place& at, const float* w, Index t, int most, int warp) {
  constexpr int EACH = Rows<WARPS>::EACH;
  Registers<int, 1> fit;
  each_lane([&](int lane) {
    Pair sum{};
    WKV_UNROLL
    for (int i = 0; i < WARPS; i++) {
      if (i == warp) store_pair(sh.bases[warp] + 2 * lane, sum);
      sum += pair_at(Rows<WARPS>::steps(sh.steps, i) + EACH * N + 2 * lane);
    }
    fit.at(lane, 0) = fabsf(sum.x) <= RANGE && fabsf(sum.y) <= RANGE ? most : 0;
  });
  sync_warp();
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
    fit.at(lane, 0) = count > 1 ? count : 1;
  });
  return least(fit);
}

// The three factors of two channels i of a row: the decay to before and to after it, and one over
// the latter.
struct Factors {
  Pair before, here, grown;
};
template <class Math, int WARPS, class Cell>
WKV_WARP Factors factors(Chunk<Cell>& sh, int warp, int row, int c) {
  const float* steps = Rows<WARPS>::steps(sh.steps, warp) + row * N + c;
  Pair base = pair_at(sh.bases[warp] + c), here = base + pair_at(steps + N);
  return {exp2_<Math>(base + pair_at(steps)), exp2_<Math>(here), exp2_<Math>(-here)};
}

// The piece from t on, scaled, to shared memory; rows beyond are zero.
template <class Math, int WARPS, class E>
WKV_WARP void scale(Chunk<typename Math::Cell>& sh, const Place& at, const Inputs<E>& in, Index t,
                    int most, int warp) {
  using Cell = typename Math::Cell;
  using Held = typename Rows<WARPS>::template Held<E>;
  Held a{at, in.a, t, most, warp}, r{at, in.r, t, most, warp};
  Held b{at, in.b, t, most, warp}, k{at, in.k, t, most, warp};
  int n = fitting<WARPS>(sh, at, in.w, t, most, warp);
  Rows<WARPS>::each(warp, [&](int lane, int slot, int row, int own, int c) {
    Eight<Cell> a_, r_, b_, k_;
    WKV_UNROLL
    for (int i = 0; i < 4; i++) {
      Factors x = factors<Math, WARPS>(sh, warp, own, c + 2 * i);
      a_.set(i, a.eights.at(lane, slot).get(i) * x.before);
      r_.set(i, r.eights.at(lane, slot).get(i) * x.here);
      b_.set(i, b.eights.at(lane, slot).get(i) * x.grown);
      k_.set(i, k.eights.at(lane, slot).get(i) * x.grown);
      if (row == n - 1) store_pair(sh.last + c + 2 * i, x.here);
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

// Half the columns of what `score` makes, to where they belong: the diagonal blocks of A~ B~^T to the
// equations, the rest to its tile.
template <int PART, class Cell>
WKV_WARP void keep(Chunk<Cell>& sh, Strip<4>& sum, int strip, int side) {
  bool reads = strip / 2, late = strip % 2, diagonal = late == PART;
  if (diagonal && !reads && !side) {
    float* to = sh.ab + PART * BLOCK;
    each_pair_of<2 * PART, 2 * PART + 2>(sum, [&](int row, int s, float x, float y) {
      s -= HALF * PART;
      to[s * ROW + row] = s < row ? x : 0;
      to[(s + 1) * ROW + row] = s + 1 < row ? y : 0;
    });
  } else {
    Cell* to = sh.scores[2 * reads + side] + HALF * late * WIDE;
    each_pair_of<2 * PART, 2 * PART + 2>(sum, [&](int row, int s, float x, float y) {
      int latest = HALF * PART + (diagonal ? row - !reads : HALF);
      store_pair(to + row * WIDE + s, Pair{s <= latest ? x : 0, s < latest ? y : 0});
    });
  }
}

// 16 rows of [A~; R~] (number `strip` of 4) times B~ (side 0) or K~ (side 1), masked. What is above
// the diagonal blocks is never read, so it is not written.
template <class Math>
WKV_WARP void score(Chunk<typename Math::Cell>& sh, int strip, int side) {
  bool late = strip % 2;  // second half of the tokens
  Strip<4> sum;
  clear(sum);
  WKV_SOME(Math)
  for (int k = 0; k < N; k += 16) {
    auto left = operand<LEFT, false, Math>(sh.q, STRIDE, 16 * strip, k);
    const auto* right = sh.k + side * CHUNK * STRIDE;
    multiply(sum, 0, left, operand<RIGHT, false, Math>(right, STRIDE, 0, k));
    if (late) multiply(sum, 2, left, operand<RIGHT, false, Math>(right, STRIDE, HALF, k));
  }
  keep<0>(sh, sum, strip, side);
  if (late) keep<1>(sh, sum, strip, side);
}

struct alignas(16) Four {
  float x[4];
};

// The inverses by forward substitution in fp32, a column per lane of one warp.
template <class Cell>
WKV_WARP void solve(Chunk<Cell>& sh) {
  each_lane([&](int lane) {
    int half = lane / HALF, own = lane % HALF;
    const float* ab = sh.ab + half * BLOCK;
    float column[HALF];
    WKV_UNROLL
    for (int t = 0; t < HALF; t++) column[t] = t == own;
    WKV_UNROLL
    for (int s = 0; s < HALF; s++) {
      WKV_UNROLL
      for (int t = s / 4 * 4; t < HALF; t += 4) {
        Four row = *reinterpret_cast<const Four*>(ab + s * ROW + t);
        WKV_UNROLL
        for (int i = 0; i < 4; i++)
          if (t + i > s) column[t + i] += row.x[i] * column[s];
      }
    }
    WKV_UNROLL
    for (int t = 0; t < HALF; t++)
      from_float(column[t], sh.inverse[(HALF * half + t) * NARROW + own]);
  });
}

// ---------------------------------------------------------------- products with tiles

// d += left . B with B[k][n] in a tile from row or column `k` on, n from `n` on; tiles FROM to TO of d.
template <bool TURNED, class Math, int FROM, int TO, int TILES>
WKV_WARP void add_tiles(Strip<TILES>& d, const Operand<Math::PARTS>& left,
                        const typename Math::Cell* tile, int stride, int k) {
  WKV_UNROLL
  for (int j = FROM; j < TO; j += 2)
    multiply(d, j, left, operand<RIGHT, TURNED, Math>(tile, stride, 8 * j, k));
}
template <bool TURNED, class Math, int TILES>
WKV_WARP void add_product(Strip<TILES>& d, const Operand<Math::PARTS>& left,
                          const typename Math::Cell* tile, int stride, int k) {
  add_tiles<TURNED, Math, 0, TILES>(d, left, tile, stride, k);
}

// d[values, t] += left[values, s] m[t, s], with m lower triangular; left(half) gives both halves of s.
template <class Math, class F>
WKV_WARP void add_later(Strip<4>& d, F left, const typename Math::Cell* m) {
  add_tiles<false, Math, 0, 4>(d, left(0), m, WIDE, 0);
  add_tiles<false, Math, 2, 4>(d, left(1), m, WIDE, HALF);
}
// d[values, s] += left[values, t] m[t, s].
template <class Math, class F>
WKV_WARP void add_earlier(Strip<4>& d, F left, const typename Math::Cell* m) {
  add_tiles<true, Math, 0, 2>(d, left(0), m, WIDE, 0);
  add_tiles<true, Math, 0, 4>(d, left(1), m, WIDE, HALF);
}

// x (1 - tril(A~ B~^T, -1))^-T for x[values, t]: the first half of the tokens, what it means for the
// second, the second half. x is used up.
template <class Math>
WKV_WARP Strip<4> solved(const Chunk<typename Math::Cell>& sh, Strip<4>& x) {
  Strip<4> out;
  clear(out);
  add_tiles<false, Math, 0, 2>(out, to_left<Math::PARTS>(x, 0), sh.inverse, NARROW, 0);
  add_tiles<false, Math, 2, 4>(x, to_left<Math::PARTS>(out, 0), sh.scores[AB], WIDE, 0);
  add_tiles<false, Math, 2, 4>(out, to_left<Math::PARTS>(x, 1), sh.inverse, NARROW, 0);
  return out;
}
// x (1 - tril(A~ B~^T, -1))^-1: the other way round.
template <class Math>
WKV_WARP Strip<4> solved_backwards(const Chunk<typename Math::Cell>& sh, Strip<4>& x) {
  Strip<4> out;
  clear(out);
  // Tiles 2 and 3 begin at column 16 of the whole inverse, at 0 of its block.
  add_tiles<true, Math, 2, 4>(out, to_left<Math::PARTS>(x, 1), sh.inverse - HALF, NARROW, HALF);
  add_tiles<true, Math, 0, 2>(x, to_left<Math::PARTS>(out, 1), sh.scores[AB], WIDE, HALF);
  add_tiles<true, Math, 0, 2>(out, to_left<Math::PARTS>(x, 0), sh.inverse, NARROW, 0);
  return out;
}

// x[values, tokens] to a tile [tokens, channels], from channel c on.
template <class Cell>
WKV_WARP void put(Cell* tile, int c, Strip<4>& x) {
  each_pair(x, [&](int row, int t, float first, float second) {
    from_float(first, tile[t * STRIDE + c + row]);
    from_float(second, tile[(t + 1) * STRIDE + c + row]);
  });
}

// Rows of 16 channels from c on, of a tile [tokens, channels], to n rows of a tensor. One warp, two
// lanes to a row.
template <class E, class Cell>
WKV_WARP void write_rows(E* to, const Place& at, const Cell* tile, Index t, int n, int c) {
  each_lane([&](int lane) {
    int first = c + lane % 2 * 8;
    E* rows = to + at.row(t) + first;
    WKV_UNROLL
    for (int row = lane / 2; row < CHUNK; row += LANES / 2) {
      if (row >= n) return;
      Eight<Cell> x = eight_at(tile + row * STRIDE + first);
      Eight<E> out;
      WKV_UNROLL
      for (int i = 0; i < 4; i++) out.set(i, x.get(i));
      write_eight(rows + row * at.stride, out);
    }
  });
}

// 16 rows of a state: the warp's, in a tensor [N, N].
WKV_WARP void load_state(Strip<8>& s, const float* from, int warp) {
  each_pair(s, [&](int row, int c, float& x, float& y) {
    Pair both = load_pair(from + (16 * warp + row) * N + c);
    x = both.x, y = both.y;
  });
}
WKV_WARP void store_state(float* to, Strip<8>& s, int warp) {
  each_pair(s, [&](int row, int c, float x, float y) {
    store_pair(to + (16 * warp + row) * N + c, Pair{x, y});
  });
}

// Ask for the rows of 32 tokens from t on, to be in the cache when their turn comes. Four warps.
template <class E>
WKV_WARP void announce(const Place& at, const Inputs<E>& in, const E* also, Index t, int warp) {
  constexpr int ROW = N * sizeof(E);
  each_lane([&](int lane) {
    if (t + lane >= at.end || t + lane < at.first) return;
    Index row = at.row(t + lane);
    if (warp == 0) prefetch<ROW>(in.r + row), prefetch<ROW>(in.k + row);
    if (warp == 1) prefetch<ROW>(in.v + row), prefetch<ROW>(in.a + row);
    if (warp == 2) prefetch<ROW>(in.b + row);
    if (warp == 2 && also) prefetch<ROW>(also + row);
    if (warp == 3) prefetch<N * 4>(in.w + row);
  });
  sync_warp();
}
// The same for a state.
WKV_WARP void announce_state(const float* state) {
  each_lane([&](int lane) { prefetch<N * N / LANES * 4>(state + N * N / LANES * lane); });
}

// ---------------------------------------------------------------- the block

// Runs phases. On the GPU each warp runs its own and then waits for the others.
#ifdef __CUDACC__
template <class Own>
struct Block {
  Own own;
  int warp = __shfl_sync(~0u, int(threadIdx.x / LANES), 0);  // so that it is seen to be uniform
  template <class Phase>
  WKV_WARP void phase(Phase f) {
    f(warp, own);
    __syncthreads();
  }
};
#endif

}  // namespace wkv7
