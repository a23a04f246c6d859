// A B+-tree in memory that the caller owns: nodes are numbered, never pointed to, so a copy of the
// bytes is a copy of the tree. Entries are ordered by `key`; beside it each has the slope of the
// edge that enters it, so that an envelope is searched by place and by direction.
#pragma once

#include <cstring>
#include <limits>

#include "hull/exact.h"

namespace hull {

constexpr int ROOM = 32;       // entries of a node
constexpr int MOST_LEVELS = 16;
constexpr int32_t NONE = -1;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Above every key.
template <class Key>
constexpr Key beyond() {
  using Limits = std::numeric_limits<Key>;
  return Limits::has_infinity ? Limits::infinity() : Limits::max();
}

// How many of a node's entries hold: lanes side by side, all of them, without a branch.
template <class T, class Holds>
inline int count_of(const T* entries, Holds holds) {
  typedef T Lanes __attribute__((vector_size(64)));
  typedef int32_t Yes __attribute__((vector_size(64)));
  static_assert(sizeof(T) == sizeof(int32_t) && ROOM == 2 * sizeof(Lanes) / sizeof(T));
  const Lanes* lanes = (const Lanes*)entries;
  Yes both = (Yes)holds(lanes[0]) + (Yes)holds(lanes[1]);  // -1 where it holds
  int found = 0;
  for (int i = 0; i < 16; i++) found -= both[i];
  return found;
}

template <class Key>
struct alignas(128) Node {
  float slope[ROOM];  // of the edge to this entry from the one before; +inf: there is none
  Key key[ROOM];
  union {
    float y[ROOM];        // of a leaf
    int32_t child[ROOM];  // of an inner node, with the key and the slope of its first entry
  };
  Group group[ROOM];
  int32_t count, previous, next;  // leaves are a list

  void clear(int from) {  // room reads as "beyond every search"
    for (int i = from; i < ROOM; i++) {
      slope[i] = -INFINITE;
      key[i] = beyond<Key>();
    }
  }
  // Move the entries from `from` on by one.
  void open(int from) { move(*this, from, from + 1, count - from), count++; }
  void close(int at) {
    move(*this, at + 1, at, count - at - 1);
    clear(--count);
  }
  void move(Node& to, int from, int place, int number) const {
    if (number <= 0) return;
    std::memmove(to.slope + place, slope + from, number * sizeof(float));
    std::memmove(to.key + place, key + from, number * sizeof(Key));
    std::memmove(to.child + place, child + from, number * sizeof(int32_t));
    std::memmove(to.group + place, group + from, number * sizeof(Group));
  }
};

// Nodes of one arena, those that were freed first.
struct Pool {
  int32_t used, freed;
};

struct Root {
  int32_t node, levels, size;  // levels above the leaves, entries
};

struct Place {
  int32_t leaf, slot;  // slot -1: before the first entry of all
};

template <class Key>
class Tree {
  using N = Node<Key>;

 protected:
  N* nodes_;
  Pool& pool_;
  Root& root_;

 public:
  Tree(void* nodes, Pool& pool, Root& root) : nodes_((N*)nodes), pool_(pool), root_(root) {}

  N& at(int32_t node) const { return nodes_[node]; }
  bool empty() const { return root_.size == 0; }
  const Root& root() const { return root_; }

  static int not_above(const N& n, Key key) {
    return count_of(n.key, [key](auto x) { return x <= key; });
  }
  static int steeper(const N& n, float m) {
    return count_of(n.slope, [m](auto x) { return x > m; });
  }
  static int at_least_first(int found) { return found > 0 ? found - 1 : 0; }

  // The last entry whose key is not above.
  Place find(Key key) const {
    int32_t node = root_.node;
    for (int level = root_.levels; level; level--)
      node = at(node).child[at_least_first(not_above(at(node), key))];
    return {node, not_above(at(node), key) - 1};
  }
  bool next(Place& p) const {
    const N& n = at(p.leaf);  // whose count is a line of memory that nothing else here needs
    if (p.slot + 1 < ROOM && n.key[p.slot + 1] != beyond<Key>()) return ++p.slot, true;
    if (at(p.leaf).next == NONE) return false;
    p = {at(p.leaf).next, 0};
    return true;
  }
  bool previous(Place& p) const {
    if (p.slot > 0) return --p.slot, true;
    if (at(p.leaf).previous == NONE) return false;
    p.leaf = at(p.leaf).previous;
    p.slot = at(p.leaf).count - 1;
    return true;
  }

  // A new entry, whose key no other has. Its place.
  Place insert(Key key, float y, Group group) {
    if (empty()) root_ = {take(), 0, 0};
    if (at(root_.node).count == ROOM) {  // a new root above the old one
      int32_t above = take();
      N& n = at(above);
      n.count = 1;
      n.child[0] = root_.node;
      copy_first(n, 0);
      root_.node = above;
      root_.levels++;
      split(n, 0, root_.levels == 1);
    }
    int32_t path[MOST_LEVELS], slots[MOST_LEVELS], node = root_.node;
    for (int level = root_.levels; level; level--) {
      int slot = at_least_first(not_above(at(node), key));
      if (at(at(node).child[slot]).count == ROOM) {
        split(at(node), slot, level == 1);
        if (at(node).key[slot + 1] <= key) slot++;
      }
      path[level] = node, slots[level] = slot;
      node = at(node).child[slot];
    }
    N& leaf = at(node);
    int slot = not_above(leaf, key);
    leaf.open(slot);
    leaf.key[slot] = key;
    leaf.y[slot] = y;
    leaf.group[slot] = group;
    leaf.slope[slot] = INFINITE;
    root_.size++;
    refresh(path, slots);
    return {node, slot};
  }

  void erase(Key key) {
    int32_t path[MOST_LEVELS], slots[MOST_LEVELS], node = descend(key, path, slots);
    at(node).close(not_above(at(node), key) - 1);
    root_.size--;
    for (int level = 1; level <= root_.levels && !at(node).count; level++) {  // nothing is left
      N& n = at(node);
      if (level == 1) {
        if (n.previous != NONE) at(n.previous).next = n.next;
        if (n.next != NONE) at(n.next).previous = n.previous;
      }
      give(node);
      node = path[level];
      at(node).close(slots[level]);
    }
    if (!root_.size) return give(root_.node);
    while (root_.levels && at(root_.node).count == 1) {
      int32_t only = at(root_.node).child[0];
      give(root_.node);
      root_.node = only;
      root_.levels--;
    }
    descend(key, path, slots);
    refresh(path, slots);
  }

  void set_slope(Place p, float value) {
    at(p.leaf).slope[p.slot] = value;
    if (p.slot) return;
    int32_t path[MOST_LEVELS], slots[MOST_LEVELS];
    descend(at(p.leaf).key[0], path, slots);
    refresh(path, slots);
  }

  // Give all nodes back.
  void clear() {
    if (!empty()) clear(root_.node, root_.levels);
    root_ = {NONE, 0, 0};
  }

 private:
  void clear(int32_t node, int levels) {
    for (int i = 0; levels && i < at(node).count; i++) clear(at(node).child[i], levels - 1);
    give(node);
  }
  int32_t take() {
    int32_t node = pool_.freed;
    if (node != NONE) pool_.freed = at(node).next;
    else node = pool_.used++;
    N& n = at(node);
    n.count = 0;
    n.previous = n.next = NONE;
    n.clear(0);
    return node;
  }
  void give(int32_t node) {
    at(node).next = pool_.freed;
    pool_.freed = node;
  }
  int32_t descend(Key key, int32_t* path, int32_t* slots) const {
    int32_t node = root_.node;
    for (int level = root_.levels; level; level--) {
      path[level] = node;
      slots[level] = at_least_first(not_above(at(node), key));
      node = at(node).child[slots[level]];
    }
    return node;
  }
  void copy_first(N& n, int slot) const {
    n.key[slot] = at(n.child[slot]).key[0];
    n.slope[slot] = at(n.child[slot]).slope[0];
  }
  void refresh(const int32_t* path, const int32_t* slots) {
    for (int level = 1; level <= root_.levels; level++) copy_first(at(path[level]), slots[level]);
  }
  // Halve a full child; the parent has room.
  void split(N& parent, int slot, bool is_leaf) {
    int32_t left = parent.child[slot], right = take();
    N &l = at(left), &r = at(right);
    l.move(r, ROOM / 2, 0, ROOM / 2);
    l.count = r.count = ROOM / 2;
    l.clear(ROOM / 2);
    if (is_leaf) {
      r.previous = left;
      r.next = l.next;
      if (l.next != NONE) at(l.next).previous = right;
      l.next = right;
    }
    parent.open(slot + 1);
    parent.child[slot + 1] = right;
    copy_first(parent, slot + 1);
  }
};

}  // namespace hull
