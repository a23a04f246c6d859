// WKV-4 on the CPU: vectors of channels, threads over sequences and channel blocks, and over time
// segments where those are few. Plain C interface, called from models/ops/wkv4/cpu.py.
//
// Arrays are contiguous: k, v, y and their gradients [B, T, C] of one element type, w, u [C],
// states and adjoints [B, 3, C], checkpoints [B, ceil(T / CHUNK), 3, C], all fp32.

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/vec.h"
#include "wkv4/math.h"

namespace {

using namespace wkv;
using Index = int64_t;

constexpr Index MAX_BLOCK = 512;          // channels of one block: its tiles stay in the L2 cache
constexpr Index MIN_BLOCK = 2 * LANES;    // below this, threads share rows badly: cut time instead
constexpr Index STREAM_BYTES = 32 << 20;  // outputs from this size on bypass the cache

struct Shape {
  Index B, T, C;
  Index tiles() const { return (T + CHUNK - 1) / CHUNK; }
};

// How the work is cut. An item is one sequence, one time segment, one channel block.
struct Plan {
  Shape shape;
  Index blocks, width, segments, tiles_per_segment;
  int threads;

  Plan(Shape s, int max_threads) : shape(s) {
    Index useful = s.B * s.T * s.C / 8192 + 1;  // more threads than this cost more than they bring
    threads = int(std::min<Index>(max_threads, useful));
    Index most = std::max<Index>(1, s.C / MIN_BLOCK);
    blocks = std::min(most, std::max((s.C + MAX_BLOCK - 1) / MAX_BLOCK, (threads + s.B - 1) / s.B));
    while (blocks < most && s.B * blocks % threads != 0 && s.B * blocks < 4 * threads) blocks++;
    width = ((s.C + blocks - 1) / blocks + LANES - 1) / LANES * LANES;
    blocks = (s.C + width - 1) / width;
    segments = std::min((threads + s.B * blocks - 1) / (s.B * blocks), (s.tiles() + 7) / 8);
    tiles_per_segment = (s.tiles() + segments - 1) / segments;
    segments = (s.tiles() + tiles_per_segment - 1) / tiles_per_segment;
  }

  template <class Work>  // work(sequence, segment, first channel, end channel)
  void run(Work work) const {
    Index items = shape.B * segments * blocks;
#pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
      for (Index i = 0; i < items; i++) {
        Index block = i % blocks, segment = i / blocks % segments, b = i / blocks / segments;
        work(b, segment, block * width, std::min(shape.C, (block + 1) * width));
      }
    }
  }
};

// One vector of channels of one tile. `count` < LANES only where C ends.
template <class E, bool WHOLE>
struct Lanes {
  Index stride;
  int count;
  bool streamed;

  vec read(const E* p, int t) const {
    if constexpr (WHOLE) return load(p + t * stride);
    return load(p + t * stride, count);
  }
  void write(E* p, int t, vec x) const {
    if constexpr (!WHOLE)
      store(p + t * stride, x, count);
    else if (streamed)
      stream(p + t * stride, x);
    else
      store(p + t * stride, x);
  }
};

template <class E, bool WHOLE>
struct ForwardTile : Lanes<E, WHOLE> {
  const E *k_, *v_;
  E* y_;
  Index ahead;  // elements to the next tile

  vec k(int t) const {
    __builtin_prefetch(k_ + t * this->stride + ahead, 0, 2);
    return this->read(k_, t);
  }
  vec v(int t) const {
    __builtin_prefetch(v_ + t * this->stride + ahead, 0, 2);
    return this->read(v_, t);
  }
  void y(int t, vec x) const { this->write(y_, t, x); }
};

template <class E, bool WHOLE>
struct BackwardTile : Lanes<E, WHOLE> {
  const E *k_, *v_, *grad_;
  E *gk_, *gv_;
  Index ahead;  // elements to the tile before

  vec k(int t) const { return this->read(k_, t); }
  vec v(int t) const { return this->read(v_, t); }
  vec grad(int t) const {
    __builtin_prefetch(k_ + t * this->stride - ahead, 0, 2);
    __builtin_prefetch(v_ + t * this->stride - ahead, 0, 2);
    __builtin_prefetch(grad_ + t * this->stride - ahead, 0, 2);
    return this->read(grad_, t);
  }
  void gk(int t, vec x) const { this->write(gk_, t, x); }
  void gv(int t, vec x) const { this->write(gv_, t, x); }
};

// Rows of C floats holding scaled sums, at channel c: a state, an adjoint, a checkpoint.
Sums<vec> get(const float* rows, Index C, Index c, int count) {
  return {load(rows + c, count), load(rows + C + c, count), load(rows + 2 * C + c, count)};
}
void put(float* rows, Index C, Index c, int count, Sums<vec> s) {
  store(rows + c, s.a, count);
  store(rows + C + c, s.b, count);
  store(rows + 2 * C + c, s.p, count);
}

const Sums<vec> NOTHING = {vec{}, vec{}, vec{} + EMPTY};

// Calls body(std::true_type or std::false_type for a whole vector, channel, lanes).
template <class Body>
void each_vector(Index from, Index to, Body body) {
  Index c = from;
  for (; c + LANES <= to; c += LANES) body(std::true_type{}, c, LANES);
  if (c < to) body(std::false_type{}, c, int(to - c));
}

// Constants of every vector of channels.
std::vector<Channel<vec>> constants(const float* w, const float* u, Shape s) {
  std::vector<Channel<vec>> all;
  each_vector(0, s.C, [&](auto, Index c, int count) {
    vec decay = max_(vec{} + FASTEST, load(w + c, count)), minus_one{};
    for (int i = 0; i < count; i++) minus_one[i] = std::expm1(CHUNK * decay[i]);
    all.push_back(channel(decay, load(u + c, count), minus_one, CHUNK));
  });
  return all;
}

bool aligned(const void* p, Index C) {
  return (reinterpret_cast<uintptr_t>(p) | (C * sizeof(float))) % (LANES * sizeof(float)) == 0;
}

template <class E>
void forward(Shape s, const float* w, const float* u, const E* k, const E* v, const float* state,
             E* y, float* state_out, float* checkpoints, int max_threads) {
  Plan plan(s, max_threads);
  std::vector<Channel<vec>> channels = constants(w, u, s);
  bool streamed = aligned(y, s.C) && Index(s.B * s.T * s.C * sizeof(E)) >= STREAM_BYTES;
  // Start of every segment, and its running maximum: [B, segments, 3 or 1, C].
  std::vector<float> starts(s.B * plan.segments * 3 * s.C), tops(s.B * plan.segments * s.C);
  struct Carry {
    Sums<vec> s;
    vec top;
  };

  // Walk a segment's tiles; without output only its last state counts.
  auto walk = [&](auto output, Index b, Index segment, Index from, Index to, auto begin, auto end) {
    constexpr bool OUTPUT = decltype(output)::value;
    std::vector<Carry> carry((to - from + LANES - 1) / LANES);
    each_vector(from, to, [&](auto, Index c, int count) {
      carry[(c - from) / LANES] = begin(c, count);
    });
    Index last = std::min(s.tiles(), (segment + 1) * plan.tiles_per_segment);
    for (Index tile = segment * plan.tiles_per_segment; tile < last; tile++) {
      Index t = tile * CHUNK, offset = (b * s.T + t) * s.C;
      int n = int(std::min<Index>(CHUNK, s.T - t));
      Index ahead = t + CHUNK < s.T ? CHUNK * s.C : 0;
      each_vector(from, to, [&](auto whole, Index c, int count) {
        Carry& now = carry[(c - from) / LANES];
        if (OUTPUT && checkpoints)
          put(checkpoints + (b * s.tiles() + tile) * 3 * s.C, s.C, c, count, now.s);
        ForwardTile<E, decltype(whole)::value> io{
            {s.C, count, streamed}, k + offset + c, v + offset + c, y + offset + c, ahead};
        forward_tile<OUTPUT>(io, n, channels[c / LANES], now.s, now.top);
      });
    }
    each_vector(from, to, [&](auto, Index c, int count) {
      end(c, count, carry[(c - from) / LANES]);
    });
  };

  if (plan.segments > 1) {
    plan.run([&](Index b, Index segment, Index from, Index to) {
      float* rows = &starts[(b * plan.segments + segment) * 3 * s.C];
      float* top = &tops[(b * plan.segments + segment) * s.C];
      auto begin = [&](Index, int) { return Carry{NOTHING, NOTHING.p}; };
      auto end = [&](Index c, int count, Carry x) {
        put(rows, s.C, c, count, x.s);
        store(top + c, x.top, count);
      };
      if (segment + 1 < plan.segments) walk(std::false_type{}, b, segment, from, to, begin, end);
    });
  }
  for (Index b = 0; b < s.B; b++) {  // what comes before each segment
    each_vector(0, s.C, [&](auto, Index c, int count) {
      Sums<vec> sum = get(state + b * 3 * s.C, s.C, c, count);
      vec top = sum.p, decay = load(w + c, count) * float(plan.tiles_per_segment * CHUNK);
      for (Index segment = 0; segment < plan.segments; segment++) {
        float* rows = &starts[(b * plan.segments + segment) * 3 * s.C];
        float* row = &tops[(b * plan.segments + segment) * s.C + c];
        Sums<vec> here = get(rows, s.C, c, count);
        vec peak = load(row, count);
        put(rows, s.C, c, count, sum);
        store(row, top, count);
        sum = combine(sum, here, decay);
        top = max_(top + decay, peak);
      }
    });
  }
  plan.run([&](Index b, Index segment, Index from, Index to) {
    const float* rows = &starts[(b * plan.segments + segment) * 3 * s.C];
    const float* top = &tops[(b * plan.segments + segment) * s.C];
    auto begin = [&](Index c, int count) {
      return Carry{get(rows, s.C, c, count), load(top + c, count)};
    };
    auto end = [&](Index c, int count, Carry x) {
      if (segment + 1 == plan.segments)
        put(state_out + b * 3 * s.C, s.C, c, count, rescale(x.s, x.top));
    };
    walk(std::true_type{}, b, segment, from, to, begin, end);
  });
}

template <class E>
void backward(Shape s, const float* w, const float* u, const E* k, const E* v,
              const float* checkpoints, const float* adjoint, const E* grad_y, float* gw, float* gu,
              E* gk, E* gv, float* adjoint_in, int max_threads) {
  Plan plan(s, max_threads);
  std::vector<Channel<vec>> channels = constants(w, u, s);
  bool streamed =
      aligned(gk, s.C) && aligned(gv, s.C) && Index(s.B * s.T * s.C * sizeof(E)) >= STREAM_BYTES;
  std::vector<float> ends(s.B * plan.segments * 3 * s.C);         // adjoints after each segment
  std::vector<double> partial(s.B * plan.segments * 2 * s.C);     // its sums for w and u
  struct Carry {
    Sums<vec> adj;
    Gradients<vec> g;
  };

  auto walk = [&](auto output, Index b, Index segment, Index from, Index to, auto begin, auto end) {
    constexpr bool OUTPUT = decltype(output)::value;
    std::vector<Carry> carry((to - from + LANES - 1) / LANES);
    Tape<vec, CHUNK> tape;
    each_vector(from, to, [&](auto, Index c, int count) {
      carry[(c - from) / LANES] = Carry{begin(c, count), {}};
    });
    Index first = segment * plan.tiles_per_segment;
    for (Index tile = std::min(s.tiles(), first + plan.tiles_per_segment); tile-- > first;) {
      Index t = tile * CHUNK, offset = (b * s.T + t) * s.C;
      int n = int(std::min<Index>(CHUNK, s.T - t));
      Index ahead = tile > 0 ? CHUNK * s.C : 0;
      each_vector(from, to, [&](auto whole, Index c, int count) {
        Carry& now = carry[(c - from) / LANES];
        Sums<vec> start = get(checkpoints + (b * s.tiles() + tile) * 3 * s.C, s.C, c, count);
        Index at = offset + c;
        BackwardTile<E, decltype(whole)::value> io{
            {s.C, count, streamed}, k + at, v + at, grad_y + at, gk + at, gv + at, ahead};
        const Channel<vec>& channel = channels[c / LANES];
        if constexpr (OUTPUT)
          backward_tile(io, n, channel, start, now.adj, now.g, tape);
        else
          now.adj = combine(now.adj, adjoint_tile(io, n, channel, start), channel.w * float(n));
      });
    }
    each_vector(from, to, [&](auto, Index c, int count) {
      end(c, count, carry[(c - from) / LANES]);
    });
  };

  if (plan.segments > 1) {
    plan.run([&](Index b, Index segment, Index from, Index to) {
      float* rows = &ends[(b * plan.segments + segment) * 3 * s.C];
      auto begin = [&](Index, int) { return NOTHING; };
      auto end = [&](Index c, int count, Carry x) { put(rows, s.C, c, count, x.adj); };
      if (segment > 0) walk(std::false_type{}, b, segment, from, to, begin, end);
    });
  }
  for (Index b = 0; b < s.B; b++) {
    each_vector(0, s.C, [&](auto, Index c, int count) {
      Sums<vec> sum = get(adjoint + b * 3 * s.C, s.C, c, count);
      for (Index segment = plan.segments; segment-- > 0;) {
        Index first = segment * plan.tiles_per_segment * CHUNK;
        Index tokens = std::min(s.T - first, plan.tiles_per_segment * CHUNK);
        float* rows = &ends[(b * plan.segments + segment) * 3 * s.C];
        Sums<vec> here = get(rows, s.C, c, count);
        put(rows, s.C, c, count, sum);
        sum = combine(sum, here, load(w + c, count) * float(tokens));
      }
    });
  }
  plan.run([&](Index b, Index segment, Index from, Index to) {
    const float* rows = &ends[(b * plan.segments + segment) * 3 * s.C];
    double* sums = &partial[(b * plan.segments + segment) * 2 * s.C];
    auto begin = [&](Index c, int count) { return get(rows, s.C, c, count); };
    auto end = [&](Index c, int count, Carry x) {
      for (int i = 0; i < count; i++) {
        sums[c + i] = double(x.g.w.sum[i]) + x.g.w.rest[i];
        sums[s.C + c + i] = double(x.g.u.sum[i]) + x.g.u.rest[i];
      }
      if (segment == 0) put(adjoint_in + b * 3 * s.C, s.C, c, count, x.adj);
    };
    walk(std::true_type{}, b, segment, from, to, begin, end);
  });
  for (Index c = 0; c < s.C; c++) {  // in a fixed order: the result does not depend on threads
    double sum_w = 0, sum_u = 0;
    for (Index i = 0; i < s.B * plan.segments; i++) {
      sum_w += partial[i * 2 * s.C + c];
      sum_u += partial[(i * 2 + 1) * s.C + c];
    }
    gw[c] = float(sum_w);
    gu[c] = float(sum_u);
  }
}

}  // namespace

#define WKV4(NAME, E)                                                                              \
  void wkv4_forward_##NAME(Index B, Index T, Index C, const float* w, const float* u, const E* k,  \
                           const E* v, const float* state, E* y, float* state_out,                 \
                           float* checkpoints, int threads) {                                      \
    forward({B, T, C}, w, u, k, v, state, y, state_out, checkpoints, threads);                     \
  }                                                                                                \
  void wkv4_backward_##NAME(Index B, Index T, Index C, const float* w, const float* u, const E* k, \
                            const E* v, const float* checkpoints, const float* adjoint,            \
                            const E* grad_y, float* gw, float* gu, E* gk, E* gv,                   \
                            float* adjoint_in, int threads) {                                      \
    backward({B, T, C}, w, u, k, v, checkpoints, adjoint, grad_y, gw, gu, gk, gv, adjoint_in,      \
             threads);                                                                             \
  }

extern "C" {
WKV4(float32, float)
WKV4(bfloat16, bf16)
WKV4(float16, fp16)
}
