// Which block of a WKV-7 kernel does what, and how segments are put together. The kernels
// themselves are in wkv7/gpu.cu.
//
// A grid is (heads of all sequences, segments, 1) or, to summarise segments, (heads, segments, 2).
// Over a segment the state becomes S P + Z: Z is what it becomes from nothing, P what the identity
// becomes without values. The adjoint does the same from the end to the start.
#pragma once

#include "wkv7/backward.h"

namespace wkv7 {

// Tokens are cut into segments of `span`, a multiple of CHUNK.
struct Shape {
  Index B, T, H, span;

  WKV_WARP Index segments() const { return (T + span - 1) / span; }
  WKV_WARP Place place(Index column, Index segment) const {
    Index b = unsigned(column) / unsigned(H), h = column - b * H, chunks = (T + CHUNK - 1) / CHUNK;
    Index first = segment * span, rest = T - first;
    return {(b * T * H + h) * N,
            int(H * N),
            (b * chunks * H + h) * N * N,
            first,
            first + (rest < span ? rest : span),
            T};
  }
  // Of states [B * H, segments, N, N].
  WKV_WARP Index state(Index column, Index segment) const {
    return (column * segments() + segment) * N * N;
  }
  // Of summaries [2, B * H, segments, N, N]; mode FROM_ZERO first.
  WKV_WARP Index summary(Index column, Index segment, Mode mode) const {
    return (mode - FROM_ZERO) * B * H * segments() * N * N + state(column, segment);
  }
};

struct Job {
  Index column, segment;
  Mode mode;
};

// With summaries wanted, `end` is theirs; otherwise it is the state after the last segment.
template <class Math, class E, class Block>
WKV_WARP void forward_job(Block& block, ForwardShared<typename Math::Cell>& shared, Shape shape,
                          Forward<E> pass, Job job) {
  Place at = shape.place(job.column, job.segment);
  if (job.mode == GIVEN) {
    pass.start += shape.state(job.column, job.segment);
    pass.end = at.end == at.T ? pass.end + job.column * N * N : nullptr;
  } else {
    pass.end += shape.summary(job.column, job.segment, job.mode);
  }
  forward_segment<Math>(block, shared, pass, at, job.mode);
}

// Likewise; `end` is the adjoint before the first segment.
template <class Math, class E, class Block>
WKV_WARP void backward_job(Block& block, BackwardShared<typename Math::Cell>& shared, Shape shape,
                           Backward<E> pass, Job job) {
  Place at = shape.place(job.column, job.segment);
  if (job.mode == GIVEN) {
    pass.start += shape.state(job.column, job.segment);
    pass.end = at.first == 0 ? pass.end + job.column * N * N : nullptr;
  } else {
    pass.end += shape.summary(job.column, job.segment, job.mode);
  }
  backward_segment<Math>(block, shared, pass, at, job.mode);
}

// ---------------------------------------------------------------- from segment to segment

// A block has 16 rows of a state, a thread 4 neighbours of a row.
constexpr int JOIN_WARPS = 8;
constexpr int JOIN_ROWS = 16;

struct JoinOwn {
  Registers<Four, 1> x;
};

// starts[segment] from what is given and the summaries, in the order of the segments or backwards.
template <class Block>
WKV_WARP void join(Block& block, float (&rows)[JOIN_ROWS][N], Shape shape, const float* given,
                   const float* summaries, float* starts, Index column, Index group,
                   bool backwards) {
  auto each_four = [](int warp, auto f) {
    each_lane([&](int lane) { f((warp * LANES + lane) / 16, lane % 16 * 4); });
  };
  Index from = group * JOIN_ROWS * N, segments = shape.segments();
  block.phase([&](int warp, JoinOwn& own) {
    each_four(warp, [&](int row, int c) {
      own.x[0] =
          *reinterpret_cast<const Four*>(given + column * N * N + from + row * N + c);
    });
  });
  for (Index i = 0; i < segments; i++) {
    Index segment = backwards ? segments - 1 - i : i;
    block.phase([&](int warp, JoinOwn& own) {
      each_four(warp, [&](int row, int c) {
        Four x = own.x[0];
        *reinterpret_cast<Four*>(starts + shape.state(column, segment) + from + row * N + c) = x;
        for (int j = 0; j < 4; j++) rows[row][c + j] = x.x[j];
      });
    });
    if (i == segments - 1) break;
    const float* zero = summaries + shape.summary(column, segment, FROM_ZERO) + from;
    const float* transition = summaries + shape.summary(column, segment, FROM_IDENTITY);
    block.phase([&](int warp, JoinOwn& own) {
      each_four(warp, [&](int row, int c) {
        Four x = *reinterpret_cast<const Four*>(zero + row * N + c);
        WKV_UNROLL
        for (int k = 0; k < N; k++) {
          Four p = *reinterpret_cast<const Four*>(transition + k * N + c);
          for (int j = 0; j < 4; j++) x.x[j] += rows[row][k] * p.x[j];
        }
        own.x[0] = x;
      });
    });
  }
}

}  // namespace wkv7
