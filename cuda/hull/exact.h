// Exact comparisons of scores and exact turns of fp32 points.
//
// A product of two fp32 numbers has 48 bits, so it is exact in fp64; what is left is to add such
// products without losing anything. Contraction to fma changes nothing, as the products are exact.
#pragma once

#include <cmath>
#include <cstdint>

namespace hull {

using Index = int64_t;

struct Point {
  float x, y;
};

// qx x + qy y, as the nearest fp64 number and what it lacks: pairs compare as the real numbers do.
struct Score {
  double high, low;
};

inline Score score(Point q, Point k) {
  double a = double(q.x) * k.x, b = double(q.y) * k.y;
  double sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}
inline bool operator>(Score a, Score b) {
  return a.high > b.high || (a.high == b.high && a.low > b.low);
}
inline bool operator==(Score a, Score b) { return a.high == b.high && a.low == b.low; }

// The sign of a sum of fp64 numbers, exact (Shewchuk 1997, expansions that grow by one term).
template <int N>
int sign_of_sum(const double (&terms)[N]) {
  double parts[N];
  int count = 0;
  for (double term : terms) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
      double sum = term + parts[i], part = sum - term;
      double error = (term - (sum - part)) + (parts[i] - part);
      if (error != 0) parts[kept++] = error;
      term = sum;
    }
    if (term != 0) parts[kept++] = term;
    count = kept;
  }
  return count == 0 ? 0 : parts[count - 1] > 0 ? 1 : -1;  // the largest part is the last
}

// Whether b lies strictly below the segment from a to c; their x rise strictly.
inline bool is_below(Point a, Point b, Point c) {
  double left = (double(b.x) - a.x) * (double(c.y) - a.y);
  double right = (double(b.y) - a.y) * (double(c.x) - a.x);
  double turn = left - right, bound = 4e-16 * (std::fabs(left) + std::fabs(right));
  if (turn > bound) return true;
  if (turn < -bound) return false;
  double ax = a.x, ay = a.y, bx = b.x, by = b.y, cx = c.x, cy = c.y;
  double terms[] = {ax * by, -ay * bx, bx * cy, -by * cx, cx * ay, -cy * ax};
  return sign_of_sum(terms) > 0;
}

inline float slope(Point a, Point b) { return float((double(b.y) - a.y) / (double(b.x) - a.x)); }

// Keys that share the score of a query: the first and the last token, and how many.
struct Group {
  int32_t first, last, members;

  void add(Group other) {
    if (!members) {
      *this = other;
    } else {
      first = other.first < first ? other.first : first;
      last = other.last > last ? other.last : last;
      members += other.members;
    }
  }
};

}  // namespace hull
