// The arithmetic of one head over a block of up to BLOCK tokens of WKV-7, as small matrix products.
//
// Reads and writes are interleaved: read 2t is a_t, read 2t + 1 is r_t; write 2t is sa_t at key
// b_t, write 2t + 1 is v_t at key k_t. Read x sees the writes before seen(x) of its block, and the
// state the block began with. States are key-major here: [key][value]. Derivation: docs/kernels.md.
#pragma once

#include "wkv7/cpu_layout.h"

namespace wkv7 {

constexpr int BLOCK = 16;       // tokens of a block, at most
constexpr int TWO = 2 * BLOCK;  // its reads, and its writes
constexpr float RANGE = -60;    // lowest sum of log-decays between two tokens of a block
constexpr float LOWEST = -200;  // log-decays below it are taken for it: both are 0 as factors

constexpr int seen(int x) { return x % 2 ? x + 1 : x; }

// Everything of a block that does not depend on its start state, and the writes.
template <int S>
struct Block {
  Size<S> size;
  Ahead* ahead;
  Index start, length;
  Floats memory;
  float *reads, *near;          // [TWO][n] reads times `since`, and times `back`
  float *writes, *values;       // [TWO][n] keys of the writes times `until`; sa and v
  float *since, *until, *back;  // [BLOCK + 1][n] decay from the start and to the end; 1 / until
  float *whole;                 // [n] decay of the block
  float *scores;                // [read][write], 0 where not seen
  float *state;                 // [n][n] before the block

  Block(Size<S> s, Ahead& next) : size(s), ahead(&next) {
    Index n = s.width(), rows = TWO * n, edges = (BLOCK + 1) * n;
    memory = floats(4 * rows + 3 * edges + n + TWO * TWO + n * n);
    float* p = memory.get();
    for (float** each : {&reads, &near, &writes, &values}) *each = p, p += rows;
    for (float** each : {&since, &until, &back}) *each = p, p += edges;
    whole = p, p += n;
    scores = p, p += TWO * TWO;
    state = p;
  }
};

// How many tokens from `start` on, up to `most`, fit one block.
template <int S>
Index fitting(Size<S> size, Tokens<const float> w, Index start, Index most) {
  Index fit = most;
  for (Index c = 0; c < size.width(); c += LANES) {
    vec sum{};
    for (Index t = 1; t < fit; t++) sum += size.read(w[start + t], c);
    if (!any_above(-sum, -RANGE)) continue;
    sum = vec{};
    for (Index t = 1; t < fit; t++) {
      sum += size.read(w[start + t], c);
      if (any_above(-sum, -RANGE)) fit = t;
    }
  }
  return fit;
}

// C[x][y] = sum over c of A[x][c] B[y][c] where read x sees write y, else 0. `turned` is scratch.
template <int S>
void causal_scores(Size<S> size, const float* a, const float* b, float* turned, float* c) {
  Index n = size.width();
  transpose(b, TWO, n, turned);
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  for (int x = 0; x < TWO; x += 8)
    for (int y = 0; y < TWO; y += LANES) {
      Tile<8, 1> tile;
      tile.clear();
      if (y < x + 8) tile.add(a + x * n, n, 1, turned + y, TWO, n);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        ivec visible = lane < seen(x + i) - y;
        store(c + (x + i) * TWO + y, where_(visible, tile.x[i][0], vec{}));
      }
    }
}

// Fill `block` for tokens start .. start + length - 1; columns of v outside from .. to are left
// out, and without FACTORS what only `differentiate` needs.
template <bool FACTORS, class E, int S>
void prepare(Block<S>& block, const Inputs<E>& in, Index start, Index length, Index from, Index to,
             float* turned) {
  Size<S> size = block.size;
  Index n = size.width();
  block.start = start, block.length = length;
  const vec zero{}, one = zero + 1.f;
  each_columns(0, n, [&](auto vectors, Index column) {
    constexpr int V = decltype(vectors)::value;
    vec decays[BLOCK][V], product[V], inverse[V], sum[V];
    for (int j = 0; j < V; j++) product[j] = one, sum[j] = zero;
    for (Index t = 0; t < length; t++) {
      float* a = block.reads + 2 * t * n + column;
#pragma GCC unroll 4
      for (int j = 0; j < V; j++, a += LANES) {
        Index c = column + j * LANES;
        vec w = max_(zero + LOWEST, size.read(in.w[start + t], c));
        sum[j] += w;
        decays[t][j] = exp_(w);
        if (FACTORS) store(block.since + t * n + c, product[j]);
        store(a, size.read(in.a[start + t], c) * product[j]);
        product[j] *= decays[t][j];
        store(a + n, size.read(in.r[start + t], c) * product[j]);
      }
    }
    for (int j = 0; j < V; j++) {
      Index c = column + j * LANES;
      if (FACTORS) store(block.since + length * n + c, product[j]);
      store(block.whole + c, exp_(sum[j]));
      product[j] = inverse[j] = one;
    }
    for (Index t = length - 1; t >= 0; t--) {
      float *a = block.near + 2 * t * n + column, *b = block.writes + 2 * t * n + column;
#pragma GCC unroll 4
      for (int j = 0; j < V; j++, a += LANES, b += LANES) {
        Index c = column + j * LANES;
        if (FACTORS) store(block.until + (t + 1) * n + c, product[j]);
        if (FACTORS) store(block.back + (t + 1) * n + c, inverse[j]);
        store(a + n, size.read(in.r[start + t], c) * inverse[j]);
        store(b, size.read(in.b[start + t], c) * product[j]);
        store(b + n, size.read(in.k[start + t], c) * product[j]);
        product[j] *= decays[t][j];
        // The first a may be any decay away from the end, but it sees no write.
        inverse[j] = t ? 1.f / product[j] : zero;
        store(a, size.read(in.a[start + t], c) * inverse[j]);
      }
    }
    for (int j = 0; j < V; j++) {
      Index c = column + j * LANES;
      if (FACTORS) store(block.back + c, zero);
      for (Index row = 2 * length * n + c; row < TWO * n; row += n)
        for (float* p : {block.reads, block.near, block.writes, block.values}) store(p + row, zero);
    }
  });
  for (Index t = 0; t < length; t++)
    for (Index c = from; c < to; c += LANES)
      store(block.values + (2 * t + 1) * n + c, size.read(in.v[start + t], c));
  causal_scores(size, block.near, block.writes, turned, block.scores);
}

// sa of every token, written to block.values, and where STEP is 1 the outputs too: put(t, c, y).
template <int STEP, int S, class Put>
void read_state(const Block<S>& block, const float* state, Index from, Index to, Put put) {
  Index n = block.size.width();
  each_columns(from, to, [&](auto vectors, Index c) {
    constexpr int V = decltype(vectors)::value;
    for (int x = 0; x < TWO; x += ROWS * STEP) {
      Tile<ROWS, V> tile;
      tile.clear();
      block.ahead->some();
      tile.add(block.reads + x * n, STEP * n, 1, state + c, n, n);
      tile.add(block.scores + x * TWO, STEP * TWO, 1, block.values + c, n, x);
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        int row = x + i * STEP;
        for (int y = x; y < seen(row); y++)
          tile.add_row(i, block.scores[row * TWO + y], block.values + y * n + c);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++)
          if (row % 2)
            put(row / 2, c + j * LANES, tile.x[i][j]);
          else
            store(block.values + row * n + c + j * LANES, tile.x[i][j]);
      }
    }
  });
}

// Gradients of what is written, from last to first. `grads` holds those of y in its odd rows; those
// of sa go to its even rows, those of v to put(t, c, gv). `after` is that of the state after.
template <int S, class Put>
void read_adjoint(const Block<S>& block, const float* after, float* grads, Index from, Index to,
                  Put put) {
  Index n = block.size.width();
  each_columns(from, to, [&](auto vectors, Index c) {
    constexpr int V = decltype(vectors)::value;
    for (int y = TWO - ROWS; y >= 0; y -= ROWS) {
      const int next = y + ROWS;
      Tile<ROWS, V> tile;
      tile.clear();
      block.ahead->some();
      tile.add(block.writes + y * n, n, 1, after + c, n, n);
      tile.add(block.scores + next * TWO + y, 1, TWO, grads + next * n + c, n, TWO - next);
#pragma GCC unroll 4
      for (int i = ROWS - 1; i >= 0; i--) {
        int row = y + i;
        for (int x = row % 2 ? row : row + 1; x < next; x++)
          tile.add_row(i, block.scores[x * TWO + row], grads + x * n + c);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++)
          if (row % 2)
            put(row / 2, c + j * LANES, tile.x[i][j]);
          else
            store(grads + row * n + c + j * LANES, tile.x[i][j]);
      }
    }
  });
}

// to[j] = whole[j] from[j] + sum over rows q of keys[q][j] values[q]: a state through a block, with
// its writes; or the gradient of a state back through it, with its reads.
template <int S>
void advance(const Block<S>& block, const float* keys, const float* values, const float* state,
             float* out, Index from, Index to) {
  Index n = block.size.width();
  each_columns(from, to, [&](auto vectors, Index c) {
    constexpr int V = decltype(vectors)::value;
    for (Index row = 0; row < n; row += ROWS) {
      Tile<ROWS, V> tile;
      tile.clear();
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++)
        tile.add_row(i, block.whole[row + i], state + (row + i) * n + c);
      block.ahead->some();
      tile.add(keys + row, 1, n, values + c, n, TWO);
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++)
          store(out + (row + i) * n + c + j * LANES, tile.x[i][j]);
    }
  });
}

// Gradients of r, w, k, a, b. `grads` are those of sa and y, `scores` those of block.scores;
// `state` before the block and `after`, the gradient of the one after it, are value-major here.
// `read_terms`, `write_terms` are scratch of TWO rows.
template <class E, int S>
void differentiate(const Block<S>& block, const float* grads, const float* scores,
                   const float* state, const float* after, const Gradients<E>& out,
                   float* read_terms, float* write_terms) {
  Size<S> size = block.size;
  Index n = size.width();
  each_columns(0, n, [&](auto vectors, Index c) {
    constexpr int V = decltype(vectors)::value;
    Tile<ROWS, V> inner, outer;  // from inside the block, and from beyond it
    for (int x = 0; x < 2 * block.length; x += ROWS) {
      inner.clear();
      block.ahead->some();
      inner.add(scores + x * TWO, TWO, 1, block.writes + c, n, x + ROWS);
      outer.clear();
      outer.add(grads + x * n, n, 1, state + c, n, n);
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) {
          Index at = c + j * LANES, row = (x + i) * n + at, edge = (x + i + 1) / 2 * n + at;
          vec near = inner.x[i][j], far = outer.x[i][j];
          store(read_terms + row, near * load(block.near + row) + far * load(block.reads + row));
          Index t = (x + i) / 2;
          if (t < block.length)
            size.write((i % 2 ? out.r : out.a)[block.start + t], at,
                       near * load(block.back + edge) + far * load(block.since + edge));
        }
    }
    for (int y = 0; y < 2 * block.length; y += ROWS) {
      inner.clear();
      block.ahead->some();
      inner.add(scores + y * TWO + y, 1, TWO, block.near + y * n + c, n, TWO - y);
      outer.clear();
      outer.add(block.values + y * n, n, 1, after + c, n, n);
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i += 2)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) {
          Index t = (y + i) / 2, at = c + j * LANES, b = (y + i) * n + at, k = b + n;
          vec keys[2] = {load(block.writes + b), load(block.writes + k)};
          store(write_terms + b, inner.x[i][j] * keys[0] + inner.x[i + 1][j] * keys[1]);
          store(write_terms + k, outer.x[i][j] * keys[0] + outer.x[i + 1][j] * keys[1]);
          if (t >= block.length) continue;
          vec until = load(block.until + (t + 1) * n + at);
          size.write(out.b[block.start + t], at, (inner.x[i][j] + outer.x[i][j]) * until);
          size.write(out.k[block.start + t], at, (inner.x[i + 1][j] + outer.x[i + 1][j]) * until);
        }
    }
  });
  // w_u decays what was there before token u on its way to reads from r_u on, and to the end.
  for (Index c = 0; c < n; c += LANES) {
    vec sums[4] = {}, across[BLOCK];
    for (Index i = 0; i < n; i += 4)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        sums[j] += load(after + (i + j) * n + c) * load(state + (i + j) * n + c);
    vec through = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * load(block.whole + c);
    for (Index t = 0; t < block.length; t++) {
      across[t] = through;
      through += load(write_terms + (2 * t + 1) * n + c);
    }
    vec later{};
    for (Index t = block.length - 1; t >= 0; t--) {
      const float* at = read_terms + 2 * t * n + c;
      later += load(at + n) - load(write_terms + 2 * t * n + c);
      size.write(out.w[block.start + t], c, across[t] + later);
      later += load(at);
    }
  }
}

}  // namespace wkv7
