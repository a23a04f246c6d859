// WKV-5 and WKV-6 on the CPU: threads over sequences and heads, and over time segments where those
// are few; within a head, tiles of the state in registers. Plain C interface, called from
// models/ops/wkv6/cpu.py.
//
// Arrays are contiguous: r, k, v, y and their gradients [B, T, H, N] of one element type; w the same
// shape, or [H, N] where `constant`; u [H, N], states and adjoints [B, H, N, N] and checkpoints
// [B, H, ceil(T / CHUNK), N, N], all fp32.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "wkv6/cpu_chunk.h"

namespace {

using namespace wkv6;

// How the work is cut. An item is one head of one sequence (numbered b H + h), one time segment.
struct Plan {
  Index heads, segments, chunks_per_segment;
  int threads;

  Plan(Shape s, int max_threads) : heads(s.B * s.H) {
    Index useful = s.T * heads * s.N * s.N / 131072 + 1;  // more threads cost more than they bring
    threads = int(std::min<Index>(max_threads, useful));
    segments = std::min((threads + heads - 1) / heads, (s.chunks() + 7) / 8);
    chunks_per_segment = (s.chunks() + segments - 1) / segments;
    segments = (s.chunks() + chunks_per_segment - 1) / chunks_per_segment;
  }

  template <class Work>  // work(head, segment)
  void run(Work work) const {
#pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
      for (Index i = 0; i < heads * segments; i++) work(i / segments, i % segments);
    }
  }
};

// What comes before each segment of each head: [B H, segments, size, size], where a segment's own sum
// was. From right to left, "before" is what comes after it in time. Segment 0 is the first met.
class Segments {
  Shape shape_;
  Index count_, area_;
  Floats sums_, decays_;

 public:
  Segments(Shape s, const Plan& plan)
      : shape_(s), count_(plan.segments), area_(s.padded() * s.padded()),
        sums_(count_ > 1 ? plan.heads * count_ * area_ : 0),
        decays_(count_ > 1 ? plan.heads * count_ * s.padded() : 0) {}

  float* sum(Index head, Index met) { return sums_ + (head * count_ + met) * area_; }
  float* log_decay(Index head, Index met) {
    return decays_ + (head * count_ + met) * shape_.padded();
  }

  void carry(Index head, const float* given) {
    Index size = shape_.padded();
    Floats carried(area_);
    widen(shape_, given, carried);
    for (Index met = 0; met < count_; met++) {
      float *own = sum(head, met), *log = log_decay(head, met);
      for (Index key = 0; key < size; key++) {
        float factor = std::exp(log[key]);
        for (Index c = key * size; c < (key + 1) * size; c += LANES) {
          vec here = load(own + c), start = load(carried + c);
          store(own + c, start);
          if (met + 1 < count_) store(carried + c, start * factor + here);
        }
      }
    }
  }
};

// Goes over all chunks of all heads, from right to left if there is a gradient of y, in time segments
// where the plan has several. `make(head, segment)` gives what one of these needs; for each chunk then
// before(it, rows, chunk, state), with the state (or adjoint) that is met first, and after(it, rows,
// chunk), when rows.out is there.
template <class E, class Make, class Before, class After>
void walk(Shape s, Input<E> in, const Plan& plan, const float* given, float* result, Make make,
          Before before, After after) {
  bool back = in.grad;
  Index area = s.N * s.N, wide = s.padded() * s.padded(), last = plan.segments - 1;
  auto chunks_of = [&](Index met, auto visit) {  // in the order in which they are met
    Index first = met * plan.chunks_per_segment;
    Index end = std::min(s.chunks(), first + plan.chunks_per_segment);
    for (Index i = first; i < end; i++) visit(back ? s.chunks() - 1 - i : i);
  };
  auto step = [&](auto output, Chunk<E>& rows, const float* from, float* to) {
    constexpr bool OUTPUT = decltype(output)::value;
    if (back)
      rows.template backward<OUTPUT>(from, to);
    else
      rows.template forward<OUTPUT>(from, to);
  };
  Segments segments(s, plan);
  if (last > 0) {
    plan.run([&](Index head, Index met) {
      if (met == last) return;
      Chunk<E> rows(s, in, head);
      float *sum = segments.sum(head, met), *log = segments.log_decay(head, met);
      std::fill_n(sum, wide, 0.f);
      std::fill_n(log, s.padded(), 0.f);
      chunks_of(met, [&](Index chunk) {
        rows.read(chunk);
        rows.add_logs(chunk, log);
        step(std::false_type{}, rows, sum, sum);
      });
    });
    for (Index head = 0; head < plan.heads; head++) segments.carry(head, given + head * area);
  }
  plan.run([&](Index head, Index met) {
    Chunk<E> rows(s, in, head);
    bool direct = met == last && s.N == s.padded();
    Floats own(direct ? 0 : wide);
    float* to = direct ? result + head * area : own;
    const float* from = given + head * area;
    if (last > 0)
      from = segments.sum(head, met);
    else if (!direct)
      widen(s, from, to), from = to;
    auto item = make(head, met);
    chunks_of(met, [&](Index chunk) {
      rows.read(chunk);
      before(item, rows, chunk, from);
      step(std::true_type{}, rows, from, to);
      after(item, rows, chunk);
      from = to;
    });
    if (met == last && !direct) narrow(s, to, result + head * area);
  });
}

template <class E>
void forward(Shape s, Input<E> in, const float* state, E* y, float* state_out, float* checkpoints,
             int max_threads) {
  Index area = s.N * s.N;
  struct Head {
    float* checkpoints;
  };
  walk(
      s, in, Plan(s, max_threads), state, state_out,
      [&](Index head, Index) {
        return Head{checkpoints ? checkpoints + head * s.chunks() * area : nullptr};
      },
      [&](Head& head, Chunk<E>&, Index chunk, const float* from) {
        if (head.checkpoints) narrow(s, from, head.checkpoints + chunk * area);
      },
      [&](Head&, Chunk<E>& rows, Index chunk) { rows.write_out(chunk, y); });
}

// out[H, N] = the sum over sequences and segments, in a fixed order.
void add_up(Shape s, Index segments, const std::vector<double>& parts, float* out) {
  for (Index h = 0; h < s.H; h++)
    for (Index c = 0; c < s.N; c++) {
      double sum = 0;
      for (Index b = 0; b < s.B; b++)
        for (Index i = 0; i < segments; i++) sum += parts[((b * s.H + h) * segments + i) * s.N + c];
      out[h * s.N + c] = float(sum);
    }
}

template <class E>
void backward(Shape s, Input<E> in, const float* checkpoints, const float* adjoint, E* gr,
              float* gw, E* gk, E* gv, float* gu, float* adjoint_in, int max_threads) {
  Plan plan(s, max_threads);
  std::vector<double> parts_u(plan.heads * plan.segments * s.N), parts_w(parts_u.size());
  struct Item {
    KeyGradients<E> keys;
    Index head, part;
  };
  walk(
      s, in, plan, adjoint, adjoint_in,
      [&](Index head, Index met) {
        return Item{{s, head}, head, (head * plan.segments + met) * s.N};
      },
      [&](Item& item, Chunk<E>& rows, Index chunk, const float* from) {
        const float* state = checkpoints + (item.head * s.chunks() + chunk) * s.N * s.N;
        item.keys.chunk(rows, chunk, state, from, gr, gk, gw);
      },
      [&](Item& item, Chunk<E>& rows, Index chunk) {
        rows.write_out(chunk, gv);
        item.keys.write_sums(&parts_u[item.part], &parts_w[item.part]);
      });
  add_up(s, plan.segments, parts_u, gu);
  if (s.constant) add_up(s, plan.segments, parts_w, gw);
}

}  // namespace

#define WKV6(NAME, E)                                                                              \
  void wkv6_forward_##NAME(Index B, Index T, Index H, Index N, Index constant, const E* r,         \
                           const float* w, const E* k, const E* v, const float* u,                 \
                           const float* state, E* y, float* state_out, float* checkpoints,         \
                           int threads) {                                                          \
    Input<E> in{r, k, v, nullptr, w, u};                                                           \
    forward({B, T, H, N, constant}, in, state, y, state_out, checkpoints, threads);                \
  }                                                                                                \
  void wkv6_backward_##NAME(Index B, Index T, Index H, Index N, Index constant, const E* r,        \
                            const float* w, const E* k, const E* v, const float* u,                \
                            const float* checkpoints, const E* grad_y, const float* adjoint,       \
                            E* gr, float* gw, E* gk, E* gv, float* gu, float* adjoint_in,          \
                            int threads) {                                                         \
    Input<E> in{r, k, v, grad_y, w, u};                                                            \
    backward({B, T, H, N, constant}, in, checkpoints, adjoint, gr, gw, gk, gv, gu, adjoint_in,     \
             threads);                                                                             \
  }

extern "C" {
WKV6(float32, float)
WKV6(bfloat16, bf16)
WKV6(float16, fp16)
}
