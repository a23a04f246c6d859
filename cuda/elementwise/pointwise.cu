// The kernels of `elementwise/pointwise.h`, compiled by NVRTC.

#include "elementwise/gpu.h"
#include "elementwise/pointwise.h"

POINTWISE_FORMULAS(GPU_ENTRIES)
