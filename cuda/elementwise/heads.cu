// The kernels of `elementwise/heads.h`, compiled by NVRTC.

#include "elementwise/gpu.h"
#include "elementwise/heads.h"

HEAD_FORMULAS(GPU_ENTRIES)
