// WKV-5 and WKV-6 for heads of 64 channels. Compiled by NVRTC without any header of CUDA; launched
// from models/ops/wkv6/cuda.py.

#include "wkv6/kernels.h"

WKV6_SIZE(64)
