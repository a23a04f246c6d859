// One token through a whole model in one call: the decoding path of the CPU. A program, made by
// models/decoding/program.py, is a list of instructions over a table of addresses; every thread walks through
// all of it and does its share of each instruction, so a token costs one call and one pass over the
// weights. Weights, states and caches are of type E, matrices perhaps of int8 with a scale for each
// row, everything between them is fp32.

#ifdef _OPENMP
#include <omp.h>
#endif

#include <type_traits>

#include "cpu/rows.h"

namespace {

struct Instruction {
  Index code, beside;  // beside: may run at the same time as the one before it
  Index n[6];
  Index p[20];  // places in the table of addresses; -1: not given
  double f[2];
};

enum Code { EMBED, COPY, NORM, LINEAR, LOW_RANK, SWIGLU, WKV4, WKV6, WKV7, MIX6, ATTEND };
enum Activation { NONE, TANH, SIGMOID, SQUARED_RELU, GELU, GELU_TANH };
enum Sink { SET, ADD, ADD_GATED };

inline float reduce(vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  return sum_(x);
#endif
}

inline float activate(Index kind, float x) {
  switch (kind) {
    case TANH:
      return std::tanh(x);
    case SIGMOID:
      return 1 / (1 + std::exp(-x));
    case SQUARED_RELU:
      return x > 0 ? x * x : 0;
    case GELU:
      return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case GELU_TANH:
      return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    default:
      return x;
  }
}

// sum_k x[k] M[k * stride] over `count` rows of M, for COLUMNS vectors of columns.
template <int COLUMNS, class E>
void weighted(const E* M, Index stride, Index count, const float* x, int lanes, vec* out) {
  constexpr int CHAINS = COLUMNS >= 4 ? 1 : 4;  // sums under way at once, to hide latency
  vec sums[CHAINS][COLUMNS] = {};
  Index k = 0;
  for (; k + CHAINS <= count; k += CHAINS)
    for (int chain = 0; chain < CHAINS; chain++)
      for (int j = 0; j < COLUMNS; j++)
        sums[chain][j] += read(M + (k + chain) * stride + j * LANES, lanes) * x[k + chain];
  for (; k < count; k++)
    for (int j = 0; j < COLUMNS; j++) sums[0][j] += read(M + k * stride + j * LANES, lanes) * x[k];
  for (int j = 0; j < COLUMNS; j++) {
    out[j] = sums[0][j];
    for (int chain = 1; chain < CHAINS; chain++) out[j] += sums[chain][j];
  }
}

struct Team {
  int thread, threads;
  // This thread's part of `total`, cut at multiples of `grain`.
  void share(Index total, Index grain, Index& from, Index& to) const {
    Index grains = (total + grain - 1) / grain;
    from = std::min(total, grains * thread / threads * grain);
    to = std::min(total, grains * (thread + 1) / threads * grain);
  }
};

template <class E>
struct Machine {
  void* const* table;
  Index B;
  Team team;

  template <class T = E>
  T* at(const Instruction& i, int slot) const {
    return i.p[slot] < 0 ? nullptr : static_cast<T*>(table[i.p[slot]]);
  }
  float* work(const Instruction& i, int slot) const { return at<float>(i, slot); }

  // body(c, lanes) for the vectors of this thread's channels.
  template <class Body>
  void my_channels(Index width, Body body) const {
    Index from, to;
    team.share(width, LANES, from, to);
    for (Index c = from; c < to; c += LANES) body(c, int(std::min<Index>(LANES, to - c)));
  }

  // x[b] = table[token[b]] (+ position). n: C. p: tokens, table, positions, x, past of each row.
  void embed(const Instruction& i) const {
    Index C = i.n[0];
    const E *rows = at(i, 1), *positions = at(i, 2);
    for (Index b = 0; b < B; b++) {
      Index token = at<Index>(i, 0)[b];
      my_channels(C, [&](Index c, int lanes) {
        vec x = read(rows + token * C + c, lanes);
        if (positions) x += read(positions + at<Index>(i, 4)[b] * C + c, lanes);
        write(work(i, 3) + b * C + c, x, lanes);
      });
    }
  }

  // n: C. p: from, to.
  void copy(const Instruction& i) const {
    my_channels(B * i.n[0], [&](Index c, int lanes) {
      write(work(i, 1) + c, read(work(i, 0) + c, lanes), lanes);
    });
  }

  // out_m = shift and mix of the norm of x. Without mixes: out_0 = the norm.
  // n: C, mixes, of the current token (else of the last one), root mean square only. f: eps.
  // p: x, weight, bias, state, mu of 6, out of 6.
  void norm(const Instruction& i) const {
    Index C = i.n[0], mixes = i.n[1];
    const E *weight = at(i, 1), *bias = at(i, 2);
    E* state = at(i, 3);
    for (Index b = 0; b < B; b++) {
      const float* x = work(i, 0) + b * C;
      vec sum{}, squares{};
      float mean = 0;
      if (!i.n[3]) {
        each_vector(C, [&](Index c, int lanes) { sum += read(x + c, lanes); });
        mean = reduce(sum) / C;
      }
      each_vector(C, [&](Index c, int lanes) {
        vec away = read(x + c, lanes) - mean;
        if (lanes < LANES)
          for (int j = lanes; j < LANES; j++) away[j] = 0;
        squares += away * away;
      });
      float inverse = 1 / std::sqrt(reduce(squares) / C + float(i.f[0]));
      my_channels(C, [&](Index c, int lanes) {
        vec z = (read(x + c, lanes) - mean) * inverse * read(weight + c, lanes);
        if (bias) z += read(bias + c, lanes);
        if (!mixes) return write(work(i, 10) + b * C + c, z, lanes);
        vec past = read(state + b * C + c, lanes);
        for (int m = 0; m < mixes; m++) {
          vec mu = read(at(i, 4 + m) + c, lanes);
          vec out = i.n[2] ? past + (z - past) * mu : z + (past - z) * mu;
          write(work(i, 10 + m) + b * C + c, out, lanes);
        }
        write(state + b * C + c, z, lanes);
        if (float* kept = work(i, 16)) write(kept + b * C + c, z, lanes);
        if (float* kept = work(i, 17)) write(kept + b * C + c, past, lanes);
      });
    }
  }

  // out[q][k] = sum_c W[k, c] x[q, c] for R rows of W and Q of x, each summed in the same order
  // whatever R and Q are. Rows of x are `stride` apart.
  template <int R, int Q = 1, class T>
  static void dots(const T* W, Index width, const float* x, float (*out)[R], Index stride = 0) {
    vec sums[Q][R] = {};
    Index c = 0;
    for (; c + LANES <= width; c += LANES) {
      vec here[Q];
      for (int q = 0; q < Q; q++) here[q] = load(x + q * stride + c);
      for (int k = 0; k < R; k++) {
        vec weight = load(W + k * width + c);
        for (int q = 0; q < Q; q++) sums[q][k] += weight * here[q];
      }
    }
    if (int rest = int(width - c)) {
      vec here[Q];
      for (int q = 0; q < Q; q++) here[q] = load(x + q * stride + c, rest);
      for (int k = 0; k < R; k++) {
        vec weight = load(W + k * width + c, rest);
        for (int q = 0; q < Q; q++) sums[q][k] += weight * here[q];
      }
    }
    for (int q = 0; q < Q; q++)
      for (int k = 0; k < R; k++) out[q][k] = reduce(sums[q][k]);
  }

  template <int R>
  static auto as_rows(float* out) {
    return reinterpret_cast<float (*)[R]>(out);
  }

  // put(b, o, sum_c W[o, c] x[b, c]) for `outs` rows of W in turns of R, and every row of x.
  template <class T, class Put>
  void product(const T* W, Index outs, Index width, const float* x, Put put) const {
    constexpr int R = 4, Q = LANES >= 16 ? 4 : 2;  // sums that the registers hold
    Index o = 0;
    auto rows = [&](auto count) {
      constexpr int K = decltype(count)::value;
      const T* here = W + o * width;
      Index b = 0;
      for (; b + Q <= B; b += Q) {
        float y[Q][K];
        dots<K, Q>(here, width, x + b * width, y, width);
        for (int q = 0; q < Q; q++)
          for (int k = 0; k < K; k++) put(b + q, o + k, y[q][k]);
      }
      for (; b < B; b++) {
        float y[1][K];
        dots<K>(here, width, x + b * width, y);
        for (int k = 0; k < K; k++) put(b, o + k, y[0][k]);
      }
      o += K;
    };
    // A single row of x has room for more rows of W at once.
    if (B < Q)
      while (o + 2 * R <= outs) rows(std::integral_constant<int, 2 * R>{});
    while (o + R <= outs) rows(std::integral_constant<int, R>{});
    while (o < outs) rows(std::integral_constant<int, 1>{});
  }

  // body(W, scale of a row) with the matrix at `slot`, which has int8 elements where it has scales.
  template <class Body>
  void with_matrix(const Instruction& i, int slot, int scales, Body body) const {
    if (const float* scale = at<float>(i, scales))
      body(at<int8_t>(i, slot), [=](Index row) { return scale[row]; });
    else
      body(at(i, slot), [](Index) { return 1.f; });
  }

  static void put(const Instruction& i, float* out, const float* gate, Index o, float value) {
    if (i.n[3] == SET)
      out[o] = value;
    else
      out[o] += i.n[3] == ADD ? value : value / (1 + std::exp(-gate[o]));
  }

  // out = activation(W x + bias). n: in, out, activation, sink. p: x, W, bias, gate, out, scales of W.
  void linear(const Instruction& i) const {
    Index in = i.n[0], outs = i.n[1], from, to;
    const E* bias = at(i, 2);
    const float* gate = work(i, 3);
    team.share(outs, 8, from, to);
    with_matrix(i, 1, 5, [&](auto* W, auto scale) {
      product(W + from * in, to - from, in, work(i, 0), [&](Index b, Index row, float y) {
        Index o = from + row;
        float value = y * scale(o) + (bias ? to_float(bias[o]) : 0);
        put(i, work(i, 4) + b * outs, gate ? gate + b * outs : nullptr, o, activate(i.n[2], value));
      });
    });
  }

  // out = activation(x M), M [in, out]. n: in, out, activation. p: x, M, out.
  void low_rank(const Instruction& i) const {
    Index in = i.n[0], outs = i.n[1];
    const E* M = at(i, 1);
    for (Index b = 0; b < B; b++) {
      const float* x = work(i, 0) + b * in;
      my_channels(outs, [&](Index o, int lanes) {
        vec y;
        weighted<1>(M + o, outs, in, x, lanes, &y);
        if (i.n[2] != NONE)
          for (int j = 0; j < lanes; j++) y[j] = activate(i.n[2], y[j]);
        write(work(i, 2) + b * outs + o, y, lanes);
      });
    }
  }

  // out = silu(W_0 x + b_0) * (W_1 x + b_1), W = (W_0, W_1). n: in, out. p: x, W, out, b, scales.
  void swiglu(const Instruction& i) const {
    Index in = i.n[0], outs = i.n[1], from, to;
    const E* bias = at(i, 3);
    float* out = work(i, 2);
    team.share(outs, 8, from, to);
    with_matrix(i, 1, 4, [&](auto* W, auto scale) {
      auto half = [&](Index first, auto store) {
        product(W + first * in, to - from, in, work(i, 0), [&](Index b, Index row, float y) {
          float value = y * scale(first + row) + (bias ? to_float(bias[first + row]) : 0);
          store(out[b * outs + from + row], value);
        });
      };
      half(from, [](float& place, float gate) { place = gate / (1 + std::exp(-gate)); });
      half(outs + from, [](float& place, float up) { place *= up; });
    });
  }

  // RWKV-4: out = sigmoid(r) wkv. n: C. p: r, k, v, time_decay, time_first, state (aa, bb, pp), out.
  void wkv4(const Instruction& i) const {
    Index C = i.n[0];
    for (Index b = 0; b < B; b++)
      my_channels(C, [&](Index c, int lanes) {
        Index at_c = b * C + c;
        float* rows = work(i, 5) + b * 3 * C + c;
        vec k = read(work(i, 1) + at_c, lanes), v = read(work(i, 2) + at_c, lanes);
        vec w = -exp_(min_(vec{} + 88.f, read(at(i, 3) + c, lanes)));
        vec u = read(at(i, 4) + c, lanes);
        vec aa = read(rows, lanes), bb = read(rows + C, lanes), pp = read(rows + 2 * C, lanes);
        vec q = max_(pp, u + k), past = exp_(pp - q), now = exp_((k - q) + u);
        vec y = (past * aa + now * v) / (past * bb + now);
        vec p = max_(pp + w, k), from = exp_((pp - p) + w), add = exp_(k - p);
        write(rows, from * aa + add * v, lanes);
        write(rows + C, from * bb + add, lanes);
        write(rows + 2 * C, p, lanes);
        write(work(i, 6) + at_c, y * sigmoid(read(work(i, 0) + at_c, lanes)), lanes);
      });
  }

  // body(b, head, first channel) for this thread's heads.
  template <class Body>
  void my_heads(Index heads, Body body) const {
    Index from, to;
    team.share(B * heads, 1, from, to);
    for (Index i = from; i < to; i++) body(i / heads, i % heads);
  }

  // out = norm(y) * weight + bias of one head.
  static void head_norm(Index N, float* y, const E* weight, const E* bias, float eps) {
    vec sum{}, squares{};
    each_vector(N, [&](Index c, int lanes) { sum += read(y + c, lanes); });
    float mean = reduce(sum) / N;
    each_vector(N, [&](Index c, int lanes) {
      vec away = read(y + c, lanes) - mean;
      if (lanes < LANES)
        for (int j = lanes; j < LANES; j++) away[j] = 0;
      squares += away * away;
    });
    float inverse = 1 / std::sqrt(reduce(squares) / N + eps);
    each_vector(N, [&](Index c, int lanes) {
      vec n = (read(y + c, lanes) - mean) * inverse;
      write(y + c, n * read(weight + c, lanes) + read(bias + c, lanes), lanes);
    });
  }

  // RWKV-5 and 6: out = norm(wkv) silu(g). n: H, N. f: eps.
  // p: r, k, v, g or none, time_decay, its change or none, time_faaaa, weight, bias, state, out.
  void wkv6(const Instruction& i) const {
    Index H = i.n[0], N = i.n[1], C = H * N;
    my_heads(H, [&](Index b, Index h) {
      Index base = b * C + h * N, channel = h * N;
      const float *r = work(i, 0) + base, *k = work(i, 1) + base, *v = work(i, 2) + base;
      float *S = work(i, 9) + (b * H + h) * N * N, *y = work(i, 10) + base;
      for (Index j = 0; j < N; j++) y[j] = 0;
      for (Index row = 0; row < N; row++) {
        float d = to_float(at(i, 4)[channel + row]);
        if (at<float>(i, 5)) d += work(i, 5)[base + row];
        float w = std::exp(-std::exp(d)), bonus = to_float(at(i, 6)[channel + row]) * k[row];
        each_vector(N, [&](Index c, int lanes) {
          vec s = read(S + row * N + c, lanes), value = read(v + c, lanes);
          write(y + c, read(y + c, lanes) + r[row] * (s + bonus * value), lanes);
          write(S + row * N + c, w * s + k[row] * value, lanes);
        });
      }
      head_norm(N, y, at(i, 7) + channel, at(i, 8) + channel, float(i.f[0]));
      if (!at<float>(i, 3)) return;
      each_vector(N, [&](Index c, int lanes) {
        vec g = read(work(i, 3) + base + c, lanes);
        write(y + c, read(y + c, lanes) * g * sigmoid(g), lanes);
      });
    });
  }

  // RWKV-7: out = (norm(wkv) + bonus) g. n: H, N, first layer. f: eps.
  // p: r, k, v, g, changes of w, a and v, w0, a0, v0, k_k, k_a, r_k, weight, bias, state, v_first,
  // out.
  void wkv7(const Instruction& i) const {
    Index H = i.n[0], N = i.n[1], C = H * N;
    std::vector<float> room(5 * N + 5 * LANES);
    float *w = room.data(), *a = w + N, *b_ = a + N, *key = b_ + N, *value = key + N;
    my_heads(H, [&](Index b, Index h) {
      Index base = b * C + h * N, channel = h * N;
      const float *r = work(i, 0) + base, *k = work(i, 1) + base, *v = work(i, 2) + base;
      float *S = work(i, 15) + (b * H + h) * N * N, *y = work(i, 17) + base;
      float* first = work(i, 16) + base;
      vec norm{}, agreement{};
      each_vector(N, [&](Index c, int lanes) {
        vec u = read(k + c, lanes) * read(at(i, 10) + channel + c, lanes);
        norm += u * u;
      });
      float inverse = 1 / std::max(std::sqrt(reduce(norm)), 1e-12f);
      each_vector(N, [&](Index c, int lanes) {
        vec k_c = read(k + c, lanes), v_c = read(v + c, lanes);
        vec d = read(at(i, 7) + channel + c, lanes) + read(work(i, 4) + base + c, lanes);
        vec rate = read(at(i, 8) + channel + c, lanes) + read(work(i, 5) + base + c, lanes);
        rate = sigmoid(rate);
        vec kappa = k_c * read(at(i, 10) + channel + c, lanes) * inverse;
        vec k_new = k_c * (1.f + (rate - 1.f) * read(at(i, 11) + channel + c, lanes));
        if (i.n[2]) {
          write(first + c, v_c, lanes);
        } else {
          vec share = read(at(i, 9) + channel + c, lanes) + read(work(i, 6) + base + c, lanes);
          v_c += (read(first + c, lanes) - v_c) * sigmoid(share);
        }
        write(w + c, exp_(-0.60653066f * sigmoid(d)), lanes);
        write(a + c, -kappa, lanes);
        write(b_ + c, kappa * rate, lanes);
        write(key + c, k_new, lanes);
        write(value + c, v_c, lanes);
        agreement += read(r + c, lanes) * k_new * read(at(i, 12) + channel + c, lanes);
      });
      for (Index row = 0; row < N; row++) {
        float* s = S + row * N;
        vec removed{}, sum{};
        each_vector(N, [&](Index c, int lanes) { removed += read(s + c, lanes) * read(a + c, lanes); });
        float sa = reduce(removed), v_row = value[row];
        each_vector(N, [&](Index c, int lanes) {
          vec now = read(s + c, lanes) * read(w + c, lanes) + sa * read(b_ + c, lanes) +
                    v_row * read(key + c, lanes);
          write(s + c, now, lanes);
          sum += now * read(r + c, lanes);
        });
        y[row] = reduce(sum);
      }
      head_norm(N, y, at(i, 13) + channel, at(i, 14) + channel, float(i.f[0]));
      float bonus = reduce(agreement);
      each_vector(N, [&](Index c, int lanes) {
        vec out = read(y + c, lanes) + bonus * read(value + c, lanes);
        write(y + c, out * read(work(i, 3) + base + c, lanes), lanes);
      });
    });
  }

  // RWKV-6's shift: out_m = z + (past - z) (mu_m + low_m A_m). n: C, R.
  // p: z, past, low [B, 5 R], A [5, R, C], mu of 5, out of 5.
  void mix6(const Instruction& i) const {
    Index C = i.n[0], R = i.n[1];
    for (Index b = 0; b < B; b++)
      my_channels(C, [&](Index c, int lanes) {
        vec z = read(work(i, 0) + b * C + c, lanes);
        vec step = read(work(i, 1) + b * C + c, lanes) - z;
        for (int m = 0; m < 5; m++) {
          vec change;
          weighted<1>(at(i, 3) + m * R * C + c, C, R, work(i, 2) + (b * 5 + m) * R, lanes, &change);
          vec share = read(at(i, 4 + m) + c, lanes) + change;
          write(work(i, 9 + m) + b * C + c, z + step * share, lanes);
        }
      });
  }

  // Attention of each row over its cache [G, capacity, N] after writing this token into it. Once full, a
  // cache is a ring that holds the last `capacity` tokens (models/layers/attention_block.py grows all others).
  // n: H, G, N, rotary. f: base of the angles. p: qkv, addresses of the rows' keys and values, (past,
  // capacity) of each row, out, and angles per token [N / 2] if they do not follow from the base.
  void attend(const Instruction& i) const {
    Index H = i.n[0], G = i.n[1], N = i.n[2], width = (H + 2 * G) * N;
    const float* given = work(i, 5);
    std::vector<float> scores, turned(N + LANES);
    auto turn = [&](Index past, const float* x, float* out) {
      if (!i.n[3]) return void(std::copy(x, x + N, out));
      for (Index j = 0; j < N / 2; j++) {
        float angle =
            float(past) * (given ? given[j] : std::pow(float(i.f[0]), -float(j) / float(N / 2)));
        float cosine = std::cos(angle), sine = std::sin(angle);
        out[j] = x[j] * cosine - x[j + N / 2] * sine;
        out[j + N / 2] = x[j + N / 2] * cosine + x[j] * sine;
      }
    };
    my_heads(G, [&](Index b, Index g) {
      const float *qkv = work(i, 0) + b * width, *v = qkv + (H + G + g) * N;
      Index past = at<Index>(i, 3)[2 * b], capacity = at<Index>(i, 3)[2 * b + 1];
      Index slot = past % capacity, seen = std::min(past + 1, capacity);
      scores.resize(std::max<Index>(seen, scores.size()));
      E* keys = at<E*>(i, 1)[b] + g * capacity * N;
      E* values = at<E*>(i, 2)[b] + g * capacity * N;
      turn(past, qkv + (H + g) * N, turned.data());
      for (Index j = 0; j < N; j++) {
        from_float(turned[j], keys[slot * N + j]);
        from_float(v[j], values[slot * N + j]);
      }
      for (Index h = g * (H / G); h < (g + 1) * (H / G); h++) {
        turn(past, qkv + h * N, turned.data());
        float scale = 1 / std::sqrt(float(N)), top = -INFINITY, total = 0;
        Index t = 0;
        for (; t + 8 <= seen; t += 8) dots<8>(keys + t * N, N, turned.data(), as_rows<8>(&scores[t]));
        for (; t < seen; t++) dots<1>(keys + t * N, N, turned.data(), as_rows<1>(&scores[t]));
        for (t = 0; t < seen; t++) top = std::max(top, scores[t] *= scale);
        vec sum{};
        each_vector(seen, [&](Index c, int lanes) {
          vec e = exp_(read(scores.data() + c, lanes) - top);
          write(scores.data() + c, e, lanes);
          if (lanes < LANES)
            for (int j = lanes; j < LANES; j++) e[j] = 0;
          sum += e;
        });
        total = reduce(sum);
        float* out = work(i, 4) + (b * H + h) * N;
        constexpr int WIDE = 4 * LANES;
        Index c = 0;
        for (; c + WIDE <= N; c += WIDE) {
          vec mean[4];
          weighted<4>(values + c, N, seen, scores.data(), LANES, mean);
          for (int j = 0; j < 4; j++) write(out + c + j * LANES, mean[j] / total, LANES);
        }
        for (; c < N; c += LANES) {
          int lanes = int(std::min<Index>(LANES, N - c));
          vec mean;
          weighted<1>(values + c, N, seen, scores.data(), lanes, &mean);
          write(out + c, mean / total, lanes);
        }
      }
    });
  }

  void run(const Instruction& i) const {
    switch (i.code) {
      case EMBED: return embed(i);
      case COPY: return copy(i);
      case NORM: return norm(i);
      case LINEAR: return linear(i);
      case LOW_RANK: return low_rank(i);
      case SWIGLU: return swiglu(i);
      case WKV4: return wkv4(i);
      case WKV6: return wkv6(i);
      case WKV7: return wkv7(i);
      case MIX6: return mix6(i);
      case ATTEND: return attend(i);
    }
  }
};

template <class E>
void step(Index count, const Instruction* program, void* const* table, Index B, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
    Team team{0, 1};
#ifdef _OPENMP
    team = {omp_get_thread_num(), omp_get_num_threads()};
#endif
    Machine<E> machine{table, B, team};
    for (Index i = 0; i < count; i++) {
      if (!program[i].beside) {
#pragma omp barrier
      }
      machine.run(program[i]);
    }
  }
}

}  // namespace

#define STEP(NAME, E)                                                                      \
  void step_##NAME(Index count, const Instruction* program, void* const* table, Index B,   \
                   int threads) {                                                          \
    step<E>(count, program, table, B, threads);                                            \
  }

extern "C" {
STEP(float32, float)
STEP(bfloat16, bf16)
STEP(float16, fp16)
}
