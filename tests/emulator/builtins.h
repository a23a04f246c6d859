// What NVRTC knows without any header, for g++: put before every kernel's source by -include.
#pragma once

#include <math.h>
#include "threads.h"

#undef NAN  // kernels have their own

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

template <class T>
T shuffled(T value, int from) {
  static_assert(sizeof(T) == 4, "one register");
  unsigned bits;
  memcpy(&bits, &value, 4);
  bits = emulator::shuffle(bits, from);
  memcpy(&value, &bits, 4);
  return value;
}

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

#define __syncthreads() emulator::block_barrier()
#define __syncwarp() emulator::warp_barrier()
#define __nanosleep(ns) emulator::pause()
// What orders memory between blocks is the release and the acquire beside it, as ThreadSanitizer sees
// them; it does not know fences.
#define __threadfence() ((void)0)

inline float __int_as_float(int bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float __expf(float x) { return exp2f(x * 1.44269504f); }  // as a GPU does it

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline unsigned atomicAdd(unsigned* p, unsigned x) {
  return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
}

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return shuffled(value, from);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return shuffled(value, emulator::lane() ^ bits);
}
inline int __reduce_min_sync(unsigned, int value) { return emulator::warp_minimum(value); }
