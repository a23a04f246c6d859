// WKV-7 token by token, in fp32 on any GPU: for heads that are wider than the tiles of wkv7/gpu.cu,
// and for GPUs without what those need. Compiled by NVRTC for SIZE channels of a head; launched from
// models/ops/wkv7/steps.py.
//
// Rows of the state, one per value channel, do not act on each other. A warp keeps ROWS of them in
// registers, a lane every 32nd key channel of each; a block has WARPS * ROWS rows of one head. The
// gradients of r, w, k, a, b sum over value channels: each block leaves its own sums.

#include "common/elements.h"

using Index = long long;
constexpr int N = SIZE, LANES = 32, WARPS = 8;
constexpr int EACH = N / LANES;          // key channels of a lane
constexpr int ROWS = N > 128 ? 4 : 8;    // value channels of a warp
constexpr int CHUNK = 32;                // tokens from checkpoint to checkpoint
constexpr int PIECE = 8;                 // tokens whose states the backward pass keeps at a time

#define LANE_CHANNELS _Pragma("unroll") for (int e = 0; e < EACH; e++)
#define WARP_ROWS _Pragma("unroll") for (int i = 0; i < ROWS; i++)

__device__ float sum_of_lanes(float x) {
#pragma unroll
  for (int bits = LANES / 2; bits; bits /= 2) x += __shfl_xor_sync(~0u, x, bits);
  return x;
}

// The rows of a warp, of the state or of its adjoint.
struct State {
  float x[ROWS][EACH];

  __device__ void load(const float* from, int lane) {
    WARP_ROWS LANE_CHANNELS x[i][e] = from[i * N + e * LANES + lane];
  }
  __device__ void store(float* to, int lane) const {
    WARP_ROWS LANE_CHANNELS to[i * N + e * LANES + lane] = x[i][e];
  }
  // Of each row the product with a row of keys.
  __device__ void read(const float (&keys)[EACH], float (&values)[ROWS]) const {
    WARP_ROWS {
      float sum = 0;
      LANE_CHANNELS sum += x[i][e] * keys[e];
      values[i] = sum_of_lanes(sum);
    }
  }
};

template <class E>
struct Inputs {
  const E* r;
  const float* w;
  const E *k, *v, *a, *b;
};

// What a lane sees of a token: its key channels, and all value channels of its warp.
template <class E>
struct Token {
  float w[EACH], k[EACH], a[EACH], b[EACH], v[ROWS];

  __device__ Token(const Inputs<E>& in, Index at, int first_row, int lane) {
    LANE_CHANNELS {
      Index c = at + e * LANES + lane;
      w[e] = expf(in.w[c]), k[e] = to_float(in.k[c]);
      a[e] = to_float(in.a[c]), b[e] = to_float(in.b[c]);
    }
    WARP_ROWS v[i] = to_float(in.v[at + first_row + i]);
  }
  // S diag(e^w) + (S a) b^T + v k^T; `removed` is S a.
  __device__ void advance(State& state, float (&removed)[ROWS]) const {
    state.read(a, removed);
    WARP_ROWS LANE_CHANNELS state.x[i][e] =
        state.x[i][e] * w[e] + removed[i] * b[e] + v[i] * k[e];
  }
};

// Where a block works: a head of a sequence, and where its warp's rows begin.
struct Place {
  Index T, H, batch, head;
  int lane, warp, row;

  __device__ Place(Index T, Index H)
      : T(T), H(H), batch(blockIdx.x / H), head(blockIdx.x % H) {
    lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    row = (blockIdx.y * WARPS + warp) * ROWS;
  }
  __device__ Index token(Index t) const { return ((batch * T + t) * H + head) * N; }
  __device__ Index state() const { return (Index(blockIdx.x) * N + row) * N; }
  __device__ Index checkpoint(Index t) const {
    Index chunks = (T + CHUNK - 1) / CHUNK;
    return (((batch * chunks + t / CHUNK) * H + head) * N + row) * N;
  }
};

template <class E>
__device__ void write_row(E* to, const float (&values)[ROWS], int lane) {
  WARP_ROWS if (lane == i) from_float(values[i], to[i]);
}

template <class E>
__device__ void forward(Place at, const Inputs<E>& in, const float* start, E* y, float* end,
                        float* checkpoints) {
  State state;
  state.load(start + at.state(), at.lane);
  WKV_ROLLED
  for (Index t = 0; t < at.T; t++) {
    if (checkpoints && t % CHUNK == 0)
      state.store(checkpoints + at.checkpoint(t), at.lane);
    Index token = at.token(t);
    float values[ROWS], r[EACH];
    Token<E>(in, token, at.row, at.lane).advance(state, values);
    LANE_CHANNELS r[e] = to_float(in.r[token + e * LANES + at.lane]);
    state.read(r, values);
    write_row(y + token + at.row, values, at.lane);
  }
  state.store(end + at.state(), at.lane);
}

// What each warp adds to the gradients of r, w, k, a and b of a token.
enum { OF_R, OF_W, OF_K, OF_A, OF_B, GRADIENTS };
using Shares = float[GRADIENTS][WARPS][N];

// Of a block's rows, in a fixed order. Sums are [GRADIENTS, blocks, B, T, H, N].
__device__ void add_up(const Shares& shares, Index blocks, Index every, float* sums, Index token) {
  for (int c = threadIdx.x; c < N; c += WARPS * LANES)
#pragma unroll
    for (int q = 0; q < GRADIENTS; q++) {
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < WARPS; warp++) sum += shares[q][warp][c];
      sums[(q * blocks + blockIdx.y) * every + token + c] = sum;
    }
}

template <class E>
__device__ void backward(Place at, Index every, const Inputs<E>& in, Shares& shares,
                         const float* checkpoints, const float* start, const E* grad_y,
                         float* sums, E* gv, float* end) {
  State adjoint, state, edges[CHUNK / PIECE], before[PIECE];
  float removed[PIECE][ROWS];
  adjoint.load(start + at.state(), at.lane);
  WKV_ROLLED
  for (Index first = (at.T - 1) / CHUNK * CHUNK; first >= 0; first -= CHUNK) {
    int n = int(at.T - first < CHUNK ? at.T - first : CHUNK);
    state.load(checkpoints + at.checkpoint(first), at.lane);
    WKV_ROLLED
    for (int t = 0; t < n; t++) {
      if (t % PIECE == 0) edges[t / PIECE] = state;
      Token<E>(in, at.token(first + t), at.row, at.lane).advance(state, removed[0]);
    }
    WKV_ROLLED
    for (int piece = (n - 1) / PIECE; piece >= 0; piece--) {
      int from = piece * PIECE, count = n - from < PIECE ? n - from : PIECE;
      state = edges[piece];
      WKV_ROLLED
      for (int t = 0; t < count; t++) {
        before[t] = state;
        Token<E>(in, at.token(first + from + t), at.row, at.lane).advance(state, removed[t]);
      }
      WKV_ROLLED
      for (int t = count - 1; t >= 0; t--) {
        Index token = at.token(first + from + t);
        Token<E> x(in, token, at.row, at.lane);
        float own[ROWS], of_v[ROWS], of_removed[ROWS];
        WARP_ROWS own[i] = to_float(grad_y[token + at.row + i]);
        __syncthreads();  // the last token's shares have been added up
        LANE_CHANNELS {
          int c = e * LANES + at.lane;
          float r = to_float(in.r[token + c]), of_r = 0, of_k = 0, of_b = 0;
          WARP_ROWS {
            of_r += state.x[i][e] * own[i];
            adjoint.x[i][e] += own[i] * r;
            of_k += adjoint.x[i][e] * x.v[i];
            of_b += adjoint.x[i][e] * removed[t][i];
          }
          shares[OF_R][at.warp][c] = of_r;
          shares[OF_K][at.warp][c] = of_k;
          shares[OF_B][at.warp][c] = of_b;
        }
        adjoint.read(x.k, of_v);
        adjoint.read(x.b, of_removed);
        write_row(gv + token + at.row, of_v, at.lane);
        state = before[t];
        LANE_CHANNELS {
          int c = e * LANES + at.lane;
          float of_a = 0, of_w = 0;
          WARP_ROWS {
            of_a += state.x[i][e] * of_removed[i];
            of_w += state.x[i][e] * adjoint.x[i][e];
            adjoint.x[i][e] = adjoint.x[i][e] * x.w[e] + of_removed[i] * x.a[e];
          }
          shares[OF_A][at.warp][c] = of_a;
          shares[OF_W][at.warp][c] = of_w * x.w[e];
        }
        __syncthreads();
        add_up(shares, gridDim.y, every, sums, token);
      }
    }
  }
  adjoint.store(end + at.state(), at.lane);
}

#define JOIN_(A, B) A##_##B
#define JOIN(A, B) JOIN_(A, B)
#define STEPS(NAME, E)                                                                            \
  extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                      \
      JOIN(wkv7_steps_forward_##NAME, SIZE)(Index T, Index H, const E* r, const float* w,         \
                                            const E* k, const E* v, const E* a, const E* b,       \
                                            const float* start, E* y, float* end,                 \
                                            float* checkpoints) {                                 \
    forward<E>({T, H}, {r, w, k, v, a, b}, start, y, end, checkpoints);                           \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                      \
      JOIN(wkv7_steps_backward_##NAME, SIZE)(                                                     \
          Index T, Index H, Index every, const E* r, const float* w, const E* k, const E* v,      \
          const E* a, const E* b, const float* checkpoints, const float* start, const E* grad_y,  \
          float* sums, E* gv, float* end) {                                                       \
    GPU_SHARED(Shares, shares);                                                                   \
    backward<E>({T, H}, every, {r, w, k, v, a, b}, shares, checkpoints, start, grad_y, sums, gv,  \
                end);                                                                             \
  }

STEPS(float32, float)
STEPS(bfloat16, bf16)
STEPS(float16, fp16)
