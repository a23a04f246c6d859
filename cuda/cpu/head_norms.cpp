// The elementwise work that RWKV-5, 6 and 7 do around their recurrences on the CPU, each in one pass
// over memory, with gradients. Plain C interface, called from models/ops/elementwise/cpu.py. The
// formulas in models/rwkv5.py and models/rwkv7.py say what is computed. Arithmetic in fp32.
//
// A row is a token: H heads of N channels.

#include "cpu/rows.h"

namespace {

constexpr float DECAY_SCALE = 0.60653066f;  // e^{-1/2}: the fastest decay of RWKV-7
constexpr float SMALLEST_NORM = 1e-12f;

struct Heads {
  Index rows, count, size;
  Index width() const { return count * size; }
  Index vectors() const { return (size + LANES - 1) / LANES; }  // of one head
};

// body(channel within the head, lanes, vector of the row) for every vector of head `h`.
template <class Body>
void each_vector_of(const Heads& s, Index h, Body body) {
  Index first = h * s.vectors();
  each_vector(s.size, [&](Index c, int lanes) { body(c, lanes, first + c / LANES); });
}

// gradient[c] = the sum of quantity `q` over all rows.
void finish(const Heads& s, const RowSums& totals, Index q, float* gradient) {
  for (Index h = 0; h < s.count; h++)
    for (Index c = 0; c < s.size; c++)
      gradient[h * s.size + c] = totals.total(h * s.vectors() + c / LANES, q, c % LANES);
}

// ---------------------------------------------------------------- the norm of a head

struct Moments {
  float mean, inverse;  // of the deviation
};

template <class E>
Moments moments(Index size, const E* y, float eps) {
  vec sum{};
  each_vector(size, [&](Index c, int lanes) { sum += read(y + c, lanes); });
  float mean = sum_(sum) / size;
  vec squares{};
  each_vector(size, [&](Index c, int lanes) {
    vec away = read(y + c, lanes) - mean;
    if (lanes < LANES)  // lanes beyond the head read 0
      for (int i = lanes; i < LANES; i++) away[i] = 0;
    squares += away * away;
  });
  return {mean, 1 / std::sqrt(sum_(squares) / size + eps)};
}

// Through n = (y - mean) / deviation, given t = dL/dn: sums first, then gy.
struct NormBackward {
  vec t_sum{}, tn_sum{};
  void add(vec t, vec n) {
    t_sum += t;
    tn_sum += t * n;
  }
  template <class Size>
  auto finish(Size size, float inverse) const {
    float t_mean = sum_(t_sum) / size, tn_mean = sum_(tn_sum) / size;
    return [=](vec t, vec n) { return (t - t_mean - n * tn_mean) * inverse; };
  }
};

// ---------------------------------------------------------------- RWKV-5 and 6: norm and gate

template <class E>
void gated_head_norm(Heads s, const E* y, const E* g, const float* weight, const float* bias,
                     float eps, E* out, int threads) {
  each_row(s.rows, s.width(), threads, [&](Index row) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      Moments m = moments(s.size, y + at, eps);
      each_vector(s.size, [&](Index c, int lanes) {
        vec n = (read(y + at + c, lanes) - m.mean) * m.inverse, k = read(g + at + c, lanes);
        vec normed = n * read(weight + channel + c, lanes) + read(bias + channel + c, lanes);
        write(out + at + c, normed * k * sigmoid(k), lanes);
      });
    }
  });
}

template <class E>
void gated_head_norm_backward(Heads s, const E* y, const E* g, const float* weight,
                              const float* bias, float eps, const E* grad, E* gy, E* gg,
                              float* gweight, float* gbias, int threads) {
  RowSums totals(s.rows, s.count * s.vectors(), 2);
  totals.each_row(s.rows, s.width(), threads, [&](Index row, vec* sums) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      Moments m = moments(s.size, y + at, eps);
      auto through = [&](Index c, int lanes) {  // dL/d(normed)
        vec k = read(g + at + c, lanes);
        return read(grad + at + c, lanes) * k * sigmoid(k);
      };
      NormBackward norm;
      each_vector_of(s, h, [&](Index c, int lanes, Index i) {
        vec n = (read(y + at + c, lanes) - m.mean) * m.inverse, k = read(g + at + c, lanes);
        vec scale = read(weight + channel + c, lanes), share = sigmoid(k);
        vec normed = n * scale + read(bias + channel + c, lanes), q = through(c, lanes);
        write(gg + at + c,
              read(grad + at + c, lanes) * normed * share * (1.f + k * sigmoid(-k)), lanes);
        sums[i * 2] += q * n;
        sums[i * 2 + 1] += q;
        norm.add(q * scale, n);
      });
      auto pull = norm.finish(s.size, m.inverse);
      each_vector(s.size, [&](Index c, int lanes) {
        vec n = (read(y + at + c, lanes) - m.mean) * m.inverse;
        write(gy + at + c, pull(through(c, lanes) * read(weight + channel + c, lanes), n), lanes);
      });
    }
  });
  finish(s, totals, 0, gweight);
  finish(s, totals, 1, gbias);
}

// ---------------------------------------------------------------- RWKV-7: norm, bonus and gate

template <class E>
struct Bonus {
  const E *y, *r, *k, *v, *g;
  const float *r_k, *weight, *bias;

  // sum_n r_n k_n r_k[n] over the head at `at`, whose first channel is `channel`.
  float scale(Index size, Index at, Index channel) const {
    vec sum{};
    each_vector(size, [&](Index c, int lanes) {
      sum += read(r + at + c, lanes) * read(k + at + c, lanes) * read(r_k + channel + c, lanes);
    });
    return sum_(sum);
  }
};

template <class E>
void bonus_head_norm(Heads s, Bonus<E> x, float eps, E* out, int threads) {
  each_row(s.rows, s.width(), threads, [&](Index row) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      Moments m = moments(s.size, x.y + at, eps);
      float bonus = x.scale(s.size, at, channel);
      each_vector(s.size, [&](Index c, int lanes) {
        vec n = (read(x.y + at + c, lanes) - m.mean) * m.inverse;
        vec normed = n * read(x.weight + channel + c, lanes) + read(x.bias + channel + c, lanes);
        vec all = normed + bonus * read(x.v + at + c, lanes);
        write(out + at + c, all * read(x.g + at + c, lanes), lanes);
      });
    }
  });
}

template <class E>
void bonus_head_norm_backward(Heads s, Bonus<E> x, float eps, const E* grad, E* gy, E* gr, E* gk,
                              E* gv, E* gg, float* gr_k, float* gweight, float* gbias,
                              int threads) {
  RowSums totals(s.rows, s.count * s.vectors(), 3);
  totals.each_row(s.rows, s.width(), threads, [&](Index row, vec* sums) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      Moments m = moments(s.size, x.y + at, eps);
      float bonus = x.scale(s.size, at, channel);
      NormBackward norm;
      vec through_bonus{};
      each_vector_of(s, h, [&](Index c, int lanes, Index i) {
        vec n = (read(x.y + at + c, lanes) - m.mean) * m.inverse, v = read(x.v + at + c, lanes);
        vec scale = read(x.weight + channel + c, lanes), from = read(grad + at + c, lanes);
        vec all = n * scale + read(x.bias + channel + c, lanes) + bonus * v;
        vec q = from * read(x.g + at + c, lanes);
        write(gg + at + c, from * all, lanes);
        write(gv + at + c, q * bonus, lanes);
        through_bonus += q * v;
        sums[i * 3] += q * n;
        sums[i * 3 + 1] += q;
        norm.add(q * scale, n);
      });
      float gbonus = sum_(through_bonus);
      auto pull = norm.finish(s.size, m.inverse);
      each_vector_of(s, h, [&](Index c, int lanes, Index i) {
        vec n = (read(x.y + at + c, lanes) - m.mean) * m.inverse;
        vec q = read(grad + at + c, lanes) * read(x.g + at + c, lanes);
        write(gy + at + c, pull(q * read(x.weight + channel + c, lanes), n), lanes);
        vec r = read(x.r + at + c, lanes), k = read(x.k + at + c, lanes);
        vec share = read(x.r_k + channel + c, lanes) * gbonus;
        write(gr + at + c, k * share, lanes);
        write(gk + at + c, r * share, lanes);
        sums[i * 3 + 2] += r * k * gbonus;
      });
    }
  });
  finish(s, totals, 0, gweight);
  finish(s, totals, 1, gbias);
  finish(s, totals, 2, gr_k);
}

// ---------------------------------------------------------------- RWKV-7: keys of the delta rule

template <class E>
struct Keys {
  const E *k, *e;
  const float *a0, *k_k, *k_a;

  vec rate(Index at, Index channel, int lanes) const {
    return sigmoid(read(a0 + channel, lanes) + read(e + at, lanes));
  }
  // 1 / |k k_k| of the head at `at`.
  float inverse_norm(Index size, Index at, Index channel) const {
    vec sum{};
    each_vector(size, [&](Index c, int lanes) {
      vec u = read(k + at + c, lanes) * read(k_k + channel + c, lanes);
      sum += u * u;
    });
    return 1 / std::max(std::sqrt(sum_(sum)), SMALLEST_NORM);
  }
};

template <class E>
void delta_keys(Heads s, Keys<E> x, E* key, E* a, E* b, int threads) {
  each_row(s.rows, s.width(), threads, [&](Index row) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      float inverse = x.inverse_norm(s.size, at, channel);
      each_vector(s.size, [&](Index c, int lanes) {
        vec k = read(x.k + at + c, lanes), rate = x.rate(at + c, channel + c, lanes);
        vec kappa = k * read(x.k_k + channel + c, lanes) * inverse;
        write(key + at + c, k * (1.f + (rate - 1.f) * read(x.k_a + channel + c, lanes)), lanes);
        write(a + at + c, -kappa, lanes);
        write(b + at + c, kappa * rate, lanes);
      });
    }
  });
}

template <class E>
void delta_keys_backward(Heads s, Keys<E> x, const E* gkey, const E* ga, const E* gb, E* gk, E* ge,
                         float* ga0, float* gk_k, float* gk_a, int threads) {
  RowSums totals(s.rows, s.count * s.vectors(), 3);
  totals.each_row(s.rows, s.width(), threads, [&](Index row, vec* sums) {
    for (Index h = 0; h < s.count; h++) {
      Index at = row * s.width() + h * s.size, channel = h * s.size;
      float inverse = x.inverse_norm(s.size, at, channel);
      auto through = [&](Index c, int lanes, vec rate) {  // dL/dkappa
        return read(gb + at + c, lanes) * rate - read(ga + at + c, lanes);
      };
      vec product{};
      each_vector(s.size, [&](Index c, int lanes) {
        vec kappa = read(x.k + at + c, lanes) * read(x.k_k + channel + c, lanes) * inverse;
        product += kappa * through(c, lanes, x.rate(at + c, channel + c, lanes));
      });
      float along = inverse < 1 / SMALLEST_NORM ? sum_(product) : 0;
      each_vector_of(s, h, [&](Index c, int lanes, Index i) {
        vec k = read(x.k + at + c, lanes), scale = read(x.k_k + channel + c, lanes);
        vec rate = x.rate(at + c, channel + c, lanes), kappa = k * scale * inverse;
        vec share = read(x.k_a + channel + c, lanes), from = read(gkey + at + c, lanes);
        vec gu = (through(c, lanes, rate) - kappa * along) * inverse;
        vec grate = read(gb + at + c, lanes) * kappa + from * k * share;
        vec gsum = grate * rate * (1.f - rate);
        write(ge + at + c, gsum, lanes);
        write(gk + at + c, from * (1.f + (rate - 1.f) * share) + gu * scale, lanes);
        sums[i * 3] += gsum;
        sums[i * 3 + 1] += gu * k;
        sums[i * 3 + 2] += from * k * (rate - 1.f);
      });
    }
  });
  finish(s, totals, 0, ga0);
  finish(s, totals, 1, gk_k);
  finish(s, totals, 2, gk_a);
}

// ---------------------------------------------------------------- RWKV-7: decay, value residual

template <class E>
void log_decay(Index rows, Index width, const E* e, const float* w0, float* out, int threads) {
  each_row(rows, width, threads, [&](Index row) {
    each_vector(width, [&](Index c, int lanes) {
      vec share = sigmoid(read(w0 + c, lanes) + read(e + row * width + c, lanes));
      write(out + row * width + c, -DECAY_SCALE * share, lanes);
    });
  });
}

template <class E>
void log_decay_backward(Index rows, Index width, const E* e, const float* w0, const float* grad,
                        E* ge, float* gw0, int threads) {
  RowSums totals(rows, (width + LANES - 1) / LANES, 1);
  totals.each_row(rows, width, threads, [&](Index row, vec* sums) {
    each_vector(width, [&](Index c, int lanes) {
      vec x = read(w0 + c, lanes) + read(e + row * width + c, lanes);
      vec from = -DECAY_SCALE * read(grad + row * width + c, lanes) * sigmoid(x) * sigmoid(-x);
      write(ge + row * width + c, from, lanes);
      sums[c / LANES] += from;
    });
  });
  for (Index c = 0; c < width; c++) gw0[c] = totals.total(c / LANES, 0, c % LANES);
}

template <class E>
void value_residual(Index rows, Index width, const E* v, const E* first, const E* e,
                    const float* v0, E* out, int threads) {
  each_row(rows, width, threads, [&](Index row) {
    each_vector(width, [&](Index c, int lanes) {
      Index at = row * width + c;
      vec share = sigmoid(read(v0 + c, lanes) + read(e + at, lanes)), own = read(v + at, lanes);
      write(out + at, own + (read(first + at, lanes) - own) * share, lanes);
    });
  });
}

template <class E>
void value_residual_backward(Index rows, Index width, const E* v, const E* first, const E* e,
                             const float* v0, const E* grad, E* gv, E* gfirst, E* ge, float* gv0,
                             int threads) {
  RowSums totals(rows, (width + LANES - 1) / LANES, 1);
  totals.each_row(rows, width, threads, [&](Index row, vec* sums) {
    each_vector(width, [&](Index c, int lanes) {
      Index at = row * width + c;
      vec share = sigmoid(read(v0 + c, lanes) + read(e + at, lanes)), from = read(grad + at, lanes);
      vec gsum = from * (read(first + at, lanes) - read(v + at, lanes)) * share * (1.f - share);
      write(gv + at, from * (1.f - share), lanes);
      write(gfirst + at, from * share, lanes);
      write(ge + at, gsum, lanes);
      sums[c / LANES] += gsum;
    });
  });
  for (Index c = 0; c < width; c++) gv0[c] = totals.total(c / LANES, 0, c % LANES);
}

// ---------------------------------------------------------------- RWKV-6: data-dependent shift

constexpr int MIXES = 5;

// out_m = z + (previous - z) (mu_m + change_m), m over rows of `change` [5, B, T, C].
template <class E>
void dynamic_mix(Index B, Index T, Index C, const E* z, const E* previous, const float* mu,
                 const E* change, E* const* out, int threads) {
  Index all = B * T * C;
  each_row(B * T, C * MIXES, threads, [&](Index row) {
    const E *here = z + row * C, *past = row % T ? here - C : previous + row / T * C;
    each_vector(C, [&](Index c, int lanes) {
      vec now = read(here + c, lanes), step = read(past + c, lanes) - now;
      for (int m = 0; m < MIXES; m++) {
        vec share = read(mu + m * C + c, lanes) + read(change + m * all + row * C + c, lanes);
        write(out[m] + row * C + c, now + step * share, lanes);
      }
    });
  });
}

template <class E>
void dynamic_mix_backward(Index B, Index T, Index C, const E* z, const E* previous,
                          const float* mu, const E* change, const E* const* grad, E* gz,
                          E* gprevious, float* gmu, E* gchange, int threads) {
  Index all = B * T * C;
  auto to_past = [&](Index at, Index c, int lanes) {  // what the token at `at` sends to the last one
    vec sum{};
    for (int m = 0; m < MIXES; m++)
      sum += read(grad[m] + at, lanes) *
             (read(mu + m * C + c, lanes) + read(change + m * all + at, lanes));
    return sum;
  };
  RowSums totals(B * T, (C + LANES - 1) / LANES, MIXES);
  totals.each_row(B * T, C * MIXES, threads, [&](Index row, vec* sums) {
    Index t = row % T, b = row / T;
    each_vector(C, [&](Index c, int lanes) {
      Index at = row * C + c;
      vec step = read(t ? z + at - C : previous + b * C + c, lanes) - read(z + at, lanes);
      vec own{}, sent = to_past(at, c, lanes);
      for (int m = 0; m < MIXES; m++) {
        vec from = read(grad[m] + at, lanes), through = from * step;
        own += from;
        write(gchange + m * all + at, through, lanes);
        sums[c / LANES * MIXES + m] += through;
      }
      vec received = t + 1 < T ? to_past(at + C, c, lanes) : vec{};
      write(gz + at, own - sent + received, lanes);
      if (t == 0) write(gprevious + b * C + c, sent, lanes);
    });
  });
  for (Index c = 0; c < C; c++)
    for (int m = 0; m < MIXES; m++) gmu[m * C + c] = totals.total(c / LANES, m, c % LANES);
}

}  // namespace

#define HEADS(NAME, E)                                                                             \
  void gated_head_norm_##NAME(Index rows, Index count, Index size, const E* y, const E* g,         \
                              const float* weight, const float* bias, float eps, E* out,           \
                              int threads) {                                                       \
    gated_head_norm({rows, count, size}, y, g, weight, bias, eps, out, threads);                   \
  }                                                                                                \
  void gated_head_norm_backward_##NAME(Index rows, Index count, Index size, const E* y,            \
                                       const E* g, const float* weight, const float* bias,         \
                                       float eps, const E* grad, E* gy, E* gg, float* gweight,     \
                                       float* gbias, int threads) {                                \
    gated_head_norm_backward({rows, count, size}, y, g, weight, bias, eps, grad, gy, gg, gweight,  \
                             gbias, threads);                                                      \
  }                                                                                                \
  void bonus_head_norm_##NAME(Index rows, Index count, Index size, const E* y, const E* r,         \
                              const E* k, const E* v, const E* g, const float* r_k,                \
                              const float* weight, const float* bias, float eps, E* out,           \
                              int threads) {                                                       \
    bonus_head_norm({rows, count, size}, Bonus<E>{y, r, k, v, g, r_k, weight, bias}, eps, out,     \
                    threads);                                                                      \
  }                                                                                                \
  void bonus_head_norm_backward_##NAME(Index rows, Index count, Index size, const E* y,            \
                                       const E* r, const E* k, const E* v, const E* g,             \
                                       const float* r_k, const float* weight, const float* bias,   \
                                       float eps, const E* grad, E* gy, E* gr, E* gk, E* gv,       \
                                       E* gg, float* gr_k, float* gweight, float* gbias,           \
                                       int threads) {                                              \
    bonus_head_norm_backward({rows, count, size}, Bonus<E>{y, r, k, v, g, r_k, weight, bias}, eps, \
                             grad, gy, gr, gk, gv, gg, gr_k, gweight, gbias, threads);             \
  }                                                                                                \
  void delta_keys_##NAME(Index rows, Index count, Index size, const E* k, const E* e,              \
                         const float* a0, const float* k_k, const float* k_a, E* key, E* a, E* b,  \
                         int threads) {                                                            \
    delta_keys({rows, count, size}, Keys<E>{k, e, a0, k_k, k_a}, key, a, b, threads);              \
  }                                                                                                \
  void delta_keys_backward_##NAME(Index rows, Index count, Index size, const E* k, const E* e,     \
                                  const float* a0, const float* k_k, const float* k_a,             \
                                  const E* gkey, const E* ga, const E* gb, E* gk, E* ge,           \
                                  float* ga0, float* gk_k, float* gk_a, int threads) {             \
    delta_keys_backward({rows, count, size}, Keys<E>{k, e, a0, k_k, k_a}, gkey, ga, gb, gk, ge,    \
                        ga0, gk_k, gk_a, threads);                                                 \
  }                                                                                                \
  void log_decay_##NAME(Index rows, Index width, const E* e, const float* w0, float* out,          \
                        int threads) {                                                             \
    log_decay(rows, width, e, w0, out, threads);                                                   \
  }                                                                                                \
  void log_decay_backward_##NAME(Index rows, Index width, const E* e, const float* w0,             \
                                 const float* grad, E* ge, float* gw0, int threads) {              \
    log_decay_backward(rows, width, e, w0, grad, ge, gw0, threads);                                \
  }                                                                                                \
  void value_residual_##NAME(Index rows, Index width, const E* v, const E* first, const E* e,      \
                             const float* v0, E* out, int threads) {                               \
    value_residual(rows, width, v, first, e, v0, out, threads);                                    \
  }                                                                                                \
  void value_residual_backward_##NAME(Index rows, Index width, const E* v, const E* first,         \
                                      const E* e, const float* v0, const E* grad, E* gv,           \
                                      E* gfirst, E* ge, float* gv0, int threads) {                 \
    value_residual_backward(rows, width, v, first, e, v0, grad, gv, gfirst, ge, gv0, threads);     \
  }                                                                                                \
  void dynamic_mix_##NAME(Index B, Index T, Index C, const E* z, const E* previous,                \
                          const float* mu, const E* change, E* const* out, int threads) {          \
    dynamic_mix(B, T, C, z, previous, mu, change, out, threads);                                   \
  }                                                                                                \
  void dynamic_mix_backward_##NAME(Index B, Index T, Index C, const E* z, const E* previous,       \
                                   const float* mu, const E* change, const E* const* grad, E* gz,  \
                                   E* gprevious, float* gmu, E* gchange, int threads) {            \
    dynamic_mix_backward(B, T, C, z, previous, mu, change, grad, gz, gprevious, gmu, gchange,      \
                         threads);                                                                 \
  }

extern "C" {
HEADS(float32, float)
HEADS(bfloat16, bf16)
HEADS(float16, fp16)
}
