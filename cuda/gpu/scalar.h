// One number per GPU thread, with the names that the arithmetic shared with the CPU's vectors uses,
// and four numbers moved at once.
#pragma once

#include "common/elements.h"

WKV_HD float exp_(float x) { return expf(x); }
WKV_HD float where_(bool condition, float yes, float no) { return condition ? yes : no; }

struct alignas(16) Quad {
  float x[4];
};

WKV_HD Quad load_quad(const float* p) { return *reinterpret_cast<const Quad*>(p); }
WKV_HD void store_quad(float* p, Quad value) { *reinterpret_cast<Quad*>(p) = value; }
