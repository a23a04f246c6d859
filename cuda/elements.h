// Element types of tensors and their conversion to float, on the host and on the device.
#pragma once

// WKV_RARE: out of line, because it is seldom run and its registers would weigh on those who do
// not call it. Such functions take and return values only, so that nothing must live in memory.
#ifdef __CUDACC__
#define WKV_HD __host__ __device__ __forceinline__
#define WKV_RARE __host__ __device__ __noinline__
#define WKV_ROLLED _Pragma("unroll 1")
#define WKV_AHEAD _Pragma("unroll 8")  // so that the loads of 8 tokens are under way at once
#else
#define WKV_HD inline
#define WKV_RARE __attribute__((noinline))
#define WKV_ROLLED
#define WKV_AHEAD
#include <cstring>
#endif

struct bf16 {
  unsigned short bits;
};
struct fp16 {
  unsigned short bits;
};

WKV_HD float to_float(float x) { return x; }
WKV_HD float to_float(bf16 x) {
  unsigned bits = unsigned(x.bits) << 16;
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}
WKV_HD float to_float(fp16 x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  _Float16 half;
  memcpy(&half, &x.bits, sizeof half);
  return float(half);
#endif
}

// To nearest, ties to even; NaN stays NaN.
WKV_HD void from_float(float x, float& out) { out = x; }
WKV_HD void from_float(float x, bf16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  out.bits = x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}
WKV_HD void from_float(float x, fp16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  _Float16 half = _Float16(x);
  memcpy(&out.bits, &half, sizeof half);
#endif
}
