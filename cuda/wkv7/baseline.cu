// The usual way to compute WKV-7 on a GPU, to measure wkv7/gpu.cu against: a block of N threads
// for each head of each sequence goes through time token by token, in fp32, from a state of zeros.
// The backward pass steps the state back by dividing by the decay, from a checkpoint every 16
// tokens. Compiled by NVRTC; launched from benchmarks/wkv7.py. T is a multiple of 16.

#include "common/elements.h"

using Index = long long;
constexpr int N = 64, SPAN = 16;

// A row of the state per thread. states [B, H, T / 16, N, N] (transposed) and sa [B, T, H, N] are
// saved unless null.
extern "C" __global__ void __launch_bounds__(N)
    wkv7_yardstick_forward(Index T, Index H, const bf16* r_, const float* w_, const bf16* k_,
                           const bf16* v_, const bf16* a_, const bf16* b_, bf16* y_, float* states,
                           float* sa_) {
  __shared__ float r[N], w[N], k[N], a[N], b[N];
  int i = threadIdx.x;
  Index h = blockIdx.x, batch = blockIdx.y;
  float state[N] = {};
  for (Index t = 0; t < T; t++) {
    Index at = ((batch * T + t) * H + h) * N + i;
    __syncthreads();
    r[i] = to_float(r_[at]);
    w[i] = __expf(w_[at]);
    k[i] = to_float(k_[at]);
    a[i] = to_float(a_[at]);
    b[i] = to_float(b_[at]);
    __syncthreads();
    float v = to_float(v_[at]), sa = 0, y = 0;
#pragma unroll
    for (int j = 0; j < N; j++) sa += state[j] * a[j];
#pragma unroll
    for (int j = 0; j < N; j++) {
      state[j] = state[j] * w[j] + sa * b[j] + v * k[j];
      y += state[j] * r[j];
    }
    from_float(y, y_[at]);
    if (!states) continue;
    sa_[at] = sa;
    if (t % SPAN == SPAN - 1) {
      float* to = states + (((batch * H + h) * (T / SPAN) + t / SPAN) * N) * N + i;
#pragma unroll
      for (int j = 0; j < N; j++) to[j * N] = state[j];
    }
  }
}

// A thread has row i and column i of the adjoint of the state, and column i of the state.
extern "C" __global__ void __launch_bounds__(N)
    wkv7_yardstick_backward(Index T, Index H, const bf16* r_, const float* w_, const bf16* k_,
                            const bf16* v_, const bf16* a_, const bf16* b_, const bf16* dy_,
                            const float* states, const float* sa_, bf16* dr_, float* dw_, bf16* dk_,
                            bf16* dv_, bf16* da_, bf16* db_) {
  __shared__ float r[N], w[N], k[N], v[N], a[N], b[N], dy[N], sa[N], dsa[N];
  int i = threadIdx.x;
  Index h = blockIdx.x, batch = blockIdx.y;
  float state[N], row[N] = {}, column[N] = {};
  for (Index t = T - 1; t >= 0; t--) {
    Index at = ((batch * T + t) * H + h) * N + i;
    __syncthreads();
    r[i] = to_float(r_[at]);
    w[i] = __expf(w_[at]);
    k[i] = to_float(k_[at]);
    v[i] = to_float(v_[at]);
    a[i] = to_float(a_[at]);
    b[i] = to_float(b_[at]);
    dy[i] = to_float(dy_[at]);
    sa[i] = sa_[at];
    __syncthreads();
    if (t % SPAN == SPAN - 1) {
      const float* from = states + (((batch * H + h) * (T / SPAN) + t / SPAN) * N + i) * N;
#pragma unroll
      for (int j = 0; j < N; j++) state[j] = from[j];
    }
    float dr = 0, dw = 0, dk = 0, dv = 0, da = 0, db = 0, own = 0, grown = 1 / w[i];
#pragma unroll
    for (int j = 0; j < N; j++) dr += state[j] * dy[j];
#pragma unroll
    for (int j = 0; j < N; j++) {
      state[j] = (state[j] - v[j] * k[i] - sa[j] * b[i]) * grown;
      row[j] += dy[i] * r[j];
      column[j] += dy[j] * r[i];
      dw += column[j] * state[j];
      dk += column[j] * v[j];
      dv += row[j] * k[j];
      db += column[j] * sa[j];
      own += row[j] * b[j];
    }
    dsa[i] = own;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; j++) {
      da += state[j] * dsa[j];
      row[j] = row[j] * w[j] + own * a[j];
      column[j] = column[j] * w[i] + dsa[j] * a[i];
    }
    from_float(dr, dr_[at]);
    dw_[at] = dw * w[i];
    from_float(dk, dk_[at]);
    from_float(dv, dv_[at]);
    from_float(da, da_[at]);
    from_float(db, db_[at]);
  }
}
