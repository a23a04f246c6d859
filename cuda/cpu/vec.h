// Vectors of floats for the CPU kernels, by the vector extensions of GCC and Clang: the widest
// registers of the machine the file is compiled on. Element types: float, bf16, fp16.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/elements.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC_LANES 16
#elif defined(__AVX__)
#define VEC_LANES 8
#else
#define VEC_LANES 4
#endif

constexpr int LANES = VEC_LANES;

typedef float vec __attribute__((vector_size(4 * VEC_LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * VEC_LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * VEC_LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * VEC_LANES)));

// Results below 1e-38 count as zero here, at full speed: denormals would cost a microcode trap.
class FlushDenormals {
#if defined(__SSE2__)
  unsigned saved_ = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#endif
};

inline vec as_float(ivec x) { return (vec)x; }
inline ivec as_int(vec x) { return (ivec)x; }
inline vec where_(ivec condition, vec yes, vec no) { return condition ? yes : no; }
inline vec abs_(vec x) { return (vec)((ivec)x & 0x7fffffff); }

// A NaN in the second argument stays.
inline vec max_(vec x, vec y) {
#if defined(__AVX512F__)
  return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#else
  return x > y ? x : y;
#endif
}
inline vec min_(vec x, vec y) { return x < y ? x : y; }

constexpr float ROUNDER = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number

inline vec round_(vec x) {
  vec whole = (x + ROUNDER) - ROUNDER;
  return abs_(x) < 4194304.f ? whole : x;
}

inline bool any_above(vec x, float limit) {
  ivec above = x > limit;
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)above) != 0;
#else
  int32_t any = 0;
  for (int i = 0; i < LANES; i++) any |= above[i];
  return any != 0;
#endif
}

inline bool same(vec x, vec y) {
#if defined(__AVX512F__)
  return _mm512_cmpneq_ps_mask((__m512)x, (__m512)y) == 0;
#else
  return std::memcmp(&x, &y, sizeof x) == 0;
#endif
}

// e^x for x <= 88 within 2 units in the last place; below -87 it stays at 1e-38. exp_(0) is 1.
// x = n ln 2 + f with |f| <= ln 2 / 2, and the minimax polynomial of degree 6 for e^f.
inline vec exp_(vec x) {
  x = max_(vec{} - 87.f, x);
  vec shifted = x * 1.44269504f + ROUNDER;
  vec n = shifted - ROUNDER;
  vec f = x - n * 0.693145752f;
  f = f - n * 1.42860677e-6f;
  vec p = f * 1.38436153e-3f + 8.37419927e-3f;
  p = p * f + 4.16680053e-2f;
  p = p * f + 1.66664302e-1f;
  p = p * f + 0.49999994f;
  p = p * f + 1.f;
  p = p * f + 1.f;
  return (vec)((ivec)p + ((ivec)shifted << 23));
}

inline vec quick_exp_(vec x) { return exp_(x); }

inline vec load(const float* p) {
  vec x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline vec load(const bf16* p) {
  hvec h;
  std::memcpy(&h, p, sizeof h);
  return (vec)(__builtin_convertvector(h, uvec) << 16);
}
inline void store(float* p, vec x) { std::memcpy(p, &x, sizeof x); }
inline void store(bf16* p, vec x) {
  uvec bits = (uvec)x;
  uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  uvec nan = (uvec)(x != x);
  hvec h = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), hvec);
  std::memcpy(p, &h, sizeof h);
}

inline vec load(const fp16* p) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX__) && defined(__F16C__)
  return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vec x;
  for (int i = 0; i < LANES; i++) x[i] = to_float(p[i]);
  return x;
#endif
}
inline void store(fp16* p, vec x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX__) && defined(__F16C__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < LANES; i++) from_float(x[i], p[i]);
#endif
}

typedef int8_t bvec __attribute__((vector_size(VEC_LANES)));

inline vec load(const int8_t* p) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
  bvec b;
  std::memcpy(&b, p, sizeof b);
  return __builtin_convertvector(__builtin_convertvector(b, ivec), vec);
#endif
}

// The first `count` lanes only; the others read as 0.
template <class E>
inline vec load(const E* p, int count) {
  E part[LANES] = {};
  std::memcpy(part, p, count * sizeof(E));
  return load(part);
}
template <class E>
inline void store(E* p, vec x, int count) {
  E part[LANES];
  store(part, x);
  std::memcpy(p, part, count * sizeof(E));
}

// Past the cache, for outputs too large to be read from it again. `p` must be aligned to a vector.
inline void stream(float* p, vec x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)x);
#elif defined(__AVX__)
  _mm256_stream_ps(p, (__m256)x);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)x);
#else
  store(p, x);
#endif
}
template <class E>
inline void stream(E* p, vec x) {
  store(p, x);
}
