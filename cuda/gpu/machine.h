// What only a GPU has: the memory of a block, and instructions for which NVRTC has no function.
// Kernels come to them through this file alone, so that tests can put another in its place that does
// the same on a CPU: tests/emulator/gpu/machine.h.
#pragma once

// A variable that the threads of a block share.
#define GPU_SHARED(TYPE, NAME) __shared__ TYPE NAME

#define GPU_INSTRUCTION __device__ __forceinline__

namespace gpu {

// The memory of a block that was asked for at launch.
GPU_INSTRUCTION void* shared_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}

// ---------------------------------------------------------------- numbers

GPU_INSTRUCTION float from_half(unsigned short x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x));
  return value;
}
GPU_INSTRUCTION unsigned short to_half(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#if __CUDA_ARCH__ >= 800
GPU_INSTRUCTION unsigned short to_bf16(float x) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
// Two bf16, the first in the low half.
GPU_INSTRUCTION unsigned to_two_bf16(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#endif
// 2^x to 2 units in the last place; subnormal numbers are zero.
GPU_INSTRUCTION float quick_exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// ---------------------------------------------------------------- memory

// A flag between blocks: who has read it raised sees all that was written before it was raised.
GPU_INSTRUCTION unsigned load_acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
GPU_INSTRUCTION void store_release(unsigned* flag, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Bring the 32 bytes around p into the L2 cache.
GPU_INSTRUCTION void prefetch(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
// 16 bytes at once, which compilers split into four.
GPU_INSTRUCTION void store_four(void* p, uint4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w)
               : "memory");
}

// ---------------------------------------------------------------- matrices

#if __CUDA_ARCH__ >= 800
// Four 8x8 matrices of 16-bit elements from shared memory; lane 8 i + j has the address of row j of
// the i-th. Lane l gets of each the elements 2 (l % 4) and the next of row l / 4, or of column l / 4
// if TURNED.
template <bool TURNED>
GPU_INSTRUCTION void load_matrices(const void* row, unsigned (&r)[4]) {
  unsigned from = unsigned(__cvta_generic_to_shared(row));
  if constexpr (TURNED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

// d += A B of a warp: A is 16x16 and B 16x8 of bf16, two to a register; d is 16x8.
GPU_INSTRUCTION void multiply_matrices(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                       unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

}  // namespace gpu
