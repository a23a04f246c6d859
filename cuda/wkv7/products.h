// Products within a chunk of WKV-7, of tiles in shared memory and of what a warp holds. For
// wkv7/forward.h and wkv7/backward.h.
#pragma once

#include "wkv7/chunk.h"

namespace wkv7 {

// Half the columns of what `score` makes, to where they belong: the diagonal blocks of A~ B~^T to
// the equations, the rest to its tile.
template <int PART, class Cell, int WARPS>
WKV_WARP void keep(Chunk<Cell, WARPS>& sh, Strip<4>& sum, int strip, int side) {
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
template <class Math, int WARPS>
WKV_WARP void score(Chunk<typename Math::Cell, WARPS>& sh, int strip, int side) {
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

// The inverses by forward substitution in fp32, a column per lane of one warp.
template <class Cell, int WARPS>
WKV_WARP void solve(Chunk<Cell, WARPS>& sh) {
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

// d += left . B with B[k][n] in a tile from row or column `k` on, n from `n` on; tiles FROM to TO
// of d.
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

// d[values, t] += left[values, s] m[t, s], with m lower triangular; left(half) gives both halves of
// s.
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

// x (1 - tril(A~ B~^T, -1))^-T for x[values, t]: the first half of the tokens, what it means for
// the second, the second half. x is used up.
template <class Math, int WARPS>
WKV_WARP Strip<4> solved(const Chunk<typename Math::Cell, WARPS>& sh, Strip<4>& x) {
  Strip<4> out;
  clear(out);
  add_tiles<false, Math, 0, 2>(out, to_left<Math::PARTS>(x, 0), sh.inverse, NARROW, 0);
  add_tiles<false, Math, 2, 4>(x, to_left<Math::PARTS>(out, 0), sh.scores[AB], WIDE, 0);
  add_tiles<false, Math, 2, 4>(out, to_left<Math::PARTS>(x, 1), sh.inverse, NARROW, 0);
  return out;
}
// x (1 - tril(A~ B~^T, -1))^-1: the other way round.
template <class Math, int WARPS>
WKV_WARP Strip<4> solved_backwards(const Chunk<typename Math::Cell, WARPS>& sh, Strip<4>& x) {
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

}  // namespace wkv7
