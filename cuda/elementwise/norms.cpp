// The CPU passes of `elementwise/norms.h` and `elementwise/heads.h`.

#include "elementwise/cpu.h"
#include "elementwise/heads.h"

LAYER_NORM_FORMULAS(CPU_STREAM_ENTRIES)
RMS_NORM_FORMULAS(CPU_STREAM_ENTRIES)
HEAD_FORMULAS(CPU_ENTRIES)
