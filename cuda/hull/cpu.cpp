// Hard-max attention with heads of size 2 on the CPU: threads over heads. Plain C interface, called
// from models/ops/hull/cpu.py.
//
// Arrays are contiguous: keys and queries [heads, T, 2] fp32, what was found [heads, T, 3] int32
// (first token, last token, how many), values [heads, T, P] fp32, means [heads, T, P] fp64, sums
// [heads, 3 + rows, P] fp64 (of all keys, the leftmost and the rightmost ones, and by first token).
// An arena is `bytes` long, a multiple of 128, and begins as zeros.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "hull/address.h"
#include "hull/circle.h"
#include "hull/dyadic.h"
#include "hull/scan.h"

namespace {

using namespace hull;

constexpr Index SUMS = 3;      // rows before those of tokens
constexpr int TOGETHER = 16;   // queries that descend side by side: their misses overlap

struct Sums {
  double* rows;  // null: nobody asks for means
  Index width;

  double* of(Index row) const { return rows + row * width; }
  void clear(Index row) const { std::fill(of(row), of(row) + width, 0.0); }
  void add(Index row, const float* value) const {
    for (Index c = 0; c < width; c++) of(row)[c] += value[c];
  }
};

void add(Cache& cache, Point key, const Sums& sums, const float* value) {
  const Header& h = cache.header();
  bool is_first = !h.tokens;
  bool is_left = is_first || key.x < h.left_x, is_right = is_first || key.x > h.right_x;
  int32_t token = h.tokens, first = cache.add(key);
  if (!sums.rows) return;
  if (is_first) sums.clear(Cache::ALL);
  if (is_left) sums.clear(Cache::LEFT);
  if (is_right) sums.clear(Cache::RIGHT);
  sums.add(Cache::ALL, value);
  if (key.x == h.left_x) sums.add(Cache::LEFT, value);
  if (key.x == h.right_x) sums.add(Cache::RIGHT, value);
  if (first == NONE) return;
  if (first == token) sums.clear(SUMS + token);
  sums.add(SUMS + first, value);
}

// Collects what a query visits.
struct Answer {
  Group found{};
  double* mean;
  const Sums& sums;

  Answer(double* mean, const Sums& sums) : mean(mean), sums(sums) {
    if (mean) std::fill(mean, mean + sums.width, 0.0);
  }
  void operator()(Group g, int which) {
    found.add(g);
    if (!mean) return;
    const double* row = sums.of(which == NONE ? SUMS + g.first : which);
    for (Index c = 0; c < sums.width; c++) mean[c] += row[c];
  }
  Group finish() const {
    for (Index c = 0; mean && c < sums.width; c++) mean[c] /= found.members;
    return found;
  }
};

// From roots to entries, `number` searches level by level: each waits for memory while the others
// work. found(i, node) counts the entries of a node that are not beyond search i.
template <class Key, class Found>
void descend(const Tree<Key>* const* trees, Place* at, int number, Found found) {
  int levels = 0;
  for (int i = 0; i < number; i++) {
    at[i] = {trees[i]->root().node, 0};
    levels = std::max(levels, int(trees[i]->root().levels));
  }
  for (int level = levels; level >= 0; level--)
    for (int i = 0; i < number; i++) {
      if (level > trees[i]->root().levels) continue;
      auto& node = trees[i]->at(at[i].leaf);
      int slot = found(i, node) - 1, entry = std::max(slot, 0);
      if (!level) {
        at[i].slot = slot;
        __builtin_prefetch(&node.key[entry]);
        __builtin_prefetch(&node.y[entry]);
        __builtin_prefetch(&node.group[entry]);
        continue;
      }
      at[i].leaf = node.child[entry];
      auto& below = trees[i]->at(at[i].leaf);
      bool by_slope = std::is_same<Key, float>::value;
      __builtin_prefetch(by_slope ? (void*)&below.slope[0] : &below.key[0]);
      __builtin_prefetch(by_slope ? (void*)&below.slope[ROOM / 2] : &below.key[ROOM / 2]);
      __builtin_prefetch(level == 1 ? (void*)&below.count : &below.child[ROOM / 2]);
    }
}

void descend(const Envelope* const* envelopes, const Point* q, Place* at, int number) {
  float slopes[TOGETHER];
  const Tree<float>* trees[TOGETHER];
  for (int i = 0; i < number; i++) {
    slopes[i] = q[i].y == 0 ? 0 : float(-double(q[i].x) / q[i].y);
    trees[i] = envelopes[i];
  }
  descend(trees, at, number,
          [&](int i, auto& node) { return std::max(1, Envelope::steeper(node, slopes[i])); });
}

// Queries of one head, some at a time.
void query_all(Cache& cache, Index count, const Point* q, Group* found, const Sums& sums,
               double* mean) {
  Envelope sides[2] = {cache.upper(), cache.lower()};
  for (Index start = 0; start < count; start += TOGETHER) {
    int number = int(std::min<Index>(TOGETHER, count - start));
    const Envelope* trees[TOGETHER];
    Point turned[TOGETHER];
    Place at[TOGETHER];
    for (int i = 0; i < number; i++) {
      Point query = q[start + i];
      trees[i] = &sides[query.y < 0];
      turned[i] = {query.x, std::fabs(query.y)};
    }
    descend(trees, turned, at, number);
    for (int i = 0; i < number; i++) {
      Answer answer(mean ? mean + (start + i) * sums.width : nullptr, sums);
      if (turned[i].y == 0) {
        cache.query(q[start + i], answer);
      } else {
        Place best = trees[i]->climb(turned[i], at[i]);
        Cache::visit_ties(*trees[i], turned[i], best, answer);
      }
      found[start + i] = answer.finish();
    }
  }
}

// The nearest angles, and the mean of their values: of the nearest ones, or a softmax over `most`.
Group nearest(const Circle& circle, int32_t asked, Place at, Index most, const float* scale,
              const Sums& sums, double* mean) {
  Group found{};
  if (!scale || !mean) {
    Answer answer(mean, sums);
    circle.nearest(asked, 0, at, [&](const Group& g, int32_t) { answer(g, NONE); });
    return answer.finish();
  }
  std::fill(mean, mean + sums.width, 0.0);
  int32_t least = -1;
  double highest = 0, total = 0;
  circle.nearest(asked, most, at, [&](const Group& g, int32_t distance) {
    double cosine = std::cos(distance * (2 * M_PI / TURN));
    if (least < 0) least = distance, highest = cosine;
    if (distance == least) found.add(g);
    double weight = std::exp(double(*scale) * (cosine - highest));
    const double* row = sums.of(SUMS + g.first);
    for (Index c = 0; c < sums.width; c++) mean[c] += weight * row[c];
    total += weight * g.members;
  });
  for (Index c = 0; c < sums.width; c++) mean[c] /= total;
  return found;
}

bool is_finite(const float* x, Index count) {
  bool yes = true;
  for (Index i = 0; i < count; i++) yes &= std::isfinite(x[i]);
  return yes;
}

// Threads that have something to do.
int useful(int threads, Index heads) { return int(std::clamp<Index>(heads, 1, threads)); }

enum Status : Index { DONE = 0, FULL = 1, NOT_FINITE = 2 };

// For each token that an arena does not hold yet, `one(cache, own, row)`; stops where one is full.
template <class Kept, class One>
Index for_new_tokens(
    Index heads, Index length, Index past, Index bytes, char* arenas, Index width, Index rows,
    double* sums, int threads, One one) {
  Index status = DONE;
  threads = useful(threads, heads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(max : status)
  for (Index head = 0; head < heads; head++) {
    Kept cache(arenas + head * bytes);
    Sums own{sums ? sums + head * (SUMS + rows) * width : nullptr, width};
    for (Index t = cache.header().tokens - past; t < length; t++) {
      if (!cache.has_room(bytes)) {
        status = std::max<Index>(status, FULL);
        break;
      }
      one(cache, own, head * length + t);
    }
  }
  return status;
}

}  // namespace

extern "C" {

// Add keys [heads, T, 2] to the arenas, which hold `past` or, where an earlier call found no room,
// some more; and, where there are queries, answer each as soon as its token's key is in.
int64_t hull_step(
    Index heads, Index length, Index past, Index bytes, char* arenas, const float* keys,
    const float* queries, Group* found, Index width, Index rows, double* sums,
    const float* values, double* means, int threads) {
  if (!is_finite(keys, heads * length * 2)) return NOT_FINITE;
  if (queries && !is_finite(queries, heads * length * 2)) return NOT_FINITE;
  auto one = [=](Cache& cache, Sums& own, Index row) {
    add(cache, ((const Point*)keys)[row], own, values ? values + row * width : nullptr);
    if (!queries) return;
    Answer answer(means ? means + row * width : nullptr, own);
    cache.query(((const Point*)queries)[row], answer);
    found[row] = answer.finish();
  };
  return for_new_tokens<Cache>(heads, length, past, bytes, arenas, width, rows, sums, threads, one);
}

// Queries [heads, T, 2] of arenas that hold one key or more.
int64_t hull_query(
    Index heads, Index length, Index bytes, char* arenas, const float* queries, Group* found,
    Index width, Index rows, double* sums, double* means, int threads) {
  if (!is_finite(queries, heads * length * 2)) return NOT_FINITE;
  threads = useful(threads, heads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index head = 0; head < heads; head++) {
    Cache cache(arenas + head * bytes);
    Sums own{sums ? sums + head * (SUMS + rows) * width : nullptr, width};
    Index row = head * length;
    query_all(cache, length, (const Point*)queries + row, found + row, own,
              means ? means + row * width : nullptr);
  }
  return DONE;
}

// The same of angles, int32 [heads, T], by their nearest ones. With `scales` fp32 [heads, T] the
// means are those of a softmax of scale cos(angle between) over the `most` nearest angles, each as
// often as there are keys; what is found are the nearest ones still.
int64_t hull_circle_step(
    Index heads, Index length, Index past, Index bytes, char* arenas, const int32_t* keys,
    const int32_t* queries, Group* found, Index width, Index rows, double* sums,
    const float* values, double* means, Index most, const float* scales, int threads) {
  auto one = [=](CircleCache& cache, Sums& own, Index row) {
    int32_t token = cache.header().tokens, first = cache.add(keys[row]);
    if (own.rows) {
      if (first == token) own.clear(SUMS + token);
      own.add(SUMS + first, values + row * width);
    }
    if (!queries) return;
    Circle circle = cache.circle();
    double* mean = means ? means + row * width : nullptr;
    found[row] = nearest(circle, queries[row], circle.find(queries[row]), most,
                         scales ? scales + row : nullptr, own, mean);
  };
  return for_new_tokens<CircleCache>(
      heads, length, past, bytes, arenas, width, rows, sums, threads, one);
}

int64_t hull_circle_query(
    Index heads, Index length, Index bytes, char* arenas, const int32_t* queries, Group* found,
    Index width, Index rows, double* sums, double* means, Index most, const float* scales,
    int threads) {
  threads = useful(threads, heads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index head = 0; head < heads; head++) {
    Circle circle = CircleCache(arenas + head * bytes).circle();
    Sums own{sums ? sums + head * (SUMS + rows) * width : nullptr, width};
    for (Index start = 0; start < length; start += TOGETHER) {
      int number = int(std::min<Index>(TOGETHER, length - start));
      Index row = head * length + start;
      const Tree<int32_t>* trees[TOGETHER];
      std::fill(trees, trees + number, &circle);
      Place at[TOGETHER];
      descend(trees, at, number,
              [&](int i, auto& node) { return Circle::not_above(node, queries[row + i]); });
      for (int i = 0; i < number; i++) {
        double* mean = means ? means + (row + i) * width : nullptr;
        found[row + i] = nearest(circle, queries[row + i], at[i], most,
                                 scales ? scales + row + i : nullptr, own, mean);
      }
    }
  }
  return DONE;
}

// Vertices of the upper and the lower envelope of each head, [heads, 2].
void hull_sizes(Index heads, Index bytes, char* arenas, int64_t* sizes) {
  for (Index head = 0; head < heads; head++) {
    Cache cache(arenas + head * bytes);
    sizes[2 * head] = cache.header().upper.size;
    sizes[2 * head + 1] = cache.header().lower.size;
  }
}

// Add addresses [T] to one arena of pairs, from the one that its tokens have come to.
int64_t hull_add_addresses(
    Index length, Index past, Index bytes, char* arena, const int32_t* addresses) {
  PairCache cache(arena);
  for (Index t = cache.header().tokens - past; t < length; t++) {
    if (!cache.has_room(bytes)) return FULL;
    cache.add(parabola(addresses[t] >> LOW_BITS), parabola(addresses[t] & LOW));
  }
  return DONE;
}

// The tokens nearest to addresses [T]: in their high bits first, then in their low bits.
int64_t hull_find_addresses(Index length, char* arena, const int32_t* addresses, Group* found) {
  PairCache cache(arena);
  Envelope outer = cache.outer();
  for (Index start = 0; start < length; start += TOGETHER) {
    int number = int(std::min<Index>(TOGETHER, length - start));
    const Envelope* trees[TOGETHER];
    Point high[TOGETHER], low[TOGETHER];
    Place at[TOGETHER], below[TOGETHER];
    std::vector<Envelope> inner;
    inner.reserve(TOGETHER);
    for (int i = 0; i < number; i++) {
      int32_t address = addresses[start + i];
      high[i] = {float(address >> LOW_BITS), 1};
      low[i] = {float(address & LOW), 1};
      trees[i] = &outer;
    }
    descend(trees, high, at, number);
    for (int i = 0; i < number; i++) {
      at[i] = outer.climb(high[i], at[i]);
      inner.push_back(cache.inner(at[i]));
      trees[i] = &inner[i];
    }
    descend(trees, low, below, number);
    for (int i = 0; i < number; i++)
      cache.query(high[i], low[i], at[i], below[i], [&](Group g) { found[start + i] = g; });
  }
  return DONE;
}

// The first best of all `keys`, or of those up to its own, for queries [T]; coordinates [2, keys].
int64_t hull_scan(
    Index length, Index keys, Index causal, const float* sides, const Point* queries,
    int32_t* best) {
  for (Index t = 0; t < length; t++)
    best[t] = scan(sides, sides + keys, causal ? t + 1 : keys, queries[t]);
  return DONE;
}

// Causal hard-max of all tokens at once, see dyadic.h; `values` and `means` may be null.
int64_t hull_prefill(
    Index heads, Index length, const float* keys, const float* queries, Group* found, Index width,
    const float* values, double* means, int threads) {
  if (!is_finite(keys, heads * length * 2)) return NOT_FINITE;
  if (!is_finite(queries, heads * length * 2)) return NOT_FINITE;
  threads = useful(threads, heads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index head = 0; head < heads; head++) {
    Index row = head * length;
    prefill(length, (const Point*)keys + row, (const Point*)queries + row, found + row, width,
            values ? values + row * width : nullptr, means ? means + row * width : nullptr);
  }
  return DONE;
}

}  // extern "C"
