// One chunk of tokens of one head in the WKV-6 kernels of the CPU: its rows in fp32, its outputs, and
// its gradients from the state before it and the adjoint after it.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/vec.h"
#include "wkv6/math.h"
#include "wkv6/cpu_tiles.h"

namespace wkv6 {

struct Shape {
  Index B, T, H, N, constant;
  Index chunks() const { return (T + CHUNK - 1) / CHUNK; }
  Index padded() const { return (N + LANES - 1) / LANES * LANES; }
  int tokens(Index chunk) const { return int(std::min<Index>(CHUNK, T - chunk * CHUNK)); }
  Index step() const { return H * N; }
  Index at(Index head, Index t) const { return (head / H * T + t) * H * N + head % H * N; }
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
inline void widen(Shape s, const float* from, float* to) {
  Index size = s.padded();
  pack(s.N, s.N, size, from, s.N, to);
  std::fill_n(to + s.N * size, (size - s.N) * size, 0.f);
}
inline void narrow(Shape s, const float* from, float* to) {
  unpack(s.N, s.N, s.padded(), from, to, s.N);
}

// One vector of key channels of one chunk, as `gradients` of wkv6/math.h wants it.
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

}  // namespace wkv6
