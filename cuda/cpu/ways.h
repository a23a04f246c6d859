// How the formulas of `elementwise/` walk over memory on the CPU: flat arrays, rows of channels,
// heads, tokens; and sums over rows. Arithmetic in fp32; elements are float, bf16 or fp16.
#pragma once

#include "cpu/rows.h"

namespace {

// What is left of x when it is kept as an S.
template <class S>
vec rounded(vec x) {
  S part[LANES];
  store(part, x);
  return load(part);
}
template <>
inline vec rounded<float>(vec x) {
  return x;
}

// A vector of channels; outputs that will not fit into the cache may go past it.
struct Whole {
  bool streamed = false;
  template <class E>
  vec read(const E* p) const {
    return load(p);
  }
  template <class E>
  void write(E* p, vec x) const {
    if (streamed && uintptr_t(p) % sizeof(vec) == 0)
      stream(p, x);
    else
      store(p, x);
  }
  vec only(vec x) const { return x; }
  void prefetch(const void* p) const { __builtin_prefetch(p, 0, 2); }
};
// The first `count` of one; the others read as 0.
struct Part {
  int count;
  template <class E>
  vec read(const E* p) const {
    return load(p, count);
  }
  template <class E>
  void write(E* p, vec x) const {
    store(p, x, count);
  }
  vec only(vec x) const {
    for (int i = count; i < LANES; i++) x[i] = 0;
    return x;
  }
  void prefetch(const void* p) const { __builtin_prefetch(p, 0, 2); }
};

// body(channel, lanes) for every vector of a row.
template <class Body>
void each_vector(Index width, bool streamed, Body body) {
  Index c = 0;
  for (; c + LANES <= width; c += LANES) body(c, Whole{streamed});
  if (c < width) body(c, Part{int(width - c)});
}

// Sums over rows of `count` quantities per vector of channels: partial sums of fixed blocks of rows,
// added up in a fixed order, so that the result does not depend on the number of threads.
class RowSums {
  Index blocks_, vectors_, count_;
  std::vector<vec> partial_;

 public:
  RowSums(Index blocks, Index vectors, Index count)
      : blocks_(blocks), vectors_(vectors), count_(count), partial_(blocks * vectors * count) {}

  // Quantity q of vector i of a block of rows is of(block)[i * count + q].
  vec* of(Index block) { return partial_.data() + block * vectors_ * count_; }

  // `heads` runs of `size` channels, each with vectors of its own, into f.total(quantity).
  template <class Formula>
  void finish(const Formula& f, Index quantities, Index heads, Index size) const {
    Index each = (size + LANES - 1) / LANES;
    for (Index q = 0; q < quantities; q++)
      for (Index head = 0; head < heads; head++)
        for (Index c = 0; c < size; c++) {
          double sum = 0;
          Index at = (head * each + c / LANES) * count_ + q;
          for (Index block = 0; block < blocks_; block++)
            sum += partial_[block * vectors_ * count_ + at][c % LANES];
          f.total(int(q))[head * size + c] = float(sum);
        }
  }
};

// body(row, sums) for every row; the sums are those of its block of rows, null if there are none.
template <int SUMS, class Formula, class Body>
void each_row_with_sums(const Formula& f, Index rows, Index heads, Index size, int most,
                        Body body) {
  if constexpr (SUMS == 0) {
    each_row(rows, heads * size, most, [&](Index row) { body(row, nullptr); });
  } else {
    constexpr Index BLOCK = 128;
    Index blocks = (rows + BLOCK - 1) / BLOCK;
    RowSums totals(blocks, heads * ((size + LANES - 1) / LANES), SUMS);
    each_row(blocks, (rows + blocks - 1) / std::max<Index>(blocks, 1) * heads * size, most,
             [&](Index block) {
               for (Index row = block * BLOCK; row < std::min(rows, (block + 1) * BLOCK); row++)
                 body(row, totals.of(block));
             });
    totals.finish(f, SUMS, heads, size);
  }
}

// ---------------------------------------------------------------- the ways over memory

struct Flat {
  template <class E, class Formula>
  static void run(const Formula& f, int most) {
    bool streamed = Index(f.n * sizeof(E)) >= STREAM;
    Index whole = f.n / LANES;
#pragma omp parallel num_threads(useful_threads(f.n, most))
    {
      FlushDenormals flush;
      if (streamed) {
#pragma omp for schedule(static)
        for (Index i = 0; i < whole; i++) f.at(i * LANES, Whole{true});
      } else {
#pragma omp for schedule(static)
        for (Index i = 0; i < whole; i++) f.at(i * LANES, Whole{});
      }
    }
    if (int rest = int(f.n % LANES)) {
      FlushDenormals flush;
      f.at(whole * LANES, Part{rest});
    }
  }
};

struct Channels {
  template <class E, class Formula>
  static void run(const Formula& f, int most) {
    constexpr int SUMS = Formula::SUMS;
    each_row_with_sums<SUMS>(f, f.rows, 1, f.width, most, [&](Index row, vec* sums) {
      each_vector(f.width, false,
                  [&](Index c, auto m) { f.at(row, c, m, sums + c / LANES * SUMS); });
    });
  }
};

// Those who share a sum over a head, or over a whole row: one thread.
template <int SUMS>
struct Team {
  Index size;
  vec* sums;
  template <class Body>
  void each(Body body) {
    each_vector(size, false, [&](Index c, auto m) { body(c, m, sums + c / LANES * SUMS); });
  }
  float sum(vec x) const { return sum_(x); }
};

struct Heads {
  template <class E, class Formula>
  static void run(const Formula& f, int most) {
    constexpr int SUMS = Formula::SUMS;
    Index vectors = (f.size + LANES - 1) / LANES;
    each_row_with_sums<SUMS>(f, f.rows, f.count, f.size, most, [&](Index row, vec* sums) {
      for (Index head = 0; head < f.count; head++) {
        Team<SUMS> team{f.size, sums + head * vectors * SUMS};
        f.of(team, row, head);
      }
    });
  }
};
using Rows = Heads;

struct Tokens {
  static constexpr Index TILE = 32;   // rows walked down one vector of channels
  static constexpr Index ITEM = 512;  // rows of one unit of work; fixed, so that sums do not vary

  template <class E, class Formula>
  static void run(const Formula& f, int most) {
    with_count<Formula::MOST>(int(f.count), [&](auto M) { walk<M, E>(f, most); });
  }

 private:
  template <int M, class E, class Formula>
  static void walk(const Formula& f, int most) {
    Index T = f.T, C = f.C, items = (T + ITEM - 1) / ITEM;
    constexpr int SUMS = Formula::SUMS ? M : 0;
    bool streamed = Index(f.B * T * C * sizeof(E)) >= STREAM;
    RowSums totals(f.B * items, (C + LANES - 1) / LANES, SUMS);
#pragma omp parallel num_threads(useful_threads(f.B* T* C, most))
    {
      FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
      for (Index item = 0; item < f.B * items; item++) {
        Index from = item % items * ITEM, end = std::min(T, from + ITEM);
        for (Index t = from; t < end; t += TILE)
          each_vector(C, streamed, [&](Index c, auto m) {
            vec sums[SUMS + 1] = {}, *total = totals.of(item) + c / LANES * SUMS;
            f.template walk<M>(item / items, t, std::min(TILE, end - t), c, m, sums);
            for (int q = 0; q < SUMS; q++) total[q] += sums[q];
          });
      }
    }
    if constexpr (SUMS > 0) totals.finish(f, SUMS, 1, C);
  }

  // The number of mixes is a compile-time constant, so that their shares stay in registers.
  template <int M, class Call>
  static void with_count(int count, Call call) {
    if constexpr (M > 0) {
      if (count == M)
        call(std::integral_constant<int, M>{});
      else
        with_count<M - 1>(count, call);
    }
  }
};

}  // namespace
