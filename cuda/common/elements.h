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
  // By hand: compilers in use do not all know a half type. Subnormal halves are normal floats.
  unsigned rest = x.bits & 0x7fff, sign = unsigned(x.bits & 0x8000) << 16, bits;
  float small = float(rest) * 5.9604645e-8f;  // 2^-24
  memcpy(&bits, &small, sizeof bits);
  if (rest >= 0x7c00)
    bits = 0x7f800000 | (rest & 0x3ff) << 13;
  else if (rest >= 0x400)
    bits = (rest << 13) + (112u << 23);
  bits |= sign;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
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
  unsigned bits, magnitude, half;
  memcpy(&bits, &x, sizeof bits);
  magnitude = bits & 0x7fffffff;
  float small;
  memcpy(&small, &magnitude, sizeof small);
  small += 0.5f;  // rounds subnormal halves, whose unit is 2^-24
  memcpy(&half, &small, sizeof half);
  half -= 0x3f000000;
  if (magnitude > 0x7f800000)
    half = 0x7e00;
  else if (magnitude >= 0x477ff000)
    half = 0x7c00;
  else if (magnitude >= 0x38800000)
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  out.bits = (unsigned short)(half | bits >> 16 & 0x8000);
#endif
}
