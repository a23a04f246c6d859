// Addresses as fp32 keys, exact up to 2^24. The key of address j on one parabola, (2 j, -j^2), is a
// pair of fp32 numbers only up to 4,096; so its bits are split over two keys, (2 h, -h^2) and
// (2 l, -l^2), j = 4096 h + l. The first decides; among keys that tie in it the second does.
#pragma once

#include "hull/cache.h"

namespace hull {

constexpr int LOW_BITS = 12;
constexpr int32_t LOW = (1 << LOW_BITS) - 1, MOST_ADDRESSES = 1 << (2 * LOW_BITS);

inline Point parabola(int32_t i) { return {2.0f * i, -float(i) * i}; }

// Pairs of keys, for pairs of queries with q.y > 0: an envelope whose entries have envelopes.
class PairCache {
  Header& header_;
  void* nodes_;

 public:
  explicit PairCache(void* arena) : header_(Cache(arena).header()), nodes_(&header_ + 1) {}
  Header& header() { return header_; }
  bool has_room(Index bytes) const {
    constexpr Index inner = 5;  // levels of an envelope of 4,096 entries, at most
    return header_.pool.used + spare(header_.upper) + inner + 2 <= Cache::nodes_in(bytes);
  }
  Envelope outer() { return Envelope(nodes_, header_.pool, header_.upper, true); }
  Envelope inner(Place p) { return Envelope(nodes_, header_.pool, outer().inner(p)); }

  void add(Point high, Point low) {
    int32_t token = header_.tokens++;
    Place here;
    Envelope::Outcome outcome = outer().put(high, here);
    if (outcome == Envelope::DROPPED) return;
    if (outcome == Envelope::NEW) outer().inner(here) = {NONE, 0, 0};
    Envelope below = inner(here);
    Place there;
    if (below.put(low, there) != Envelope::DROPPED) below.group(there).add({token, token, 1});
  }

  // visit(group) for the best pairs; `p` is the leftmost best entry for the first query, `guess`
  // what rounded slopes say in its own envelope.
  template <class Visit>
  void query(Point high, Point low, Place p, Place guess, Visit&& visit) {
    Envelope side = outer();
    Score best = score(high, side.point(p)), second{-HUGE_VAL, 0};
    Group found{};
    bool is_first = true;
    do {  // nearly always one entry
      Envelope below = inner(p);
      Place there = is_first ? below.climb(low, guess) : below.best(low);
      is_first = false;
      Score s = score(low, below.point(there));
      if (s > second) second = s, found = {};
      if (s == second)
        Cache::visit_ties(below, low, there, [&](Group g, int) { found.add(g); });
    } while (side.next(p) && score(high, side.point(p)) == best);
    visit(found);
  }
};

}  // namespace hull
