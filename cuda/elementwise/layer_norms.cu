// The kernels of LayerNorm, of `elementwise/norms.h`, compiled by NVRTC.

#include "elementwise/gpu.h"
#include "elementwise/norms.h"

LAYER_NORM_FORMULAS(GPU_STREAM_ENTRIES)
