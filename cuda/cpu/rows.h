// How CPU kernels read, write and walk over rows of channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/vec.h"

namespace {

using Index = int64_t;

constexpr Index GRAIN = 32768;       // elements below which a second thread does not pay
constexpr Index STREAM = 32 << 20;   // bytes of an output from which on it bypasses the cache

inline int useful_threads(Index elements, int most) {
  return int(std::min<Index>(most, elements / GRAIN + 1));
}

inline vec sigmoid(vec x) { return 1.f / (1.f + exp_(min_(vec{} + 88.f, -x))); }

template <class E>
vec read(const E* p, int lanes) {
  return lanes == LANES ? load(p) : load(p, lanes);
}
template <class E>
void write(E* p, vec x, int lanes, bool streamed = false) {
  if (lanes < LANES)
    store(p, x, lanes);
  else if (streamed)
    stream(p, x);
  else
    store(p, x);
}

inline float sum_(vec x) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += x[lane];
  return total;
}

// body(channel, lanes) for every vector of a row.
template <class Body>
void each_vector(Index width, Body body) {
  for (Index c = 0; c < width; c += LANES) body(c, int(std::min<Index>(LANES, width - c)));
}

// body(row) for every row, in parallel; rows must not share what they write.
template <class Body>
void each_row(Index rows, Index width, int most, Body body) {
#pragma omp parallel num_threads(useful_threads(rows* width, most))
  {
    FlushDenormals flush;
#pragma omp for schedule(static)
    for (Index row = 0; row < rows; row++) body(row);
  }
}

}  // namespace
