// Products of small fp32 matrices that live in the cache, one register tile at a time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "cpu/vec.h"

using Index = int64_t;

#define ALWAYS_INLINE inline __attribute__((always_inline))

constexpr int ROWS = 4;                    // rows of a tile
constexpr int WIDE = LANES >= 16 ? 4 : 2;  // vectors of a tile: as many as the registers hold

// R rows of V vectors. `x[i][j] += ...` on it stays in registers where the loops unroll.
template <int R, int V>
struct Tile {
  vec x[R][V];

  ALWAYS_INLINE void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) x[i][j] = vec{};
  }

  // Row i += factor * a row of floats.
  ALWAYS_INLINE void add_row(int i, float factor, const float* row) {
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) x[i][j] += factor * load(row + j * LANES);
  }

  // += A B: element (i, k) of A is a[i * row + k * step], row k of B is b + k * stride. `count`,
  // the number of k, is a multiple of 4.
  ALWAYS_INLINE void add(const float* a, Index row, Index step, const float* b, Index stride,
                         Index count) {
#pragma GCC unroll 4
    for (Index k = 0; k < count / 4 * 4; k++, a += step, b += stride) {
      vec right[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) right[j] = load(b + j * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        float left = a[i * row];
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) x[i][j] += left * right[j];
      }
    }
  }
};

// Calls body(number of vectors as a type, first column) over whole vectors of columns.
template <class Body>
ALWAYS_INLINE void each_columns(Index from, Index to, Body body) {
  Index c = from;
  for (; c + WIDE * LANES <= to; c += WIDE * LANES) body(std::integral_constant<int, WIDE>{}, c);
  for (; c < to; c += LANES) body(std::integral_constant<int, 1>{}, c);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE
#endif
#endif

// A square of LANES rows. Perfect shuffles of rows half a square apart, log2(LANES) times.
inline void transpose_square(const float* from, Index from_stride, float* to, Index to_stride) {
#if defined(HAS_SHUFFLE)
  vec x[LANES], y[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++) x[i] = load(from + i * from_stride);
#pragma GCC unroll 4
  for (int size = 1; size < LANES; size *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      vec a = x[i], b = x[i + LANES / 2];
#if VEC_LANES == 16
      y[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                         7, 23);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                             14, 30, 15, 31);
#elif VEC_LANES == 8
      y[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
      y[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) x[i] = y[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++) store(to + i * to_stride, x[i]);
#else
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < LANES; j++) to[j * to_stride + i] = from[i * from_stride + j];
#endif
}

// to[j][i] = from[i][j]; both extents are multiples of LANES.
inline void transpose(const float* from, Index rows, Index columns, float* to) {
  for (Index i = 0; i < rows; i += LANES)
    for (Index j = 0; j < columns; j += LANES)
      transpose_square(from + i * columns + j, columns, to + j * rows + i, rows);
}

// Floats aligned to a cache line, not filled.
struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float[], Free>;
inline Floats floats(Index count) {
  count = count > 0 ? count : 1;
  void* p = std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
  if (!p) throw std::bad_alloc();
  return Floats(static_cast<float*>(p));
}
