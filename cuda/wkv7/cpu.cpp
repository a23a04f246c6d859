// WKV-7 on the CPU: threads over sequences and heads, and over value channels or chunks where those
// are few. Plain C interface, called from models/ops/wkv7/cpu.py.
//
// Arrays are contiguous: r, k, v, a, b, y and their gradients [B, T, H, N] of one element type, w
// and its gradient fp32, states and their gradients [B, H, value, key] fp32, checkpoints
// [B, ceil(T / CHUNK), H, key, value] fp32. The arithmetic is in wkv7/cpu_block.h.

#include <vector>

#include "wkv7/cpu_block.h"

namespace {

using namespace wkv7;

constexpr Index FEW = 8;       // tokens for which blocks do not pay
constexpr Index SEGMENT = 64;  // chunks whose gradients of states are kept at once

float sum(vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float total = 0;
  for (int i = 0; i < LANES; i++) total += x[i];
  return total;
#endif
}

// How many groups of value channels to cut a head into, so that `threads` have work.
Index groups(Index heads, Index vectors, Index threads) {
  Index count = 1;
  while (count < vectors && heads * count < 2 * threads && heads * count % threads) count++;
  return count;
}

// What one token does to R rows of a value-major state, and their outputs.
template <int R, class E, int S>
ALWAYS_INLINE void step_rows(Size<S> size, const float* before, float* after, const float* token,
                             const E* v, E* y) {
  Index n = size.n(), width = size.width();
  const float *r = token, *decay = r + width, *k = decay + width, *a = k + width, *b = a + width;
  vec seen[R] = {}, read[R] = {};
  float sa[R], value[R];
  for (Index c = 0; c < width; c += LANES)
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) seen[i] += size.read(before + i * n, c) * load(a + c);
#pragma GCC unroll 4
  for (int i = 0; i < R; i++) sa[i] = sum(seen[i]), value[i] = to_float(v[i]);
  for (Index c = 0; c < width; c += LANES)
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
      vec x = size.read(before + i * n, c) * load(decay + c);
      x += sa[i] * load(b + c);
      x += value[i] * load(k + c);
      size.write(after + i * n, c, x);
      read[i] += x * load(r + c);
    }
#pragma GCC unroll 4
  for (int i = 0; i < R; i++) from_float(sum(read[i]), y[i]);
}

// A few tokens, one after the other: the state is value-major and changes in place.
template <class E, int S>
void steps(const Problem<S>& problem, const Inputs<E>& in, const float* state, Tokens<E> y,
           float* out) {
  Size<S> size = problem.size;
  Index n = size.n(), width = size.width();
  Floats token = floats(5 * width);
  float *r = token.get(), *decay = r + width, *k = decay + width, *a = k + width, *b = a + width;
  for (Index t = 0; t < problem.shape.T; t++, state = out) {
    for (Index c = 0; c < width; c += LANES) {
      store(r + c, size.read(in.r[t], c));
      store(decay + c, exp_(max_(vec{} + LOWEST, size.read(in.w[t], c))));
      store(k + c, size.read(in.k[t], c));
      store(a + c, size.read(in.a[t], c));
      store(b + c, size.read(in.b[t], c));
    }
    Index i = 0;
    for (; i + ROWS <= n; i += ROWS)
      step_rows<ROWS>(size, state + i * n, out + i * n, r, in.v[t] + i, y[t] + i);
    for (; i < n; i++) step_rows<1>(size, state + i * n, out + i * n, r, in.v[t] + i, y[t] + i);
  }
}

// Calls each(block, next) for the blocks of a chunk in order, prepared; all are kept, or none.
template <bool KEEP, class E, int S, class Each>
Index each_block(const Problem<S>& problem, const Inputs<E>& in, Index chunk, Index from, Index to,
                 std::vector<Block<S>>& blocks, Ahead& ahead, float* turned, Each each) {
  Index begin = chunk * CHUNK, end = begin + problem.tokens_of(chunk), count = 0;
  for (Index t = begin; t < end; count++) {
    size_t index = KEEP ? count : 0;
    while (blocks.size() < index + 2) blocks.emplace_back(problem.size, ahead);
    Index length = fitting(problem.size, in.w, t, std::min<Index>(BLOCK, end - t));
    prepare<KEEP>(blocks[index], in, t, length, from, to, turned);
    each(blocks[index], blocks[index + 1]);
    t += length;
  }
  return count;
}

template <class E, int S>
void forward_few(const Problem<S>& problem, const E* r, const float* w, const E* k, const E* v,
                 const E* a, const E* b, const float* state, E* y, float* state_out, int threads) {
  Index heads = problem.shape.heads(), useful = heads * problem.shape.T / 16 + 1;
  threads = int(std::min<Index>(threads, useful));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index head = 0; head < heads; head++) {
    FlushDenormals flush;
    steps(problem, problem.inputs(r, w, k, v, a, b, head), problem.state(state, head),
          problem.tokens(y, head), problem.state(state_out, head));
  }
}

template <class E, int S>
void forward(const Problem<S>& problem, const E* r, const float* w, const E* k, const E* v,
             const E* a, const E* b, const float* state, E* y, float* state_out,
             float* checkpoints, int threads) {
  Shape shape = problem.shape;
  Size<S> size = problem.size;
  Index width = size.width(), heads = shape.heads();
  if (shape.T < FEW && !checkpoints)
    return forward_few(problem, r, w, k, v, a, b, state, y, state_out, threads);
  Teams teams(shape, threads);
  Index parts = groups(heads, width / LANES, threads), vectors = width / LANES;
  Index square = width * width;
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
    std::vector<Block<S>> blocks;
    Ahead ahead;
    Floats memory = floats((teams.largest() + 1) * square + TWO * width);
    float *states = memory.get(), *scratch = states + teams.largest() * square;
    float* turned = scratch + square;
#pragma omp for schedule(dynamic, 1)
    for (Index item = 0; item < teams.count() * parts; item++) {
      Index first = teams.first(item / parts), last = teams.last(item / parts);
      Index part = item % parts;
      Index from = vectors * part / parts * LANES, to = vectors * (part + 1) / parts * LANES;
      for (Index head = first; head < last; head++)
        problem.turn_in(problem.state(state, head), states + (head - first) * square, scratch);
      for (Index chunk = 0; chunk < shape.chunks(); chunk++)
        for (Index head = first; head < last; head++) {
          Inputs<E> in = problem.inputs(r, w, k, v, a, b, head);
          Tokens<E> out = problem.tokens(y, head);
          float* now = states + (head - first) * square;
          bool turn = head + 1 == last;
          Index next = turn ? first : head + 1, begin = (chunk + turn) * CHUNK;
          ahead.start(std::min(shape.T - begin, Index(CHUNK)));
          ahead.add(problem.inputs(r, w, k, v, a, b, next), begin, size.n());
          ahead.add(problem.tokens(y, next), begin, size.n());
          if (checkpoints)
            problem.unpad(now, problem.checkpoint(checkpoints, head, chunk), from, to);
          auto through = [&](Block<S>& block, Block<S>&) {
            read_state<1>(block, now, from, to, [&](Index t, Index c, vec x) {
              if (t < block.length) size.write(out[block.start + t], c, x);
            });
            advance(block, block.writes, block.values, now, now, from, to);
          };
          each_block<false>(problem, in, chunk, from, to, blocks, ahead, turned, through);
        }
      for (Index head = first; head < last; head++)
        problem.turn_out(states + (head - first) * square, problem.state(state_out, head), from,
                         to);
    }
  }
}

// Scratch of one thread of the backward pass.
template <int S>
struct Desk {
  std::vector<Block<S>> blocks;
  Ahead ahead;
  Floats memory;
  float *grads, *scores, *turned_state, *turned_after, *read_terms, *write_terms;

  explicit Desk(Size<S> size) {
    Index n = size.width(), rows = TWO * n, square = n * n;
    memory = floats(3 * rows + TWO * TWO + 2 * square);
    float* p = memory.get();
    for (float** each : {&grads, &read_terms, &write_terms}) *each = p, p += rows;
    for (float** each : {&turned_state, &turned_after}) *each = p, p += square;
    scores = p;
  }
};

template <class E, int S>
void load_grads(const Block<S>& block, Tokens<const E> grad_y, Index from, Index to, float* grads) {
  Size<S> size = block.size;
  for (Index t = 0; t < BLOCK; t++)
    for (Index c = from; c < to; c += LANES)
      store(grads + (2 * t + 1) * size.width() + c,
            t < block.length ? size.read(grad_y[block.start + t], c) : vec{});
}

// `after`, the key-major gradient of the state after the chunk, becomes that of the one before it.
template <class E, int S>
void chunk_adjoint(const Problem<S>& problem, const Inputs<E>& in, Tokens<const E> grad_y,
                   Index chunk, Index from, Index to, float* after, Desk<S>& desk) {
  Index count = each_block<true>(problem, in, chunk, from, to, desk.blocks, desk.ahead,
                                 desk.read_terms, [](Block<S>&, Block<S>&) {});
  while (count-- > 0) {
    Block<S>& block = desk.blocks[count];
    load_grads(block, grad_y, from, to, desk.grads);
    read_adjoint(block, after, desk.grads, from, to, [](Index, Index, vec) {});
    advance(block, block.reads, desk.grads, after, after, from, to);
  }
}

// The same, and the gradients of the chunk's inputs, from the state before it.
template <class E, int S>
void chunk_gradients(const Problem<S>& problem, const Inputs<E>& in, Tokens<const E> grad_y,
                     const float* checkpoint, Index chunk, float* after, const Gradients<E>& out,
                     Desk<S>& desk) {
  Size<S> size = problem.size;
  Index n = size.width(), begin = chunk * CHUNK, end = begin + problem.tokens_of(chunk);
  auto replay = [&](Block<S>& block, Block<S>& next) {
    if (block.start == begin) problem.pad(checkpoint, block.state, 0, n);
    read_state<2>(block, block.state, 0, n, [](Index, Index, vec) {});
    if (block.start + block.length < end)
      advance(block, block.writes, block.values, block.state, next.state, 0, n);
  };
  Index count = each_block<true>(problem, in, chunk, 0, n, desk.blocks, desk.ahead,
                                 desk.read_terms, replay);
  while (count-- > 0) {
    Block<S>& block = desk.blocks[count];
    load_grads(block, grad_y, 0, n, desk.grads);
    read_adjoint(block, after, desk.grads, 0, n, [&](Index t, Index c, vec x) {
      if (t < block.length) size.write(out.v[block.start + t], c, x);
    });
    causal_scores(size, desk.grads, block.values, desk.read_terms, desk.scores);
    transpose(block.state, n, n, desk.turned_state);
    transpose(after, n, n, desk.turned_after);
    differentiate(block, desk.grads, desk.scores, desk.turned_state, desk.turned_after, out,
                  desk.read_terms, desk.write_terms);
    advance(block, block.reads, desk.grads, after, after, 0, n);
  }
}

template <class E, int S>
void backward(const Problem<S>& problem, const E* r, const float* w, const E* k, const E* v,
              const E* a, const E* b, const float* checkpoints, const float* grad_state,
              const E* grad_y, E* gr, float* gw, E* gk, E* gv, E* ga, E* gb, float* grad_in,
              int threads) {
  Shape shape = problem.shape;
  Size<S> size = problem.size;
  Index width = size.width(), square = width * width, heads = shape.heads();
  threads = int(std::min<Index>(threads, heads * shape.chunks()));
  Teams teams(shape, threads);
  // Heads keep all threads busy, or a first sweep finds the gradients of the states at the ends of
  // chunks, and a second one does the chunks in any order.
  bool sweep = heads < 4 * threads && heads % threads;
  Index parts = sweep ? groups(heads, width / LANES, threads) : 1;
  Index kept = sweep ? std::min(SEGMENT, shape.chunks()) : 0;
  Floats carried = floats(heads * square), ends = floats(heads * kept * square);
  auto gradients = [&](Index head) {
    return problem.gradients(gr, gw, gk, gv, ga, gb, head);
  };
  auto inputs = [&](Index head) { return problem.inputs(r, w, k, v, a, b, head); };
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
    Desk<S> desk(size);
    auto both = [&](Index head, Index chunk, float* after) {
      chunk_gradients(problem, inputs(head), problem.tokens(grad_y, head),
                      problem.checkpoint(checkpoints, head, chunk), chunk, after,
                      gradients(head), desk);
    };
#pragma omp for schedule(dynamic, 1)
    for (Index team = 0; team < teams.count(); team++) {
      for (Index head = teams.first(team); head < teams.last(team); head++)
        problem.turn_in(problem.state(grad_state, head), carried.get() + head * square,
                        desk.turned_state);
      for (Index chunk = sweep ? 0 : shape.chunks(); chunk-- > 0;)
        for (Index head = teams.first(team); head < teams.last(team); head++) {
          bool turn = head + 1 == teams.last(team);
          Index next = turn ? teams.first(team) : head + 1;
          Index begin = (chunk - turn) * CHUNK;
          desk.ahead.start(begin < 0 ? 0 : std::min(shape.T - begin, Index(CHUNK)));
          desk.ahead.add(inputs(next), begin, size.n());
          desk.ahead.add(problem.tokens(grad_y, next), begin, size.n());
          desk.ahead.add(gradients(next), begin, size.n());
          both(head, chunk, carried.get() + head * square);
        }
    }
    for (Index last = shape.chunks(); sweep && last > 0; last -= kept) {
      Index first = std::max<Index>(0, last - kept);
#pragma omp for schedule(dynamic, 1)
      for (Index item = 0; item < heads * parts; item++) {
        Index head = item / parts, part = item % parts, vectors = width / LANES;
        Index from = vectors * part / parts * LANES, to = vectors * (part + 1) / parts * LANES;
        float* after = carried.get() + head * square;
        for (Index chunk = last; chunk-- > first;) {
          float* end = ends.get() + (head * kept + chunk - first) * square;
          for (Index i = 0; i < width; i++)
            std::copy(after + i * width + from, after + i * width + to, end + i * width + from);
          chunk_adjoint(problem, inputs(head), problem.tokens(grad_y, head), chunk, from, to,
                        after, desk);
        }
      }
#pragma omp for schedule(dynamic, 1)
      for (Index item = 0; item < heads * (last - first); item++) {
        Index head = item % heads, slot = item / heads;
        both(head, first + slot, ends.get() + (head * kept + slot) * square);
      }
    }
#pragma omp for schedule(dynamic, 1)
    for (Index head = 0; head < heads; head++)
      problem.turn_out(carried.get() + head * square, problem.state(grad_in, head), 0, width);
  }
}

// Calls run(problem), compiled for the usual head size where it is that.
template <class Run>
void specialise(Index B, Index T, Index H, Index N, Run run) {
  Shape shape{B, T, H};
  if (N == 64)
    run(Problem<64>{shape, {N}});
  else
    run(Problem<0>{shape, {N}});
}

}  // namespace

#define WKV7(NAME, E)                                                                              \
  void wkv7_forward_##NAME(Index B, Index T, Index H, Index N, const E* r, const float* w,         \
                           const E* k, const E* v, const E* a, const E* b, const float* state,     \
                           E* y, float* state_out, float* checkpoints, int threads) {              \
    specialise(B, T, H, N, [&](auto problem) {                                                     \
      forward(problem, r, w, k, v, a, b, state, y, state_out, checkpoints, threads);               \
    });                                                                                            \
  }                                                                                                \
  void wkv7_backward_##NAME(Index B, Index T, Index H, Index N, const E* r, const float* w,        \
                            const E* k, const E* v, const E* a, const E* b,                        \
                            const float* checkpoints, const float* grad_state, const E* grad_y,    \
                            E* gr, float* gw, E* gk, E* gv, E* ga, E* gb, float* grad_in,          \
                            int threads) {                                                         \
    specialise(B, T, H, N, [&](auto problem) {                                                     \
      backward(problem, r, w, k, v, a, b, checkpoints, grad_state, grad_y, gr, gw, gk, gv, ga, gb, \
               grad_in, threads);                                                                  \
    });                                                                                            \
  }

extern "C" {
WKV7(float32, float)
WKV7(bfloat16, bf16)
WKV7(float16, fp16)
}
