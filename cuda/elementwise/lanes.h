// What a formula is written in: `vec`, a vector of channels, and `Index`. The CPU and the GPU have
// their own, and their own ways over memory; the formulas of this folder are the same text for both.
//
// A formula is a struct of 64-bit fields in the order in which models/ops/elementwise/kernels.py
// lists them: sizes, tensors, a number, results. Sums over rows, which are the gradients of weights,
// are `SUMS` per channel; total(q) is where the q-th of them goes.
#pragma once

#ifdef __CUDACC__
#include "gpu/rows.h"
#else
#include "cpu/ways.h"
#endif

// A number among the fields of a formula.
struct Number {
  double value;
  WKV_HD operator float() const { return float(value); }
};
