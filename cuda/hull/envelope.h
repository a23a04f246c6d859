// The upper envelope of keys that come one by one: the points on which q . k is largest for some q
// with q.y > 0, in order of x. Points on an edge stay, since they tie where q is normal to it.
#pragma once

#include "hull/tree.h"

namespace hull {

class Envelope : public Tree<float> {
  bool nested_;  // in place of its tokens an entry has another envelope: a `Root`

 public:
  Envelope(void* nodes, Pool& pool, Root& root, bool nested = false)
      : Tree(nodes, pool, root), nested_(nested) {}

  Point point(Place p) const { return {at(p.leaf).key[p.slot], at(p.leaf).y[p.slot]}; }
  Group& group(Place p) const { return at(p.leaf).group[p.slot]; }
  Root& inner(Place p) const {
    static_assert(sizeof(Root) == sizeof(Group) && alignof(Root) == alignof(Group));
    return reinterpret_cast<Root&>(group(p));
  }

  // Makes the entry of a key unless it has one, or is below the envelope and can never be found.
  enum Outcome { DROPPED, KNOWN, NEW };
  Outcome put(Point p, Place& here) {
    here = {NONE, -1};
    if (!empty()) {
      here = find(p.x);
      if (here.slot >= 0 && point(here).x == p.x) {
        float y = point(here).y;
        if (p.y < y) return DROPPED;
        if (p.y == y) return KNOWN;
        release(here);
        at(here.leaf).y[here.slot] = p.y;
        here = settle(p);
        group(here) = {};
        return NEW;
      }
      Place after = here;
      if (here.slot >= 0 && next(after) && is_below(point(here), p, point(after))) return DROPPED;
    }
    insert(p.x, p.y, {});
    here = settle(p);
    return NEW;
  }

  // The leftmost point with the largest score.
  Place best(Point q) const { return climb(q, guess(-double(q.x) / q.y)); }

  // The entry that the rounded slopes say; m is the slope of the lines of equal score.
  Place guess(double m) const {
    int32_t node = root().node;
    float f = float(m);
    for (int level = root().levels; level; level--)
      node = at(node).child[at_least_first(steeper(at(node), f))];
    return {node, at_least_first(steeper(at(node), f))};
  }

  // From a guess to the leftmost best point: a few steps, or a search that rounds nothing.
  Place climb(Point q, Place p) const {
    constexpr int MOST_STEPS = 16;
    Score now = score(q, point(p));
    for (int i = 0; i < MOST_STEPS; i++) {
      Place other = p;
      Score s;
      if (next(other) && (s = score(q, point(other))) > now) {
        p = other, now = s;
        continue;
      }
      other = p;
      if (!previous(other) || now > (s = score(q, point(other)))) return p;
      p = other, now = s;
    }
    return search(q);
  }

 private:
  // Drop what `p`, which is new, leaves below the envelope, and set the slopes beside it.
  Place settle(Point p) {
    while (true) {
      Place b = find(p.x);
      if (!next(b)) break;
      Place c = b;
      if (!next(c) || !is_below(p, point(b), point(c))) break;
      release(b);
      erase(point(b).x);
    }
    while (true) {
      Place b = find(p.x);
      if (!previous(b)) break;
      Place a = b;
      if (!previous(a) || !is_below(point(a), point(b), p)) break;
      release(b);
      erase(point(b).x);
    }
    Place here = find(p.x), other = here;
    set_slope(here, previous(other) ? slope(point(other), p) : INFINITE);
    other = here;
    if (next(other)) set_slope(other, slope(p, point(other)));
    return here;
  }

  void release(Place p) {
    if (nested_) Envelope(nodes_, pool_, inner(p)).clear();
  }

  // The last entry that is better than the one before it, by exact comparisons.
  Place search(Point q) const {
    int32_t node = root().node;
    for (int level = root().levels; level >= 0; level--) {
      int low = 0, high = at(node).count;  // the answer is in [low, high)
      while (high - low > 1) {
        int middle = (low + high) / 2;
        Place p{node, middle};
        for (int down = level; down; down--) p = {at(p.leaf).child[p.slot], 0};
        Place before = p;
        bool rises = !previous(before) || score(q, point(p)) > score(q, point(before));
        (rises ? low : high) = middle;
      }
      if (!level) return {node, low};
      node = at(node).child[low];
    }
    return {node, 0};
  }
};

}  // namespace hull
