// In place of cuda/gpu/machine.h: the same on a CPU. The instructions are written anew from the PTX
// manual, so that what the kernels take them for is tested as well.
#pragma once

#define GPU_SHARED(TYPE, NAME) \
  TYPE& NAME = *static_cast<TYPE*>(emulator::shared_variable(__COUNTER__, sizeof(TYPE)))

namespace emulator {

// To nearest, ties to even.
inline unsigned short rounded_bf16(float x) {
  if (x != x) return 0x7fff;
  unsigned bits = __float_as_uint(x), rest = bits & 0xffff, kept = bits >> 16;
  return (unsigned short)(kept + (rest > 0x8000 || (rest == 0x8000 && kept & 1)));
}
// Of 10 bits behind the point and exponents from -14 to 15.
inline float half_value(unsigned short bits) {
  int exponent = bits >> 10 & 31, rest = bits & 1023;
  float x = exponent ? ldexpf(1024 + rest, exponent - 25) : ldexpf(rest, -24);
  if (exponent == 31) x = rest ? nanf("") : HUGE_VALF;
  return bits >> 15 ? -x : x;
}
inline unsigned short rounded_half(float x) {
  unsigned short sign = __float_as_uint(x) >> 31 << 15;
  if (x != x) return 0x7fff;
  double size = fabs(double(x));
  if (size >= 65520) return sign | 0x7c00;
  int exponent = size < ldexp(1, -14) ? -14 : ilogb(size);
  int units = int(nearbyint(ldexp(size, 10 - exponent)));  // 1024 to 2048, less if subnormal
  return sign | (unsigned short)((exponent + 14) * 1024 + units);
}
inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.f, x) : x; }

}  // namespace emulator

namespace gpu {

inline void* shared_memory() { return emulator::shared_memory(); }

inline float from_half(unsigned short bits) { return emulator::half_value(bits); }
inline unsigned short to_half(float x) { return emulator::rounded_half(x); }
inline float quick_exp2(float x) { return emulator::flushed(exp2f(emulator::flushed(x))); }

inline unsigned load_acquire(const unsigned* flag) {
  return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
inline void store_release(unsigned* flag, unsigned value) {
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}
inline void prefetch(const void* p) { (void)*(const volatile char*)p; }  // of what is there
inline void store_four(void* p, uint4 x) { *static_cast<uint4*>(p) = x; }

#if __CUDA_ARCH__ >= 800
inline unsigned short to_bf16(float x) { return emulator::rounded_bf16(x); }
inline unsigned to_two_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }

template <bool TURNED>
void load_matrices(const void* row, unsigned (&r)[4]) {
  const unsigned short* rows[32];
  emulator::gather_rows(row, rows);
  int lane = emulator::lane();
  for (int i = 0; i < 4; i++) {
    unsigned short x[2];
    for (int j = 0; j < 2; j++) {
      int down = lane / 4, across = 2 * (lane % 4) + j;
      x[j] = TURNED ? rows[8 * i + across][down] : rows[8 * i + down][across];
    }
    r[i] = x[0] | unsigned(x[1]) << 16;
  }
}
inline void multiply_matrices(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulator::multiply_matrices(d, a, b0, b1);
}
#endif

}  // namespace gpu
