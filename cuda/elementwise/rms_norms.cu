// The kernels of RMSNorm, of `elementwise/norms.h`, compiled by NVRTC.

#include "elementwise/gpu.h"
#include "elementwise/norms.h"

RMS_NORM_FORMULAS(GPU_STREAM_ENTRIES)
