// One warp: its lanes, what they hold, and how they read and write. For wkv7/warp_mma.h.
//
// What a lane holds is in struct Registers. On the GPU that is the lane's own; compiled for the
// host it is that of all 32 lanes, and each_lane is a loop. So tests run the very code of the
// kernels.
#pragma once

#include "gpu/pair.h"

#ifdef __CUDACC__
#define WKV_WARP __device__ __forceinline__
#define WKV_UNROLL _Pragma("unroll")
// Loops over tiles in shared memory: a little, or the code would not fit the instruction cache.
#define WKV_SOME(Math) _Pragma("unroll (Math::PARTS == 1 ? 2 : 1)")
#else
#define WKV_WARP inline
#define WKV_UNROLL
#define WKV_SOME(Math)
#endif

namespace wkv7 {

using Index = long long;

constexpr int LANES = 32;

// ---------------------------------------------------------------- lanes

#ifdef __CUDACC__
constexpr int HELD = 1;
template <class F>
WKV_WARP void each_lane(F f) {
  f(int(threadIdx.x % LANES));
}
WKV_WARP void sync_warp() { __syncwarp(); }
// Bring the 32 bytes around p into the L2 cache.
WKV_WARP void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
#else
constexpr int HELD = LANES;
template <class F>
void each_lane(F f) {
  for (int lane = 0; lane < LANES; lane++) f(lane);
}
inline void sync_warp() {}
inline void prefetch(const void*) {}
#endif

template <class X, int COUNT>
struct Registers {
  X held[HELD][COUNT];
  WKV_WARP X& at(int lane, int i) { return held[HELD == 1 ? 0 : lane][i]; }
  WKV_WARP const X& at(int lane, int i) const { return held[HELD == 1 ? 0 : lane][i]; }
};

// The least of the lanes' values.
WKV_WARP int least(const Registers<int, 1>& x) {
#ifdef __CUDACC__
  return __reduce_min_sync(~0u, x.at(0, 0));
#else
  int all = x.at(0, 0);
  for (int lane = 1; lane < LANES; lane++) all = x.at(lane, 0) < all ? x.at(lane, 0) : all;
  return all;
#endif
}

// To each lane's value that of the lane whose number differs in bit `far`.
template <int COUNT>
WKV_WARP void add_from(Registers<float, COUNT>& x, int far) {
#ifdef __CUDACC__
  WKV_UNROLL
  for (int i = 0; i < COUNT; i++) x.at(0, i) += __shfl_xor_sync(~0u, x.at(0, i), far);
#else
  Registers<float, COUNT> all = x;
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < COUNT; i++) x.at(lane, i) += all.at(lane ^ far, i);
#endif
}

// ---------------------------------------------------------------- kinds of arithmetic

// Tiles of bf16 in shared memory: what 16-bit floats deserve.
struct Fast {
  using Cell = bf16;
  static constexpr int PARTS = 1;
#ifdef __CUDACC__
  static WKV_WARP float exp2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
  }
#else
  static float exp2(float x) { return exp2f(x); }
#endif
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

WKV_WARP unsigned pack(float low, float high) {
#ifdef __CUDACC__
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  bf16 x, y;
  from_float(low, x);
  from_float(high, y);
  return x.bits | unsigned(y.bits) << 16;
#endif
}
WKV_WARP Pair unpack(unsigned both) {
#ifdef __CUDACC__
  return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000)};
#else
  return {to_float(bf16{(unsigned short)(both)}), to_float(bf16{(unsigned short)(both >> 16)})};
#endif
}

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
  WKV_WARP void set(int i, Pair value) { x[i] = pack(value.x, value.y); }
};

// From a tensor that no thread writes meanwhile.
template <class E>
WKV_WARP Eight<E> load_eight(const E* p) {
#ifdef __CUDACC__
  Eight<E> out;
  WKV_UNROLL
  for (int i = 0; i < int(sizeof(E) / 2); i++)
    reinterpret_cast<uint4*>(&out)[i] = __ldg(reinterpret_cast<const uint4*>(p) + i);
  return out;
#else
  return *reinterpret_cast<const Eight<E>*>(p);
#endif
}
// To a tensor.
template <class E>
WKV_WARP void write_eight(E* p, const Eight<E>& x) {
#ifdef __CUDACC__
  WKV_UNROLL
  for (int i = 0; i < int(sizeof(E) / 2); i++) {
    uint4 four = reinterpret_cast<const uint4*>(&x)[i];  // compilers split it into four otherwise
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p + 16 / sizeof(E) * i),
                 "r"(four.x), "r"(four.y), "r"(four.z), "r"(four.w)
                 : "memory");
  }
#else
  *reinterpret_cast<Eight<E>*>(p) = x;
#endif
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

// Runs phases. On the GPU each warp runs its own and then waits for the others.
#ifdef __CUDACC__
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
#endif

}  // namespace wkv7
