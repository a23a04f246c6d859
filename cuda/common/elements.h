// Element types of tensors and their conversion to float, on the host and on the device.
#pragma once

// WKV_RARE: out of line, because it is seldom run and its registers would weigh on those who do
// not call it. Such functions take and return values only, so that nothing must live in memory.
#ifdef __CUDACC__
#define WKV_HD __host__ __device__ __forceinline__
#define WKV_RARE __host__ __device__ __noinline__
#define WKV_ROLLED _Pragma("unroll 1")
#define WKV_AHEAD _Pragma("unroll 8")  // so that the loads of 8 tokens are under way at once
#include "gpu/machine.h"
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

WKV_HD unsigned bits_of(float x) {
#ifdef __CUDACC__
  return __float_as_uint(x);
#else
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}
WKV_HD float float_of(unsigned bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

WKV_HD float to_float(float x) { return x; }
WKV_HD float to_float(bf16 x) { return float_of(unsigned(x.bits) << 16); }
WKV_HD float to_float(fp16 x) {
#ifdef __CUDACC__
  return gpu::from_half(x.bits);
#else
  // By hand: compilers in use do not all know a half type. Subnormal halves are normal floats.
  unsigned rest = x.bits & 0x7fff, sign = unsigned(x.bits & 0x8000) << 16;
  unsigned bits = bits_of(float(rest) * 5.9604645e-8f);  // 2^-24
  if (rest >= 0x7c00)
    bits = 0x7f800000 | (rest & 0x3ff) << 13;
  else if (rest >= 0x400)
    bits = (rest << 13) + (112u << 23);
  return float_of(bits | sign);
#endif
}

// To nearest, ties to even; NaN stays NaN.
WKV_HD void from_float(float x, float& out) { out = x; }
WKV_HD void from_float(float x, bf16& out) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
  out.bits = gpu::to_bf16(x);
#else  // CPUs, and GPUs before sm_80
  unsigned bits = bits_of(x);
  out.bits = x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}
WKV_HD void from_float(float x, fp16& out) {
#ifdef __CUDACC__
  out.bits = gpu::to_half(x);
#else
  unsigned bits = bits_of(x), magnitude = bits & 0x7fffffff;
  // The sum rounds subnormal halves, whose unit is 2^-24.
  unsigned half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
  if (magnitude > 0x7f800000)
    half = 0x7e00;
  else if (magnitude >= 0x477ff000)
    half = 0x7c00;
  else if (magnitude >= 0x38800000)
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  out.bits = (unsigned short)(half | bits >> 16 & 0x8000);
#endif
}
