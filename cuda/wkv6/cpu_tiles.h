// Blocks of vector arithmetic for the WKV-6 kernels on the CPU. Matrices are rows of floats whose
// stride is a multiple of LANES, padded with zeros, so that no loop has a rest.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "cpu/vec.h"

namespace wkv6 {

using Index = int64_t;

constexpr int KEYS = 4;                       // rows of a tile of the state: with the vectors below,
constexpr int WIDEST = LANES == 16 ? 4 : 2;  // as much of it as the registers hold

// Floats aligned to vectors, not filled.
class Floats {
  float* data_;

 public:
  explicit Floats(Index count) : data_(nullptr) {
    std::size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    if (bytes && !(data_ = static_cast<float*>(std::aligned_alloc(64, bytes)))) throw std::bad_alloc();
  }
  ~Floats() { std::free(data_); }
  Floats(const Floats&) = delete;
  operator float*() const { return data_; }
};

// Calls body(std::integral_constant<int, vectors>, column) for all columns, widest tiles first.
template <class Body>
inline void each_tile(Index columns, Body body) {
  Index c = 0;
  for (; c + WIDEST * LANES <= columns; c += WIDEST * LANES)
    body(std::integral_constant<int, WIDEST>{}, c);
  if (WIDEST == 4 && c + 2 * LANES <= columns) {
    body(std::integral_constant<int, 2>{}, c);
    c += 2 * LANES;
  }
  if (c < columns) body(std::integral_constant<int, 1>{}, c);
}

// All lanes, or the first `count`: whole vectors are worth a branch.
template <class E>
inline vec read(const E* p, Index count) {
  return count >= LANES ? load(p) : load(p, int(count));
}
template <class E>
inline void write(E* p, vec x, Index count) {
  if (count >= LANES)
    store(p, x);
  else
    store(p, x, int(count));
}

// n rows of N elements, `step` elements apart, to rows of `padded` floats; and back. Meanwhile what
// lies `ahead` elements further is fetched.
template <class E>
inline void pack(Index n, Index N, Index padded, const E* from, Index step, float* to,
                 Index ahead = 0) {
  for (Index t = 0; t < n; t++, from += step, to += padded)
    for (Index c = 0; c < N; c += LANES) {
      if (ahead) __builtin_prefetch(from + c + ahead, 0, 2);
      store(to + c, read(from + c, N - c));
    }
}
template <class E>
inline void unpack(Index n, Index N, Index padded, const float* from, E* to, Index step) {
  for (Index t = 0; t < n; t++, from += padded, to += step)
    for (Index c = 0; c < N; c += LANES) write(to + c, load(from + c), N - c);
}

// For n tokens, `step` floats apart (backwards if negative): out_t += X^T z_t, and then
// X <- diag(d_t) X + p_t q_t^T. `rest` is what the factors d miss together, relative.
struct Steps {
  int n;
  Index size, step;
  const float *z, *d, *p, *q, *rest;
  float* out;
};

template <int VECTORS, bool OUTPUT>
inline void scan_tile(const Steps& s, Index key, Index column, const float* from, float* to) {
  vec x[KEYS][VECTORS];
  for (int i = 0; i < KEYS; i++)
    for (int j = 0; j < VECTORS; j++)
      x[i][j] = load(from + (key + i) * s.size + column + j * LANES);
  const float *z = s.z + key, *d = s.d + key, *p = s.p + key, *q = s.q + column;
  float* out = s.out + column;
  for (int t = 0; t < s.n; t++) {
    vec now[VECTORS], sum[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      now[j] = load(q + j * LANES);
      if (OUTPUT) sum[j] = load(out + j * LANES);
    }
    for (int i = 0; i < KEYS; i++)
      for (int j = 0; j < VECTORS; j++) {
        if (OUTPUT) sum[j] += x[i][j] * z[i];
        x[i][j] = x[i][j] * d[i] + now[j] * p[i];
      }
    if (OUTPUT)
      for (int j = 0; j < VECTORS; j++) store(out + j * LANES, sum[j]);
    z += s.step, d += s.step, p += s.step, q += s.step, out += s.step;
  }
  for (int i = 0; i < KEYS; i++)
    for (int j = 0; j < VECTORS; j++)
      store(to + (key + i) * s.size + column + j * LANES, x[i][j] + x[i][j] * s.rest[key + i]);
}

template <bool OUTPUT>
inline void scan(const Steps& s, const float* from, float* to) {
  each_tile(s.size, [&](auto vectors, Index column) {
    for (Index key = 0; key < s.size; key += KEYS)
      scan_tile<decltype(vectors)::value, OUTPUT>(s, key, column, from, to);
  });
}

// c[rows, columns] = a[rows, depth] b[depth, columns]; rows a multiple of KEYS.
inline void product(Index rows, Index depth, Index columns, const float* a, Index a_stride,
                    const float* b, float* c) {
  each_tile(columns, [&](auto vectors, Index column) {
    constexpr int VECTORS = decltype(vectors)::value;
    for (Index row = 0; row < rows; row += KEYS) {
      vec sum[KEYS][VECTORS] = {};
      for (Index k = 0; k < depth; k++)
        for (int j = 0; j < VECTORS; j++) {
          vec x = load(b + k * columns + column + j * LANES);
          for (int i = 0; i < KEYS; i++) sum[i][j] += x * a[(row + i) * a_stride + k];
        }
      for (int i = 0; i < KEYS; i++)
        for (int j = 0; j < VECTORS; j++)
          store(c + (row + i) * columns + column + j * LANES, sum[i][j]);
    }
  });
}

// Lanes of `a` whose number has the bit STEP trade places with those of `b` that lack it.
template <int STEP, int... I>
inline void exchange(vec& a, vec& b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  vec low = __builtin_shufflevector(a, b, (I & STEP ? LANES + I - STEP : I)...);
  b = __builtin_shufflevector(a, b, (I & STEP ? LANES + I : I + STEP)...);
#else
  vec low = __builtin_shuffle(a, b, ivec{(I & STEP ? LANES + I - STEP : I)...});
  b = __builtin_shuffle(a, b, ivec{(I & STEP ? LANES + I : I + STEP)...});
#endif
  a = low;
}
template <int STEP>
inline void exchange(vec* rows) {
  for (int i = 0; i < LANES; i++)
    if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>{});
  if constexpr (STEP > 1) exchange<STEP / 2>(rows);
}

// to[columns, rows] = from[rows, columns] transposed, both multiples of LANES.
inline void transpose(Index rows, Index columns, const float* from, float* to) {
  for (Index r = 0; r < rows; r += LANES)
    for (Index c = 0; c < columns; c += LANES) {
      vec block[LANES];
      for (int i = 0; i < LANES; i++) block[i] = load(from + (r + i) * columns + c);
      exchange<LANES / 2>(block);
      for (int i = 0; i < LANES; i++) store(to + (c + i) * rows + r, block[i]);
    }
}

}  // namespace wkv6
