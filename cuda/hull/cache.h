// The keys of one head as two envelopes, in an arena that the caller owns.
#pragma once

#include <cstddef>

#include "hull/envelope.h"

namespace hull {

// What begins an arena; nodes follow. All of it zero is an arena without keys.
struct alignas(128) Header {
  Pool pool;
  Root upper, lower;
  float left_x, right_x;     // the extremes of x, where q.y = 0
  Group left, right, all;
  int32_t tokens;
};
static_assert(offsetof(Header, tokens) == 19 * sizeof(int32_t));  // as models/ops/hull/cpu.py reads

// Nodes that one more entry may need: a half of each node on its way, and a new root.
inline Index spare(const Root& root) { return root.levels + 2; }

class Cache {
  Header& header_;
  void* nodes_;

 public:
  explicit Cache(void* arena) : header_(*(Header*)arena), nodes_((Header*)arena + 1) {
    if (!header_.tokens) {
      header_ = {};
      header_.pool.freed = header_.upper.node = header_.lower.node = NONE;
    }
  }
  Header& header() { return header_; }
  Envelope upper() { return Envelope(nodes_, header_.pool, header_.upper); }
  Envelope lower() { return Envelope(nodes_, header_.pool, header_.lower); }

  static Index nodes_in(Index bytes) {
    return (bytes - Index(sizeof(Header))) / Index(sizeof(Node<float>));
  }
  bool has_room(Index bytes) const {
    return header_.pool.used + spare(header_.upper) + spare(header_.lower) <= nodes_in(bytes);
  }

  // Adds the key of the next token. Returns the first token with the same key, this one if none
  // has it, or NONE if no query other than one with q.y = 0 can find it.
  int32_t add(Point k) {
    int32_t token = header_.tokens++;
    Group one{token, token, 1};
    if (!token || k.x < header_.left_x) header_.left_x = k.x, header_.left = {};
    if (!token || k.x > header_.right_x) header_.right_x = k.x, header_.right = {};
    if (k.x == header_.left_x) header_.left.add(one);
    if (k.x == header_.right_x) header_.right.add(one);
    header_.all.add(one);
    int32_t above = put(upper(), k, one), below = put(lower(), {k.x, -k.y}, one);
    return above != NONE ? above : below;
  }

  // visit(group, place) for the keys with the largest score; place says which group: ALL, LEFT,
  // RIGHT, or NONE for those that share one key.
  enum Which { ALL = 0, LEFT = 1, RIGHT = 2 };
  template <class Visit>
  void query(Point q, Visit&& visit) {
    if (q.y == 0) {
      if (q.x == 0) visit(header_.all, ALL);
      else if (q.x > 0) visit(header_.right, RIGHT);
      else visit(header_.left, LEFT);
      return;
    }
    Envelope side = q.y > 0 ? upper() : lower();
    Point turned{q.x, std::fabs(q.y)};
    visit_ties(side, turned, side.best(turned), visit);
  }
  template <class Visit>
  static void visit_ties(const Envelope& side, Point q, Place p, Visit&& visit) {
    Score best = score(q, side.point(p));
    do {
      visit(side.group(p), NONE);
    } while (side.next(p) && score(q, side.point(p)) == best);
  }

 private:
  static int32_t put(Envelope side, Point k, Group one) {
    Place here;
    if (side.put(k, here) == Envelope::DROPPED) return NONE;
    side.group(here).add(one);
    return side.group(here).first;
  }
};

}  // namespace hull
