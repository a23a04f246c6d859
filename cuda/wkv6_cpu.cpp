// WKV-5 and WKV-6 on the CPU: threads over sequences and heads, and over time segments where those
// are few; within a head, tiles of the state in registers. Plain C interface, called from
// models/wkv/v6/cpu.py.
//
// Arrays are contiguous: r, k, v, y and their gradients [B, T, H, N] of one element type; w the same
// shape, or [H, N] where `constant`; u [H, N], states and adjoints [B, H, N, N] and checkpoints
// [B, H, ceil(T / CHUNK), N, N], all fp32.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "vec.h"
#include "wkv6_math.h"
#include "wkv6_tiles.h"

namespace {

using namespace wkv6;

struct Shape {
  Index B, T, H, N, constant;
  Index chunks() const { return (T + CHUNK - 1) / CHUNK; }
  Index padded() const { return (N + LANES - 1) / LANES * LANES; }
  int tokens(Index chunk) const { return int(std::min<Index>(CHUNK, T - chunk * CHUNK)); }
  Index step() const { return H * N; }
  Index at(Index head, Index t) const { return (head / H * T + t) * H * N + head % H * N; }
};

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

template <class E>
struct Input {
  const E *r, *k, *v, *grad;  // grad: of y, if going backward
  const float *w, *u;
};

// One chunk of one head, as rows of fp32. For the gradients, tokens after the last are zeros that do
// not decay.
template <class E>
class Chunk {
  Shape shape_;
  Input<E> in_;
  Index head_, rows_;
  Floats memory_;

  Index ahead(Index step) const { return (in_.grad ? -CHUNK : CHUNK) * step; }

  void read_decays(Index at) {
    Index step = shape_.constant ? 0 : shape_.step();
    for (Index c = 0; c < size; c += LANES) {
      Decay<vec> x{};
      vec missed{};
      for (int t = 0; t < n; t++) {
        const float* w = in_.w + at + t * step + c;
        __builtin_prefetch(w + ahead(step), 0, 2);
        if (t == 0 || step) x = decay(wkv6::read(w, shape_.N - c));
        store(d + t * size + c, x.factor);
        missed += x.rest;
      }
      store(rest + c, missed);
    }
    if (in_.grad) std::fill_n(d + n * size, (rows_ - n) * size, 1.f);
  }

  void read_rows(const E* from, float* rows) {
    Index step = shape_.step();
    pack(n, shape_.N, size, from, step, rows, ahead(step));
    if (in_.grad) std::fill_n(rows + n * size, (rows_ - n) * size, 0.f);
  }

  template <bool OUTPUT>
  void run(bool back, float* z, float* p, float* q, const float* from, float* to) {
    if (OUTPUT)
      for (int t = 0; t < n; t++) {
        vec sum{};
        for (Index c = t * size; c < (t + 1) * size; c += LANES)
          sum += load(r + c) * load(k + c) * load(u + (c - t * size));
        float bonus = 0;
        for (int i = 0; i < LANES; i++) bonus += sum[i];
        for (Index c = t * size; c < (t + 1) * size; c += LANES)
          store(out + c, load(q + c) * bonus);
      }
    Index first = back ? (n - 1) * size : 0, step = back ? -size : size;
    Steps steps{n, size, step, z + first, d + first, p + first, q + first, rest, out + first};
    scan<OUTPUT>(steps, from, to);
  }

 public:
  Index size;  // of a row: N, and zeros up to a whole vector
  int n = 0;   // tokens
  float *r, *k, *v, *grad, *d, *out, *u, *rest;

  Chunk(Shape s, Input<E> in, Index head)
      : shape_(s), in_(in), head_(head), rows_(in.grad ? CHUNK : std::min<Index>(CHUNK, s.T)),
        memory_((6 * rows_ + 2) * s.padded()), size(s.padded()) {
    float* next = memory_;
    for (float** rows : {&r, &k, &v, &grad, &d, &out}) *rows = next, next += rows_ * size;
    u = next, rest = next + size;
    pack(1, s.N, size, in.u + head % s.H * s.N, 0, u);
  }

  void read(Index chunk) {
    n = shape_.tokens(chunk);
    Index at = shape_.at(head_, chunk * CHUNK);
    read_rows(in_.r + at, r);
    read_rows(in_.k + at, k);
    read_rows(in_.v + at, v);
    if (in_.grad) read_rows(in_.grad + at, grad);
    read_decays(shape_.constant ? head_ % shape_.H * shape_.N : at);
  }

  // Adds the log-decays of all its tokens to `sum`.
  void add_logs(Index chunk, float* sum) const {
    for (int t = 0; t < n; t++) {
      Index at = shape_.at(head_, chunk * CHUNK + t);
      const float* w = in_.w + (shape_.constant ? head_ % shape_.H * shape_.N : at);
      for (Index c = 0; c < shape_.N; c++) sum[c] += w[c];
    }
  }

  void write_out(Index chunk, E* to) const {
    to += shape_.at(head_, chunk * CHUNK);
    unpack(n, shape_.N, size, out, to, shape_.step());
  }

  // `out` becomes y, `to` the state after the chunk, if `from` is the one before it.
  template <bool OUTPUT>
  void forward(const float* from, float* to) {
    run<OUTPUT>(false, r, k, v, from, to);
  }
  // `out` becomes the gradient of v, `to` the adjoint before the chunk, if `from` is that after it.
  template <bool OUTPUT>
  void backward(const float* from, float* to) {
    run<OUTPUT>(true, k, r, grad, from, to);
  }
};

// A state or adjoint [N, N] as rows of whole vectors, and back.
void widen(Shape s, const float* from, float* to) {
  Index size = s.padded();
  pack(s.N, s.N, size, from, s.N, to);
  std::fill_n(to + s.N * size, (size - s.N) * size, 0.f);
}
void narrow(Shape s, const float* from, float* to) {
  unpack(s.N, s.N, s.padded(), from, to, s.N);
}

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

// Goes over all chunks of all heads, from right to left if there is a gradient of y, in time
// segments where the plan has several: each(item, rows, chunk, state) before every chunk, with the
// state (or adjoint) at that end of it, and then(item, rows, chunk) after it. `make(item)` gives what
// a thread needs for one item.
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

// One vector of key channels of one chunk, as `gradients` of wkv6_math.h wants it.
struct KeyLanes {
  Index size;
  const float *r_, *k_, *d_, *table_;
  vec gr_[CHUNK], gk_[CHUNK], gw_[CHUNK];

  KeyLanes(Index size, const float* r, const float* k, const float* d, const float* table,
           const float* past, const float* future)
      : size(size), r_(r), k_(k), d_(d), table_(table) {
    for (int t = 0; t < CHUNK; t++) {
      gr_[t] = load(past + t * size);
      gk_[t] = load(future + t * size);
    }
  }
  vec r(int t) const { return load(r_ + t * size); }
  vec k(int t) const { return load(k_ + t * size); }
  vec d(int t) const { return load(d_ + t * size); }
  float table(int t, int s) const { return table_[t * CHUNK + s]; }
  vec& gr(int t) { return gr_[t]; }
  vec& gk(int t) { return gk_[t]; }
  vec& gw(int t) { return gw_[t]; }
};

// Gradients of r, k, w and u, for one head and one time segment of it.
template <class E>
class KeyGradients {
  Shape shape_;
  Index head_, size_;
  Floats state_, state_t_, adjoint_t_, v_t_, past_, future_, table_;
  std::vector<double> gu_, gw_;  // gw: of a constant decay

 public:
  KeyGradients(Shape s, Index head)
      : shape_(s), head_(head), size_(s.padded()), state_(size_ * size_), state_t_(size_ * size_),
        adjoint_t_(size_ * size_), v_t_(size_ * CHUNK), past_(CHUNK * size_),
        future_(CHUNK * size_), table_(CHUNK * CHUNK), gu_(size_), gw_(size_) {}

  // From the state before the chunk and the adjoint after it.
  void chunk(const Chunk<E>& rows, Index chunk, const float* state, const float* adjoint, E* gr,
             E* gk, float* gw) {
    widen(shape_, state, state_);
    transpose(size_, size_, state_, state_t_);
    transpose(size_, size_, adjoint, adjoint_t_);
    transpose(CHUNK, size_, rows.v, v_t_);
    product(CHUNK, size_, size_, rows.grad, size_, state_t_, past_);
    product(CHUNK, size_, size_, rows.v, size_, adjoint_t_, future_);
    product(CHUNK, size_, CHUNK, rows.grad, size_, v_t_, table_);
    Index step = shape_.step(), at = shape_.at(head_, chunk * CHUNK);
    for (Index c = 0; c < size_; c += LANES) {
      vec through{};
      for (Index i = c; i < size_ * size_; i += size_) through += load(state_t_ + i) * load(adjoint_t_ + i);
      KeyLanes io(size_, rows.r + c, rows.k + c, rows.d + c, table_, past_ + c, future_ + c);
      vec grad_u = gradients(io, load(rows.u + c), through), grad_w{};
      Index count = shape_.N - c;
      for (int t = 0; t < rows.n; t++) {
        Index to = at + t * step + c;
        write(gr + to, io.gr(t), count);
        write(gk + to, io.gk(t), count);
        if (shape_.constant)
          grad_w += io.gw(t);
        else
          write(gw + to, io.gw(t), count);
      }
      for (int i = 0; i < LANES; i++) gu_[c + i] += grad_u[i], gw_[c + i] += grad_w[i];
    }
  }

  void write_sums(double* gu, double* gw) const {
    std::copy_n(gu_.data(), shape_.N, gu);
    if (shape_.constant) std::copy_n(gw_.data(), shape_.N, gw);
  }
};

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
