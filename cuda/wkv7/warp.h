// One warp: its lanes, what they hold, and how they read and write. For wkv7/warp_mma.h.
//
// What a lane holds is in struct Registers; what it does with it stands in each_lane.
#pragma once

#include "gpu/pair.h"

#define WKV_WARP __device__ __forceinline__
#define WKV_UNROLL _Pragma("unroll")
// Loops over tiles in shared memory: a little, or the code would not fit the instruction cache.
#define WKV_SOME(Math) _Pragma("unroll (Math::PARTS == 1 ? 2 : 1)")

namespace wkv7 {

using Index = long long;

constexpr int LANES = 32;

// ---------------------------------------------------------------- lanes

template <class F>
WKV_WARP void each_lane(F f) {
  f(int(threadIdx.x % LANES));
}

template <class X, int COUNT>
struct Registers {
  X held[COUNT];
  WKV_WARP X& operator[](int i) { return held[i]; }
  WKV_WARP const X& operator[](int i) const { return held[i]; }
};

// The least of the lanes' values.
WKV_WARP int least(int x) { return __reduce_min_sync(~0u, x); }

// To each lane's value that of the lane whose number differs in bit `far`.
template <int COUNT>
WKV_WARP void add_from(Registers<float, COUNT>& x, int far) {
  WKV_UNROLL
  for (int i = 0; i < COUNT; i++) x[i] += __shfl_xor_sync(~0u, x[i], far);
}

// ---------------------------------------------------------------- kinds of arithmetic

// Tiles of bf16 in shared memory: what 16-bit floats deserve.
struct Fast {
  using Cell = bf16;
  static constexpr int PARTS = 1;
  static WKV_WARP float exp2(float x) { return gpu::quick_exp2(x); }
};

// Tiles of fp32 in shared memory, split into parts on the way to the tensor core.
template <int COUNT>
struct Exact {
  using Cell = float;
  static constexpr int PARTS = COUNT;
  static WKV_WARP float exp2(float x) { return exp2f(x); }
};

template <class Math>
WKV_WARP Pair exp2_(Pair x) {
  return {Math::exp2(x.x), Math::exp2(x.y)};
}

// ---------------------------------------------------------------- neighbours in memory

WKV_WARP Pair unpack(unsigned both) { return {float_of(both << 16), float_of(both & 0xffff0000)}; }

// Two in shared memory, aligned as one.
WKV_WARP Pair pair_at(const float* p) {
  Packed<float> both = *reinterpret_cast<const Packed<float>*>(p);
  return {both.x, both.y};
}
WKV_WARP Pair pair_at(const bf16* p) { return unpack(*reinterpret_cast<const unsigned*>(p)); }

// Eight, aligned to 16 bytes.
template <class E>
struct alignas(16) Eight {
  E x[8];
  WKV_WARP Pair get(int i) const { return {to_float(x[2 * i]), to_float(x[2 * i + 1])}; }
  WKV_WARP void set(int i, Pair value) {
    from_float(value.x, x[2 * i]);
    from_float(value.y, x[2 * i + 1]);
  }
};
template <>
struct alignas(16) Eight<bf16> {
  unsigned x[4];
  WKV_WARP Pair get(int i) const { return unpack(x[i]); }
  WKV_WARP void set(int i, Pair value) { x[i] = gpu::to_two_bf16(value.x, value.y); }
};

// From a tensor that no thread writes meanwhile.
template <class E>
WKV_WARP Eight<E> load_eight(const E* p) {
  Eight<E> out;
  WKV_UNROLL
  for (int i = 0; i < int(sizeof(E) / 2); i++)
    reinterpret_cast<uint4*>(&out)[i] = __ldg(reinterpret_cast<const uint4*>(p) + i);
  return out;
}
// To a tensor.
template <class E>
WKV_WARP void write_eight(E* p, const Eight<E>& x) {
  WKV_UNROLL
  for (int i = 0; i < int(sizeof(E) / 2); i++)
    gpu::store_four(p + 16 / sizeof(E) * i, reinterpret_cast<const uint4*>(&x)[i]);
}
// In shared memory.
template <class E>
WKV_WARP Eight<E> eight_at(const E* p) {
  return *reinterpret_cast<const Eight<E>*>(p);
}
template <class E>
WKV_WARP void store_eight(E* p, const Eight<E>& x) {
  *reinterpret_cast<Eight<E>*>(p) = x;
}

// Rows of floats that are read eight at a time lie in two halves, the first four of every eight and
// the second, so that eight neighbouring lanes meet in no bank. `row` is 68 floats or more.
struct alignas(16) Four {
  float x[4];
};
constexpr int SECOND = 36;
WKV_WARP int spread(int c) { return c / 8 * 4 + c % 4 + (c % 8 < 4 ? 0 : SECOND); }
WKV_WARP Eight<float> spread_at(const float* row, int c) {
  Four low = *reinterpret_cast<const Four*>(row + c / 2);
  Four high = *reinterpret_cast<const Four*>(row + SECOND + c / 2);
  return {{low.x[0], low.x[1], low.x[2], low.x[3], high.x[0], high.x[1], high.x[2], high.x[3]}};
}
WKV_WARP void store_spread(float* row, int c, const Eight<float>& x) {
  *reinterpret_cast<Four*>(row + c / 2) = {x.x[0], x.x[1], x.x[2], x.x[3]};
  *reinterpret_cast<Four*>(row + SECOND + c / 2) = {x.x[4], x.x[5], x.x[6], x.x[7]};
}

// ---------------------------------------------------------------- the block

// Runs phases: each warp runs its own and then waits for the others.
template <class Own>
struct Block {
  Own own;
  int warp = __shfl_sync(~0u, int(threadIdx.x / LANES), 0);  // so that it is seen to be uniform
  template <class Phase>
  WKV_WARP void phase(Phase f) {
    f(warp, own);
    __syncthreads();
  }
};

}  // namespace wkv7
