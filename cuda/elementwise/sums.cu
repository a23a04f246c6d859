// The second stage of sums over rows, compiled by NVRTC.

#include "common/elements.h"

using Index = long long;
constexpr int COLUMNS = 32, BELOW = 32;

struct Board {
  float sums[BELOW][COLUMNS];
};

// out_q[c] = the sum over `rows` of partial [rows, quantities, width], in a fixed order. A block has
// 32 x 32 threads, 32 channels of one quantity.
extern "C" __global__ void __launch_bounds__(COLUMNS* BELOW) elementwise_sums(
    Index rows, Index width, const float* partial, float* first, float* second, float* third,
    float* fourth, float* fifth, float* sixth) {
  GPU_SHARED(Board, board);
  float* out[] = {first, second, third, fourth, fifth, sixth};
  Index q = blockIdx.y, c = Index(blockIdx.x) * COLUMNS + threadIdx.x % COLUMNS;
  int below = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
  float sum = 0, lost = 0;  // Kahan's: what the rounding of the sum has taken from it
  if (c < width)
    for (Index row = below; row < rows; row += BELOW) {
      float x = partial[(row * gridDim.y + q) * width + c] - lost, next = sum + x;
      lost = (next - sum) - x;
      sum = next;
    }
  board.sums[below][column] = sum;
  __syncthreads();
  for (int half = BELOW / 2; half; half /= 2) {
    if (below < half) board.sums[below][column] += board.sums[below + half][column];
    __syncthreads();
  }
  if (below == 0 && c < width) out[q][c] = board.sums[0][column];
}
