// Causal hard-max for all tokens at once: dyadic hulls over time.
//
// Blocks of BASE tokens are searched key by key. Then, size by size, the hull of the left one of
// two neighbouring blocks answers all queries of the right one, and the two are merged. A token has
// then met all keys up to its own, in log2(T / BASE) hulls. Keys stay in order of x and queries in
// order of direction through all sizes, so a size costs O(T): a hull and the queries of its
// neighbour are walked side by side.
#pragma once

#include <algorithm>
#include <vector>

#include "hull/exact.h"

namespace hull {

struct Vertex {
  Point point;
  Group group;
};

// How many of the first vertices stay on the envelope when `next` comes to their right.
inline Index kept(const Vertex* first, Index count, const Vertex& next) {
  while (count > 1 && is_below(first[count - 2].point, first[count - 1].point, next.point)) count--;
  return count;
}

class Dyadic {
  static constexpr Index BASE = 64;

  // Keys of all blocks as one envelope each, which begins where its block does.
  struct Side {
    std::vector<Vertex> vertices, merged;
    std::vector<Index> sizes;   // of the envelopes, by block
    std::vector<double> sums;   // [T, P] by the first token of a group

    void merge(Index left, Index right, Index block, Index width) {
      Index a = 0, b = 0, count = 0, na = sizes[block], nb = sizes[block + 1];
      const Vertex *l = &vertices[left], *r = &vertices[right];
      Vertex* out = merged.data();
      while (a < na || b < nb) {
        Vertex next;
        if (b == nb || (a < na && l[a].point.x < r[b].point.x)) {
          next = l[a++];
        } else if (a == na || r[b].point.x < l[a].point.x) {
          next = r[b++];
        } else if (l[a].point.y == r[b].point.y) {
          next = l[a++];
          const Vertex& other = r[b++];
          for (Index c = 0; c < width; c++)
            sums[next.group.first * width + c] += sums[other.group.first * width + c];
          next.group.add(other.group);
        } else {
          bool is_left = l[a].point.y > r[b].point.y;
          next = is_left ? l[a] : r[b];
          a++, b++;
        }
        count = kept(out, count, next);
        out[count++] = next;
      }
      std::copy(out, out + count, &vertices[left]);
      sizes[block / 2] = count;
    }
  };

  Index length_, width_;
  const Point *keys_, *queries_;
  const float* values_;
  Group* found_;
  double* means_;
  std::vector<Score> best_;
  Side sides_[2];  // upper, and lower with y turned round
  std::vector<int32_t> order_, sorted_;  // queries of all blocks, each in order of direction
  std::vector<double> direction_;

  int side(Index t) const { return queries_[t].y < 0; }
  Point turned(Index t) const { return {queries_[t].x, std::fabs(queries_[t].y)}; }

  auto in_order() const {
    return [this](int32_t a, int32_t b) {
      int one = side(a), other = side(b);
      return one != other ? one < other : direction_[a] < direction_[b];
    };
  }

  void offer(Index t, Score s, Group g, const double* sum, const float* value = nullptr) {
    bool is_better = !found_[t].members || s > best_[t];
    if (!is_better && !(s == best_[t])) return;
    if (is_better) found_[t] = {}, best_[t] = s;
    found_[t].add(g);
    if (!means_) return;
    double* mean = means_ + t * width_;
    for (Index c = 0; c < width_; c++)
      mean[c] = (is_better ? 0.0 : mean[c]) + (value ? double(value[c]) : sum[c]);
  }

  void scan_block(Index start, Index end) {
    double high[BASE];
    for (Index t = start; t < end; t++) {
      double qx = queries_[t].x, qy = queries_[t].y, most = -HUGE_VAL;
      Index count = t + 1 - start;
      for (Index j = 0; j < count; j++) high[j] = qx * keys_[start + j].x + qy * keys_[start + j].y;
      for (Index j = 0; j < count; j++) most = high[j] > most ? high[j] : most;
      for (Index j = 0; j < count; j++) {
        if (high[j] != most) continue;
        int32_t token = int32_t(start + j);
        const float* value = values_ ? values_ + token * width_ : nullptr;
        offer(t, score(queries_[t], keys_[token]), {token, token, 1}, nullptr, value);
      }
    }
  }

  void begin_block(Index start, Index end) {
    for (int s = 0; s < 2; s++) {
      std::vector<Vertex> all;
      for (Index t = start; t < end; t++)
        all.push_back({{keys_[t].x, s ? -keys_[t].y : keys_[t].y}, {int32_t(t), int32_t(t), 1}});
      std::sort(all.begin(), all.end(), [](const Vertex& a, const Vertex& b) {
        if (a.point.x != b.point.x) return a.point.x < b.point.x;
        if (a.point.y != b.point.y) return a.point.y > b.point.y;
        return a.group.first < b.group.first;
      });
      Side& own = sides_[s];
      Vertex* out = &own.vertices[start];
      Index count = 0;
      for (const Vertex& v : all) {
        if (count && out[count - 1].point.x == v.point.x) {
          if (out[count - 1].point.y != v.point.y) continue;
          Group& group = out[count - 1].group;
          for (Index c = 0; c < width_; c++)
            own.sums[group.first * width_ + c] += own.sums[v.group.first * width_ + c];
          group.add(v.group);
          continue;
        }
        count = kept(out, count, v);
        out[count++] = v;
      }
      own.sizes[start / BASE] = count;
    }
    for (Index t = start; t < end; t++) order_[t] = int32_t(t);
    std::sort(order_.begin() + start, order_.begin() + end, in_order());
  }

  // The queries of [middle, end) meet the keys of the block that begins at `start`.
  void answer(Index start, Index middle, Index end, Index block) {
    Index at[2] = {0, 0};
    for (Index place = middle; place < end; place++) {
      Index t = order_[place];
      Point q = turned(t);
      if (q.y == 0) continue;
      Side& own = sides_[side(t)];
      const Vertex* v = &own.vertices[start];
      Index count = own.sizes[block], i = at[side(t)];
      Score now = score(q, v[i].point), other;
      while (i + 1 < count && (other = score(q, v[i + 1].point)) > now) i++, now = other;
      while (i > 0 && !(now > (other = score(q, v[i - 1].point)))) i--, now = other;
      at[side(t)] = i;
      if (best_[t] > now) continue;
      do {
        const double* sum = means_ ? &own.sums[v[i].group.first * width_] : nullptr;
        offer(t, now, v[i].group, sum);
      } while (++i < count && score(q, v[i].point) == now);
    }
  }

  // Queries with q.y = 0 see the extremes of x, or all keys: what has come until now is enough.
  void answer_level_queries() {
    Group all{}, left{}, right{};
    float left_x = 0, right_x = 0;
    std::vector<double> sums(means_ ? 3 * width_ : 0);
    auto add = [&](Group& group, Index row, bool anew, Index t) {
      if (anew) group = {};
      group.add({int32_t(t), int32_t(t), 1});
      for (Index c = 0; c < width_; c++)
        sums[row * width_ + c] = (anew ? 0 : sums[row * width_ + c]) + values_[t * width_ + c];
    };
    for (Index t = 0; t < length_; t++) {
      float x = keys_[t].x;
      add(all, 0, !t, t);
      bool is_left = !t || x < left_x, is_right = !t || x > right_x;
      left_x = is_left ? x : left_x;
      right_x = is_right ? x : right_x;
      if (x == left_x) add(left, 1, is_left, t);
      if (x == right_x) add(right, 2, is_right, t);
      if (queries_[t].y != 0) continue;
      Index row = queries_[t].x == 0 ? 0 : queries_[t].x < 0 ? 1 : 2;
      found_[t] = row == 0 ? all : row == 1 ? left : right;
      for (Index c = 0; c < width_; c++) means_[t * width_ + c] = sums[row * width_ + c];
    }
  }

 public:
  Dyadic(Index length, const Point* keys, const Point* queries, Group* found, Index width,
         const float* values, double* means)
      : length_(length), width_(means ? width : 0), keys_(keys), queries_(queries),
        values_(means ? values : nullptr), found_(found), means_(means), best_(length),
        order_(length), sorted_(length), direction_(length) {
    for (Side& s : sides_) {
      s.vertices.resize(length);
      s.merged.resize(length);
      s.sizes.resize(length / BASE + 1);
      if (means) s.sums.assign(values, values + length * width);
    }
    for (Index t = 0; t < length; t++) {
      Point q = turned(t);
      direction_[t] = q.y == 0 ? 0 : double(q.x) / q.y;
      found_[t] = {};
    }
  }

  void run() {
    for (Index start = 0; start < length_; start += BASE) {
      Index end = std::min(start + BASE, length_);
      scan_block(start, end);
      begin_block(start, end);
    }
    for (Index size = BASE; size < length_; size *= 2) {
      Index block = 0;
      for (Index start = 0; start < length_; start += 2 * size, block += 2) {
        Index middle = start + size, end = std::min(middle + size, length_);
        if (middle >= length_) {  // nothing is to its right yet
          for (Side& s : sides_) s.sizes[block / 2] = s.sizes[block];
          continue;
        }
        answer(start, middle, end, block);
        for (Side& s : sides_) s.merge(start, middle, block, width_);
        auto left = order_.begin() + start, right = order_.begin() + middle;
        std::merge(left, right, right, order_.begin() + end, sorted_.begin() + start, in_order());
        std::copy(sorted_.begin() + start, sorted_.begin() + end, left);
      }
    }
    answer_level_queries();
    for (Index t = 0; t < length_; t++)
      for (Index c = 0; c < width_; c++) means_[t * width_ + c] /= found_[t].members;
  }
};

inline void prefill(Index length, const Point* keys, const Point* queries, Group* found,
                    Index width, const float* values, double* means) {
  Dyadic(length, keys, queries, found, width, values, means).run();
}

}  // namespace hull
