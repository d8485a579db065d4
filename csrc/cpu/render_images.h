// Crop, resize, flip, color changes and normalization of a batch of images on the CPU.
#pragma once

#include <cstdint>

#include "core/render.h"
#include "cpu/dispatch/dispatch.h"

// Output rows begin .. end - 1 of the B * size rows; all three channels of each.
SSD_OPS_CPU_KERNEL(void, render_rows, const RenderParams& params, int64_t begin, int64_t end)
