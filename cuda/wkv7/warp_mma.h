// Matrix arithmetic of one warp: 16x16 operands, 16x8 tiles of sums, tensor cores. For
// wkv7/chunk.h.
//
// An operand is a sum of PARTS bf16 matrices, each the rounded rest of those before it. One part
// has 8 bits; two have 16, three have all 24 of a float.
#pragma once

#include "wkv7/warp.h"

namespace wkv7 {

// ---------------------------------------------------------------- sums

// 16 rows of 8 * TILES columns.
template <int TILES>
struct Strip {
  Registers<float, 4> tile[TILES];
};

// f(row, column, x, y) for the values of tiles FROM to TO, two neighbours of a row at a time.
template <int FROM, int TO, int TILES, class F>
WKV_WARP void each_pair_of(Strip<TILES>& s, F f) {
  each_lane([&](int lane) {
    WKV_UNROLL
    for (int j = FROM; j < TO; j++) {
      WKV_UNROLL
      for (int i = 0; i < 4; i += 2)
        f(lane / 4 + 4 * i, 8 * j + lane % 4 * 2, s.tile[j][i], s.tile[j][i + 1]);
    }
  });
}
template <int TILES, class F>
WKV_WARP void each_pair(Strip<TILES>& s, F f) {
  each_pair_of<0, TILES>(s, f);
}

template <int TILES>
WKV_WARP void clear(Strip<TILES>& s) {
  each_pair(s, [](int, int, float& x, float& y) { x = y = 0; });
}

// Sums over the rows of the strip times a tile, to out[columns].
template <int TILES, class Cell>
WKV_WARP void sum_rows(const Strip<TILES>& s, const Cell* tile, int stride, float* out) {
  WKV_UNROLL
  for (int j = 0; j < TILES; j++) {
    Registers<float, 2> sum;
    each_lane([&](int lane) {
      const Cell* p = tile + lane / 4 * stride + 8 * j + lane % 4 * 2;
      Pair first = pair_at(p), second = pair_at(p + 8 * stride);
      const Registers<float, 4>& x = s.tile[j];
      sum[0] = x[0] * first.x + x[2] * second.x;
      sum[1] = x[1] * first.y + x[3] * second.y;
    });
    WKV_UNROLL
    for (int far = LANES / 2; far >= 4; far /= 2) add_from(sum, far);
    each_lane([&](int lane) {
      if (lane < 4)
        out[8 * j + 2 * lane] = sum[0], out[8 * j + 2 * lane + 1] = sum[1];
    });
  }
}

// ---------------------------------------------------------------- operands

// A 16x16 factor. Left: A[m][k], register i holds rows m + 8 (i % 2) and k + 8 (i / 2). Right:
// B[k][n], register i holds k + 8 (i % 2) and n + 8 (i / 2). In both lane l has the two neighbours
// k = 2 (l % 4) and row or column l / 4.
template <int PARTS>
struct Operand {
  Registers<unsigned, 4> part[PARTS];
};

template <int PARTS>
WKV_WARP void split(Operand<PARTS>& out, int i, float x, float y) {
  WKV_UNROLL
  for (int p = 0; p < PARTS; p++) {
    unsigned both = gpu::to_two_bf16(x, y);
    out.part[p][i] = both;
    Pair rest = Pair{x, y} - unpack(both);
    x = rest.x, y = rest.y;
  }
}

// Tiles 2 j and 2 j + 1 of a strip as a left factor.
template <int PARTS, int TILES>
WKV_WARP Operand<PARTS> to_left(const Strip<TILES>& s, int j) {
  Operand<PARTS> out;
  WKV_UNROLL
  for (int i = 0; i < 4; i++) {
    const Registers<float, 4>& tile = s.tile[2 * j + i / 2];
    split(out, i, tile[i % 2 * 2], tile[i % 2 * 2 + 1]);
  }
  return out;
}

constexpr bool LEFT = true, RIGHT = false;

// A factor from shared memory, whose rows (left) or columns (right) `o` and whose contracted index
// k start here. It lies there as tile[o][k], or as tile[k][o] if TURNED.
template <bool SIDE, bool TURNED>
WKV_WARP Operand<1> load(const bf16* tile, int stride, int o, int k) {
  Operand<1> out;
  int lane = threadIdx.x % LANES, i = lane / 8, second = SIDE == LEFT ? i % 2 : i / 2;
  int to_o = o + 8 * second, to_k = k + 8 * (SIDE == LEFT ? i / 2 : i % 2), row = lane % 8;
  const bf16* p =
      TURNED ? tile + (to_k + row) * stride + to_o : tile + (to_o + row) * stride + to_k;
  gpu::load_matrices<TURNED>(p, out.part[0].held);
  return out;
}

template <bool SIDE, bool TURNED, int PARTS>
WKV_WARP Operand<PARTS> gather(const float* tile, int stride, int o, int k) {
  Operand<PARTS> out;
  each_lane([&](int lane) {
    WKV_UNROLL
    for (int i = 0; i < 4; i++) {
      int to_o = o + 8 * (SIDE == LEFT ? i % 2 : i / 2) + lane / 4;
      int to_k = k + 8 * (SIDE == LEFT ? i / 2 : i % 2) + lane % 4 * 2;
      const float* p = TURNED ? tile + to_k * stride + to_o : tile + to_o * stride + to_k;
      split(out, i, p[0], p[TURNED ? stride : 1]);
    }
  });
  return out;
}

template <bool SIDE, bool TURNED, class Math>
WKV_WARP Operand<Math::PARTS> operand(const typename Math::Cell* tile, int stride, int o, int k) {
  if constexpr (sizeof(typename Math::Cell) == 2)
    return load<SIDE, TURNED>(tile, stride, o, k);
  else
    return gather<SIDE, TURNED, Math::PARTS>(tile, stride, o, k);
}

// ---------------------------------------------------------------- products

// d += A B, where B is the half of a right factor with columns 8 * half and on.
WKV_WARP void mma(Registers<float, 4>& d, const Registers<unsigned, 4>& a,
                  const Registers<unsigned, 4>& b, int half) {
  gpu::multiply_matrices(d.held, a.held, b[2 * half], b[2 * half + 1]);
}

// Tiles j and j + 1 of d += A B; the smallest parts first.
template <int PARTS, int TILES>
WKV_WARP void multiply(Strip<TILES>& d, int j, const Operand<PARTS>& a, const Operand<PARTS>& b) {
  WKV_UNROLL
  for (int order = PARTS - 1; order >= 0; order--) {
    WKV_UNROLL
    for (int p = 0; p <= order; p++) {
      WKV_UNROLL
      for (int half = 0; half < 2; half++)
        mma(d.tile[j + half], a.part[p], b.part[order - p], half);
    }
  }
}

}  // namespace wkv7
