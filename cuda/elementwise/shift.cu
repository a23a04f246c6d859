// The kernels of `elementwise/shift.h`, compiled by NVRTC.

#include "elementwise/gpu.h"
#include "elementwise/shift.h"

SHIFT_FORMULAS(GPU_ENTRIES)
