// The gradients of the IoU family's matrices on the GPU; torch-free.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

// How a matrix [N, M] is divided into tiles; a function of the shape alone, so that sums do not depend on the GPU.
struct GradIouTiles {
  int64_t tile_rows, tile_columns, row_tiles, column_tiles;
};
GradIouTiles grad_iou_tiles(int64_t n, int64_t m);

// grad [B, N, M]; boxes1 [B, N, 4] and boxes2 [B, M, 4] of `dtype`, as are their gradients; all dense and aligned to a
// box. row_sums [B, column_tiles, 6, N] and column_sums [B, row_tiles, 6, M] are workspace. Everything without a
// stated dtype is float, or double if `dtype` is f64.
int launch_grad_box_iou(Dtype dtype, IouMetric metric, const void* grad, const void* boxes1, const void* boxes2,
                        void* row_sums, void* column_sums, void* grad1, void* grad2, int64_t batch, int64_t n,
                        int64_t m, CUstream_st* stream);

}  // namespace ssd_ops
