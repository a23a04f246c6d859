// Keys of length 1 as what they are, angles: the largest score is that of the nearest angle, a
// neighbour in a sorted set. As fp32 points 10^6 of them would not be extreme, since rounding moves
// them off the circle; as fractions of a turn all are, and comparisons are those of integers.
#pragma once

#include <algorithm>

#include "hull/cache.h"

namespace hull {

constexpr int32_t TURN = 1 << 30;  // a whole turn; angles are 0 .. TURN - 1

class Circle : public Tree<int32_t> {
  Place first() const {
    int32_t node = root().node;
    for (int level = root().levels; level; level--) node = at(node).child[0];
    return {node, 0};
  }

 public:
  using Tree<int32_t>::Tree;

  int32_t angle(Place p) const { return at(p.leaf).key[p.slot]; }
  const Group& group(Place p) const { return at(p.leaf).group[p.slot]; }

  // Adds a token's angle. Returns the first token that has this very angle.
  int32_t add(int32_t angle, int32_t token) {
    Place here{NONE, -1};
    if (!empty()) here = find(angle);
    if (here.slot < 0 || this->angle(here) != angle) here = insert(angle, 0, {});
    Group& own = at(here.leaf).group[here.slot];
    own.add({token, token, 1});
    return own.first;
  }

  // visit(group, distance) for angles from the nearest on, `most` of them; of two at one distance
  // the one that is met turning backwards comes first. Where `most` is 0, those at the smallest
  // distance. `p` is the last entry whose angle is not above, slot -1 if there is none.
  template <class Visit>
  void nearest(int32_t asked, Index most, Place p, Visit&& visit) const {
    Place back = p, ahead = p;
    if (p.slot < 0) back = find(TURN - 1), ahead = first();
    else if (!next(ahead)) ahead = first();
    auto from = [&](Place entry) { return (asked - angle(entry)) & (TURN - 1); };
    auto to = [&](Place entry) { return (angle(entry) - asked) & (TURN - 1); };
    Index left = root().size, end = most ? std::min<Index>(most, left) : left;
    int32_t least = std::min(from(back), to(ahead));
    for (Index i = 0; i < end; i++) {
      bool turns_back = from(back) <= to(ahead);
      int32_t distance = turns_back ? from(back) : to(ahead);
      if (!most && distance != least) return;
      visit(group(turns_back ? back : ahead), distance);
      if (turns_back) {
        if (!previous(back)) back = find(TURN - 1);
      } else if (!next(ahead)) {
        ahead = first();
      }
    }
  }
};

class CircleCache {
  Header& header_;
  void* nodes_;

 public:
  explicit CircleCache(void* arena) : header_(Cache(arena).header()), nodes_(&header_ + 1) {}
  Header& header() { return header_; }
  Circle circle() { return Circle(nodes_, header_.pool, header_.upper); }
  bool has_room(Index bytes) const {
    return header_.pool.used + spare(header_.upper) <= Cache::nodes_in(bytes);
  }

  int32_t add(int32_t angle) { return circle().add(angle, header_.tokens++); }
};

}  // namespace hull
