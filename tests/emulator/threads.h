// What a thread of an emulated GPU can ask of the others: tests/emulator/scheduler.cpp.
#pragma once

#include <stddef.h>
#include <string.h>

namespace emulator {

struct Dim {
  unsigned x, y, z;
};
Dim thread_index();
Dim block_index();
Dim block_size();
Dim grid_size();
int lane();

// These wait for the other threads of a block or a warp, or let others get on.
void block_barrier();
void warp_barrier();
void pause();
unsigned shuffle(unsigned value, int from);
int warp_minimum(int value);
// The addresses that the lanes give, after a look at each: it must be of 16 bytes of shared memory.
void gather_rows(const void* row, const unsigned short* (&rows)[32]);
// gpu::multiply_matrices.
void multiply_matrices(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

// A variable of the block, known by its number, and what was asked for at launch.
void* shared_variable(int number, size_t bytes);
void* shared_memory();

}  // namespace emulator
