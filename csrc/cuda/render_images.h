// Crop, resize, flip, color changes and normalization of a batch of images on the GPU; torch-free.
#pragma once

#include "core/render.h"

namespace ssd_ops {

// Writes params.out in one launch.
int launch_render_images(const RenderParams& params, CUstream_st* stream);

}  // namespace ssd_ops
