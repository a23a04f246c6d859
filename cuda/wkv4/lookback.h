// How blocks of the GPU scan divide the work and hand each other what precedes them. Part of
// wkv4/scan.h, which see.
#pragma once

#include "gpu/pair.h"
#include "wkv4/math.h"

namespace wkv {

using Index = long long;

constexpr int LANES = 32;                // of a warp
constexpr int COLUMN = 2 * LANES;        // channels of a block
constexpr int WARPS = 8;                 // of a block, one behind the other in time
constexpr int SEGMENT = WARPS * CHUNK;   // tokens of a block
constexpr int GROUP = 16;                // segments between two full prefixes
constexpr int BATCH = 4;                 // summaries read at once

// A segment's sums and the running maximum of its keys.
struct Summary {
  Sums<Pair> sums;
  Pair top;
};

WKV_HD Summary nothing() { return {empty<Pair>(), Pair{EMPTY, EMPTY}}; }

WKV_HD Summary combine(Summary l, Summary r, Pair decay) {
  return {combine(l.sums, r.sums, decay), max_(l.top + decay, r.top)};
}

// Memory through which blocks talk. Zeroed before every launch.
struct Board {
  unsigned* ticket;      // next place in line
  unsigned* posted;      // [columns, segments] summary of a segment is there
  unsigned* totalled;    // [columns, groups] everything up to the end of a group is there
  Pair* summaries;       // [columns, segments, 4, LANES]
  Pair* totals;          // [columns, groups, 4, LANES]
};

// Values visible to the threads of one block.
struct Shared {
  unsigned ticket;
  Summary own[WARPS][LANES];   // of every warp's tile
  Summary before[LANES];       // of all segments earlier in the scan
  Gradients<Pair> gradients[WARPS][LANES];
};

struct Shape {
  Index B, T, C;
  WKV_HD Index columns() const { return (C + COLUMN - 1) / COLUMN; }    // of one sequence
  WKV_HD Index segments() const { return (T + SEGMENT - 1) / SEGMENT; }
  WKV_HD Index groups() const { return (segments() + GROUP - 1) / GROUP; }
  WKV_HD Index tiles() const { return (T + CHUNK - 1) / CHUNK; }
};

WKV_HD int clamp(Index n, int most) { return n < 0 ? 0 : n > most ? most : int(n); }

// Where a thread works. `order` counts segments in the direction of the scan, `segment` in time.
struct Place {
  Shape shape;
  Index column, order, segment, b, channel;
  int lane, count;  // `count` of the two channels from `channel` on exist

  WKV_HD Place(Shape s, unsigned ticket, int lane, bool backward) : shape(s), lane(lane) {
    Index all = s.B * s.columns();
    column = ticket % all;
    order = ticket / all;
    segment = backward ? s.segments() - 1 - order : order;
    b = column / s.columns();
    channel = column % s.columns() * COLUMN + 2 * lane;
    count = clamp(s.C - channel, 2);
  }
  // Tokens of segment number `i` in time, of its warp's tile.
  WKV_HD int tokens(Index i) const { return clamp(shape.T - i * SEGMENT, SEGMENT); }
  WKV_HD int tile_tokens(int warp) const {
    return clamp(shape.T - segment * SEGMENT - warp * CHUNK, CHUNK);
  }
  WKV_HD Index token(int warp) const { return segment * SEGMENT + warp * CHUNK; }
  WKV_HD Index tile(int warp) const { return segment * WARPS + warp; }
};

template <class E>
WKV_HD bool aligned(const void* a, const void* b, const void* c) {
  using Address = unsigned long long;
  return ((Address)(a) | (Address)(b) | (Address)(c)) % (2 * sizeof(E)) == 0;
}

WKV_HD void wait_for(const unsigned* flags, int count, int lane);  // until all are raised
WKV_HD void raise(unsigned* flag, int lane);                       // after what all lanes wrote

WKV_HD void post(Pair* slots, const Summary& x, int lane) {
  slots[0 * LANES + lane] = x.sums.a;
  slots[1 * LANES + lane] = x.sums.b;
  slots[2 * LANES + lane] = x.sums.p;
  slots[3 * LANES + lane] = x.top;
}
WKV_HD Summary read(const Pair* slots, int lane) {
  return {{slots[0 * LANES + lane], slots[1 * LANES + lane], slots[2 * LANES + lane]},
          slots[3 * LANES + lane]};
}

// ---------------------------------------------------------------- the scan over segments

// Publishes a segment's summary and returns, in `shared.before`, what precedes it; `first` precedes
// all. Run by the first warp. At the end of the scan, `finish(everything)`.
template <class Finish>
WKV_HD void look_back(const Place& at, const Board& board, Shared& shared, Pair w, Summary first,
                      bool backward, Finish finish) {
  Shape s = at.shape;
  int lane = at.lane;
  auto length = [&](Index order) {
    return float(at.tokens(backward ? s.segments() - 1 - order : order));
  };
  // This segment, its warps in the direction of the scan.
  Summary mine = nothing();
  WKV_ROLLED
  for (int i = 0; i < WARPS; i++) {
    int warp = backward ? WARPS - 1 - i : i;
    mine = combine(mine, shared.own[warp][lane], w * float(at.tile_tokens(warp)));
  }
  Index slot = at.column * s.segments(), group = at.order / GROUP, group_slot = at.column * s.groups();
  post(board.summaries + (slot + at.order) * 4 * LANES, mine, lane);
  raise(board.posted + slot + at.order, lane);
  // The earlier segments of the group, a few loads under way at once; then all before the group.
  Index start = group * GROUP;
  int count = int(at.order - start);
  wait_for(board.posted + slot + start, count, lane);
  Summary near = nothing();
  float tokens = 0;
  WKV_ROLLED
  for (int i = 0; i < count; i += BATCH) {
    Summary batch[BATCH];
    for (int j = 0; j < BATCH; j++)
      if (i + j < count) batch[j] = read(board.summaries + (slot + start + i + j) * 4 * LANES, lane);
    for (int j = 0; j < BATCH; j++)
      if (i + j < count) {
        float length_j = length(start + i + j);
        near = combine(near, batch[j], w * length_j);
        tokens += length_j;
      }
  }
  Summary far = first;
  if (group > 0) {
    wait_for(board.totalled + group_slot + group - 1, 1, lane);
    far = read(board.totals + (group_slot + group - 1) * 4 * LANES, lane);
  }
  Summary before = combine(far, near, w * tokens);
  shared.before[lane] = before;
  Summary all = combine(before, mine, w * length(at.order));
  if (at.order + 1 == s.segments()) {
    finish(all);
  } else if (at.order % GROUP == GROUP - 1) {
    post(board.totals + (group_slot + group) * 4 * LANES, all, lane);
    raise(board.totalled + group_slot + group, lane);
  }
}

// What precedes a warp's tile in the direction of the scan.
WKV_HD Summary before_warp(const Place& at, const Shared& shared, Pair w, int warp, bool backward) {
  Summary sum = shared.before[at.lane];
  WKV_ROLLED
  for (int i = 0; i < WARPS; i++) {
    int other = backward ? WARPS - 1 - i : i;
    if (other == warp) break;
    sum = combine(sum, shared.own[other][at.lane], w * float(at.tile_tokens(other)));
  }
  return sum;
}

}  // namespace wkv
