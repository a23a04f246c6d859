// The search of all keys that hulls are timed against, in fp32 and as fast as it goes.
#pragma once

#include "hull/exact.h"

namespace hull {

inline int32_t scan(const float* x, const float* y, Index count, Point q) {
  constexpr int LANES = 16, VECTORS = 4;
  typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
  typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
  Floats most[VECTORS];
  Ints place[VECTORS], now[VECTORS];
  for (int v = 0; v < VECTORS; v++)
    for (int i = 0; i < LANES; i++) {
      most[v][i] = -HUGE_VALF;
      place[v][i] = 0;
      now[v][i] = v * LANES + i;
    }
  Index j = 0;
  for (; j + VECTORS * LANES <= count; j += VECTORS * LANES)
    for (int v = 0; v < VECTORS; v++) {
      Index first = j + v * LANES;
      Floats score = q.x * *(const Floats*)(x + first) + q.y * *(const Floats*)(y + first);
      Ints is_better = score > most[v];
      most[v] = is_better ? score : most[v];
      place[v] = is_better ? now[v] : place[v];
      now[v] += VECTORS * LANES;
    }
  float highest = -HUGE_VALF;
  int32_t best = 0;
  for (int v = 0; v < VECTORS; v++)
    for (int i = 0; i < LANES; i++) {
      bool is_first = most[v][i] == highest && place[v][i] < best;
      if (most[v][i] > highest || is_first) highest = most[v][i], best = place[v][i];
    }
  for (; j < count; j++) {
    float score = q.x * x[j] + q.y * y[j];
    if (score > highest) highest = score, best = int32_t(j);
  }
  return best;
}

}  // namespace hull
