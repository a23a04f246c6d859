// Where the heads of WKV-7's tensors lie in memory, and how they are shared out and fetched.
#pragma once

#include <algorithm>

#include "cpu/matrix.h"

namespace wkv7 {

constexpr int CHUNK = 32;  // tokens between checkpoints
constexpr Index TEAM = 8;  // heads walked through time together, at most

struct Shape {
  Index B, T, H;
  Index chunks() const { return (T + CHUNK - 1) / CHUNK; }
  Index heads() const { return B * H; }
};

// Head size: fixed at compile time where S > 0. `width` is N in whole vectors.
template <int S>
struct Size {
  Index size;
  ALWAYS_INLINE Index n() const { return S ? S : size; }
  ALWAYS_INLINE Index width() const { return (n() + LANES - 1) / LANES * LANES; }

  template <class E>
  ALWAYS_INLINE vec read(const E* row, Index c) const {
    if (S && S % LANES == 0) return load(row + c);
    return c + LANES <= n() ? load(row + c) : load(row + c, int(n() - c));
  }
  template <class E>
  ALWAYS_INLINE void write(E* row, Index c, vec x) const {
    if ((S && S % LANES == 0) || c + LANES <= n())
      store(row + c, x);
    else
      store(row + c, x, int(n() - c));
  }
};

// Token t of a head's tensor is at p + t * stride.
template <class E>
struct Tokens {
  E* p;
  Index stride;
  ALWAYS_INLINE E* operator[](Index t) const { return p + t * stride; }
};

template <class E>
struct Inputs {
  Tokens<const E> r;
  Tokens<const float> w;
  Tokens<const E> k, v, a, b;
};

template <class E>
struct Gradients {
  Tokens<E> r;
  Tokens<float> w;
  Tokens<E> k, v, a, b;
};

// Brings near the rows of tokens that come next, a few at a time between products: they are too far
// apart for the hardware to foresee, and asked for all at once they would have to be waited for.
class Ahead {
  struct Rows {
    const char* p;
    Index stride, bytes;
    bool written;
  };
  Rows rows_[16];
  int count_ = 0, next_ = 0;
  Index left_ = 0;

 public:
  void start(Index tokens) { count_ = next_ = 0, left_ = tokens; }
  template <class E>
  void add(Tokens<E> tokens, Index from, Index n) {
    constexpr Index bytes = sizeof(E);
    rows_[count_++] = {reinterpret_cast<const char*>(tokens[from]), tokens.stride * bytes,
                       n * bytes, !std::is_const<E>::value};
  }
  template <class E>
  void add(const Inputs<E>& in, Index from, Index n) {
    for (const Tokens<const E>& x : {in.r, in.k, in.v, in.a, in.b}) add(x, from, n);
    add(in.w, from, n);
  }
  template <class E>
  void add(const Gradients<E>& out, Index from, Index n) {
    for (const Tokens<E>& x : {out.r, out.k, out.v, out.a, out.b}) add(x, from, n);
    add(out.w, from, n);
  }
  ALWAYS_INLINE void some() {
    for (int i = 0; i < 4 && left_ > 0; i++) {
      Rows& rows = rows_[next_];
      for (Index c = 0; c < rows.bytes; c += 64)
        if (rows.written)
          __builtin_prefetch(rows.p + c, 1, 2);
        else
          __builtin_prefetch(rows.p + c, 0, 2);
      rows.p += rows.stride;
      if (++next_ == count_) next_ = 0, left_--;
    }
  }
};

template <int S>
struct Problem {
  Shape shape;
  Size<S> size;

  Index n() const { return size.n(); }
  // One head of a [B, T, H, N] array, and of states [B, H, N, N] or checkpoints.
  template <class E>
  Tokens<E> tokens(E* p, Index head) const {
    Index stride = shape.H * n(), b = head / shape.H, h = head % shape.H;
    return {p + b * shape.T * stride + h * n(), stride};
  }
  template <class E>
  E* state(E* p, Index head) const {
    return p + head * n() * n();
  }
  template <class E>
  E* checkpoint(E* p, Index head, Index chunk) const {
    Index b = head / shape.H, h = head % shape.H;
    return p + ((b * shape.chunks() + chunk) * shape.H + h) * n() * n();
  }
  template <class E>
  Gradients<E> gradients(E* r, float* w, E* k, E* v, E* a, E* b, Index head) const {
    return {tokens(r, head), tokens(w, head), tokens(k, head),
            tokens(v, head), tokens(a, head), tokens(b, head)};
  }
  template <class E>
  Inputs<E> inputs(const E* r, const float* w, const E* k, const E* v, const E* a, const E* b,
                   Index head) const {
    return {tokens(r, head), tokens(w, head), tokens(k, head),
            tokens(v, head), tokens(a, head), tokens(b, head)};
  }
  Index tokens_of(Index chunk) const { return std::min<Index>(CHUNK, shape.T - chunk * CHUNK); }

  // Columns from .. to of a dense [n][n] array to a padded one and back.
  void pad(const float* dense, float* padded, Index from, Index to) const {
    for (Index i = 0; i < size.width(); i++)
      for (Index c = from; c < to; c += LANES)
        store(padded + i * size.width() + c, i < n() ? size.read(dense + i * n(), c) : vec{});
  }
  void unpad(const float* padded, float* dense, Index from, Index to) const {
    for (Index i = 0; i < n(); i++)
      for (Index c = from; c < to; c += LANES)
        size.write(dense + i * n(), c, load(padded + i * size.width() + c));
  }
  // The same, from value-major to key-major and back.
  void turn_in(const float* dense, float* padded, float* scratch) const {
    pad(dense, scratch, 0, size.width());
    transpose(scratch, size.width(), size.width(), padded);
  }
  void turn_out(const float* padded, float* dense, Index from, Index to) const {
    float square[LANES * LANES];
    for (Index j = 0; j < size.width(); j += LANES)
      for (Index i = from; i < to; i += LANES) {
        transpose_square(padded + j * size.width() + i, size.width(), square, LANES);
        for (Index row = i; row < std::min(n(), i + LANES); row++)
          size.write(dense + row * n(), j, load(square + (row - i) * LANES));
      }
  }
};

// Heads of one sequence that a thread walks through time together: a token's heads lie side by side
// in memory, and a walk with one of them would touch a new page at every token.
struct Teams {
  Shape shape;
  Index per_sequence;

  Teams(Shape s, Index threads) : shape(s), per_sequence((s.H + TEAM - 1) / TEAM) {
    auto uneven = [&] {
      Index count = s.B * per_sequence;
      return count < 4 * threads && (count % threads || s.H % per_sequence);
    };
    while (per_sequence < s.H && uneven()) per_sequence++;
  }
  Index count() const { return shape.B * per_sequence; }
  Index largest() const { return (shape.H + per_sequence - 1) / per_sequence; }
  Index first(Index team) const {
    Index b = team / per_sequence, part = team % per_sequence;
    return b * shape.H + shape.H * part / per_sequence;
  }
  Index last(Index team) const { return first(team + 1); }
};

}  // namespace wkv7
