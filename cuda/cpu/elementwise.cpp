// The elementwise work of the models on the CPU, each in one pass over memory: token shift and
// mix, sigmoid gate, squared ReLU; SwiGLU, RMSNorm, rotation; and their gradients. Plain C
// interface, called from models/ops/elementwise/cpu.py. Arithmetic in fp32; element types float, bf16, fp16.

#include "cpu/rows.h"

namespace {

constexpr Index TILE = 32;  // rows walked down one vector of channels
constexpr Index ITEM = 512; // rows of one unit of work; fixed, so sums do not vary

// ---------------------------------------------------------------- flat arrays

// body(i, read, write): read(p) loads and write(p, x) stores the vector at element i. `address` is
// that of the output; of several, their bitwise or.
template <class E, class Body>
void each(Index n, uintptr_t address, int most, Body body) {
  bool streamed = Index(n * sizeof(E)) >= STREAM && address % sizeof(vec) == 0;
  Index whole = n / LANES;
#pragma omp parallel num_threads(useful_threads(n, most))
  {
    FlushDenormals flush;
    auto read = [](const E* p) { return load(p); };
    auto keep = [](E* p, vec x) { store(p, x); };
    auto pass = [](E* p, vec x) { stream(p, x); };
    if (streamed) {
#pragma omp for schedule(static)
      for (Index i = 0; i < whole; i++) body(i * LANES, read, pass);
    } else {
#pragma omp for schedule(static)
      for (Index i = 0; i < whole; i++) body(i * LANES, read, keep);
    }
  }
  if (int rest = int(n % LANES)) {
    FlushDenormals flush;
    body(whole * LANES, [&](const E* p) { return load(p, rest); },
         [&](E* p, vec x) { store(p, x, rest); });
  }
}

template <class E>
void gate(Index n, const E* r, const E* x, E* out, int threads) {
  each<E>(n, uintptr_t(out), threads, [&](Index i, auto read, auto write) {
    write(out + i, sigmoid(read(r + i)) * read(x + i));
  });
}

template <class E>
void gate_backward(Index n, const E* r, const E* x, const E* grad, E* gr, E* gx, int threads) {
  each<E>(n, uintptr_t(gr) | uintptr_t(gx), threads, [&](Index i, auto read, auto write) {
    vec k = read(r + i), s = sigmoid(k), through = read(grad + i) * s;
    write(gr + i, through * read(x + i) * sigmoid(-k));  // 1 - s without cancellation
    write(gx + i, through);
  });
}

template <class E>
void squared_relu(Index n, const E* x, E* out, int threads) {
  each<E>(n, uintptr_t(out), threads, [&](Index i, auto read, auto write) {
    vec positive = max_(vec{}, read(x + i));
    write(out + i, positive * positive);
  });
}

template <class E>
void squared_relu_backward(Index n, const E* x, const E* grad, E* gx, int threads) {
  each<E>(n, uintptr_t(gx), threads, [&](Index i, auto read, auto write) {
    write(gx + i, 2.f * max_(vec{}, read(x + i)) * read(grad + i));
  });
}

// ---------------------------------------------------------------- token shift and mix

// body(row, rows, first channel, lanes) for every tile of `from..to` and vector of channels.
template <class Body>
void each_tile(Index from, Index to, Index C, Body body) {
  for (Index t = from; t < to; t += TILE)
    for (Index c = 0; c < C; c += LANES)
      body(t, std::min(TILE, to - t), c, int(std::min<Index>(LANES, C - c)));
}

template <class E>
bool may_stream(const E* p, Index C, Index elements) {
  return (uintptr_t(p) | (C * sizeof(E))) % sizeof(vec) == 0 && Index(elements * sizeof(E)) >= STREAM;
}

// out_m = previous + (z - previous) mu_m, previous being the row before.
template <int M, class E>
void mix(Index B, Index T, Index C, const E* z, const E* previous, const float* mu, E* const* out,
         int threads) {
  Index items = (T + ITEM - 1) / ITEM;
  bool streamed = true;
  for (int m = 0; m < M; m++) streamed &= may_stream(out[m], C, B * T * C);
#pragma omp parallel num_threads(useful_threads(B* T* C, threads))
  {
    FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (Index item = 0; item < B * items; item++) {
      Index b = item / items, from = item % items * ITEM;
      each_tile(from, std::min(T, from + ITEM), C, [&](Index t, Index rows, Index c, int lanes) {
        const E* here = z + (b * T + t) * C + c;
        vec past = t > 0 ? read(here - C, lanes) : read(previous + b * C + c, lanes);
        vec share[M];
        for (int m = 0; m < M; m++) share[m] = read(mu + m * C + c, lanes);
        for (Index i = 0; i < rows; i++) {
          __builtin_prefetch(here + (i + TILE) * C, 0, 2);
          vec now = read(here + i * C, lanes), step = now - past;
          for (int m = 0; m < M; m++)
            write(out[m] + (b * T + t + i) * C + c, past + step * share[m], lanes, streamed);
          past = now;
        }
      });
    }
  }
}

// gz_t = sum_m g_m,t mu_m + g_m,t+1 (1 - mu_m);  gmu_m = sum_t g_m,t (z_t - z_t-1).
template <int M, class E>
void mix_backward(Index B, Index T, Index C, const E* z, const E* previous, const float* mu,
                  const E* const* grad, E* gz, E* gprevious, float* gmu, int threads) {
  Index items = (T + ITEM - 1) / ITEM, width = M * ((C + LANES - 1) / LANES);
  std::vector<vec> partial(B * items * width);
  bool streamed = may_stream(gz, C, B * T * C);
#pragma omp parallel num_threads(useful_threads(B* T* C, threads))
  {
    FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (Index item = 0; item < B * items; item++) {
      Index b = item / items, from = item % items * ITEM;
      each_tile(from, std::min(T, from + ITEM), C, [&](Index t, Index rows, Index c, int lanes) {
        Index start = (b * T + t) * C + c;
        vec past = t > 0 ? read(z + start - C, lanes) : read(previous + b * C + c, lanes);
        vec share[M], sum[M] = {}, pending{};  // pending: what row t takes of its own gradients
        for (int m = 0; m < M; m++) share[m] = read(mu + m * C + c, lanes);
        for (Index i = 0; i <= rows; i++) {
          vec own{}, to_past{};
          if (t + i < T) {  // row `rows` belongs to the next tile: only what it sends back
            vec all{};
            for (int m = 0; m < M; m++) {
              const E* g = grad[m] + start + i * C;
              __builtin_prefetch(g + TILE * C, 0, 2);
              vec x = read(g, lanes);
              own += x * share[m];
              all += x;
              if (i < rows) sum[m] += x * (read(z + start + i * C, lanes) - past);
            }
            to_past = all - own;
          }
          if (i > 0)
            write(gz + start + (i - 1) * C, pending + to_past, lanes, streamed);
          else if (t == 0)
            write(gprevious + b * C + c, to_past, lanes);
          pending = own;
          if (i < rows) past = read(z + start + i * C, lanes);
        }
        for (int m = 0; m < M; m++) partial[item * width + c / LANES * M + m] += sum[m];
      });
    }
  }
  for (Index c = 0; c < C; c++)
    for (int m = 0; m < M; m++) {
      double total = 0;
      for (Index item = 0; item < B * items; item++)
        total += partial[item * width + c / LANES * M + m][c % LANES];
      gmu[m * C + c] = float(total);
    }
}

// ---------------------------------------------------------------- rows: SwiGLU, RMSNorm, rotation

// x = (gate, up), each of `width`: out = gate sigmoid(gate) up.
template <class E>
void swiglu(Index rows, Index width, const E* x, E* out, int threads) {
  each_row(rows, width, threads, [&](Index row) {
    const E* gate = x + row * 2 * width;
    each_vector(width, [&](Index c, int lanes) {
      vec k = read(gate + c, lanes);
      write(out + row * width + c, k * sigmoid(k) * read(gate + width + c, lanes), lanes);
    });
  });
}

template <class E>
void swiglu_backward(Index rows, Index width, const E* x, const E* grad, E* gx, int threads) {
  each_row(rows, width, threads, [&](Index row) {
    const E* gate = x + row * 2 * width;
    E* ggate = gx + row * 2 * width;
    each_vector(width, [&](Index c, int lanes) {
      vec k = read(gate + c, lanes), s = sigmoid(k), g = read(grad + row * width + c, lanes);
      write(ggate + c, g * read(gate + width + c, lanes) * s * (1.f + k * sigmoid(-k)), lanes);
      write(ggate + width + c, g * k * s, lanes);
    });
  });
}

// 1 / rms of a row, rms = sqrt(mean(x^2) + eps).
template <class E>
float inverse_rms(Index width, const E* x, float eps) {
  vec squares{};
  each_vector(width, [&](Index c, int lanes) {
    vec value = read(x + c, lanes);
    squares += value * value;
  });
  return 1 / std::sqrt(sum_(squares) / width + eps);
}

// out = x weight / rms.
template <class E>
void rms_norm(Index rows, Index width, const E* x, const float* weight, float eps, E* out,
              int threads) {
  each_row(rows, width, threads, [&](Index row) {
    const E* here = x + row * width;
    float scale = inverse_rms(width, here, eps);
    each_vector(width, [&](Index c, int lanes) {
      write(out + row * width + c, read(here + c, lanes) * scale * read(weight + c, lanes), lanes);
    });
  });
}

// With n = x / rms and h = grad weight: gx = (h - n mean(h n)) / rms, gweight = sum of grad n.
template <class E>
void rms_norm_backward(Index rows, Index width, const E* x, const float* weight, float eps,
                       const E* grad, E* gx, float* gweight, int threads) {
  RowSums totals(rows, (width + LANES - 1) / LANES, 1);
  totals.each_row(rows, width, threads, [&](Index row, vec* sums) {
    const E *here = x + row * width, *g = grad + row * width;
    float scale = inverse_rms(width, here, eps);
    vec product{};
    each_vector(width, [&](Index c, int lanes) {
      vec normed = read(here + c, lanes) * scale, through = read(g + c, lanes);
      product += through * read(weight + c, lanes) * normed;
      sums[c / LANES] += through * normed;
    });
    float mean = sum_(product) / width;
    each_vector(width, [&](Index c, int lanes) {
      vec normed = read(here + c, lanes) * scale;
      vec through = read(g + c, lanes) * read(weight + c, lanes);
      write(gx + row * width + c, (through - normed * mean) * scale, lanes);
    });
  });
  for (Index c = 0; c < width; c++) gweight[c] = totals.total(c / LANES, 0, c % LANES);
}

// Rows of `heads` heads of 2 `half` channels, `stride` elements apart in x and dense in out; row r
// is at position r % length. (first, second) -> (first cos - second sin, second cos + first sin).
template <class E>
void rotate(Index rows, Index length, Index heads, Index half, Index stride, const E* x,
            const float* cosine, const float* sine, float direction, E* out, int threads) {
  each_row(rows, heads * 2 * half, threads, [&](Index row) {
    const float *c = cosine + row % length * half, *s = sine + row % length * half;
    for (Index head = 0; head < heads; head++) {
      const E* from = x + row * stride + head * 2 * half;
      E* to = out + (row * heads + head) * 2 * half;
      each_vector(half, [&](Index i, int lanes) {
        vec first = read(from + i, lanes), second = read(from + half + i, lanes);
        vec cos = read(c + i, lanes), sin = read(s + i, lanes) * direction;
        write(to + i, first * cos - second * sin, lanes);
        write(to + half + i, second * cos + first * sin, lanes);
      });
    }
  });
}

// The number of mixes is a compile-time constant, so that their shares stay in registers.
template <int M, class Call>
void with_count(int count, Call call) {
  if constexpr (M > 0) {
    if (count == M)
      call(std::integral_constant<int, M>{});
    else
      with_count<M - 1>(count, call);
  }
}
constexpr int MOST_MIXES = 6;

}  // namespace

#define POINTWISE(NAME, E)                                                                         \
  void gate_##NAME(Index n, const E* r, const E* x, E* out, int threads) {                         \
    gate(n, r, x, out, threads);                                                                   \
  }                                                                                                \
  void gate_backward_##NAME(Index n, const E* r, const E* x, const E* grad, E* gr, E* gx,          \
                            int threads) {                                                         \
    gate_backward(n, r, x, grad, gr, gx, threads);                                                 \
  }                                                                                                \
  void squared_relu_##NAME(Index n, const E* x, E* out, int threads) {                             \
    squared_relu(n, x, out, threads);                                                              \
  }                                                                                                \
  void squared_relu_backward_##NAME(Index n, const E* x, const E* grad, E* gx, int threads) {      \
    squared_relu_backward(n, x, grad, gx, threads);                                                \
  }                                                                                                \
  void swiglu_##NAME(Index rows, Index width, const E* x, E* out, int threads) {                   \
    swiglu(rows, width, x, out, threads);                                                          \
  }                                                                                                \
  void swiglu_backward_##NAME(Index rows, Index width, const E* x, const E* grad, E* gx,           \
                              int threads) {                                                       \
    swiglu_backward(rows, width, x, grad, gx, threads);                                            \
  }                                                                                                \
  void rms_norm_##NAME(Index rows, Index width, const E* x, const float* weight, float eps,        \
                       E* out, int threads) {                                                      \
    rms_norm(rows, width, x, weight, eps, out, threads);                                           \
  }                                                                                                \
  void rms_norm_backward_##NAME(Index rows, Index width, const E* x, const float* weight,          \
                                float eps, const E* grad, E* gx, float* gweight, int threads) {    \
    rms_norm_backward(rows, width, x, weight, eps, grad, gx, gweight, threads);                    \
  }                                                                                                \
  void rotate_##NAME(Index rows, Index length, Index heads, Index half, Index stride,              \
                     Index direction, const E* x, const float* cosine, const float* sine, E* out,  \
                     int threads) {                                                                \
    rotate(rows, length, heads, half, stride, x, cosine, sine, float(direction), out, threads);    \
  }                                                                                                \
  void token_shift_mix_##NAME(Index B, Index T, Index C, int count, const E* z, const E* previous, \
                              const float* mu, E* const* out, int threads) {                       \
    with_count<MOST_MIXES>(count, [&](auto M) {                                                    \
      mix<M>(B, T, C, z, previous, mu, out, threads);                                              \
    });                                                                                            \
  }                                                                                                \
  void token_shift_mix_backward_##NAME(Index B, Index T, Index C, int count, const E* z,           \
                                       const E* previous, const float* mu, const E* const* grad,   \
                                       E* gz, E* gprevious, float* gmu, int threads) {             \
    with_count<MOST_MIXES>(count, [&](auto M) {                                                    \
      mix_backward<M>(B, T, C, z, previous, mu, grad, gz, gprevious, gmu, threads);                \
    });                                                                                            \
  }

extern "C" {
POINTWISE(float32, float)
POINTWISE(bfloat16, bf16)
POINTWISE(float16, fp16)
}
