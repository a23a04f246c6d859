// The CPU passes of `elementwise/pointwise.h` and `elementwise/shift.h`.

#include "elementwise/cpu.h"
#include "elementwise/pointwise.h"
#include "elementwise/shift.h"

POINTWISE_FORMULAS(CPU_ENTRIES)
SHIFT_FORMULAS(CPU_ENTRIES)
