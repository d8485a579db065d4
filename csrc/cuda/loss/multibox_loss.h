// The training loss and its gradient on the GPU; torch-free.
#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "core/loss.h"

namespace ssd_ops {

// Bytes of workspace that launch_multibox_loss needs, uninitialized and aligned to 32 bytes.
size_t loss_workspace_bytes(const LossParams& params);

// Fills the weights of `params` and the two losses, one T each. There must be at least one prior.
int launch_multibox_loss(const LossParams& params, const Mining& mining, const Normalization& normalization,
                         void* workspace, void* loc_loss, void* cls_loss, CUstream_st* stream);

// Fills both gradients. The tensors of `params` are aligned to 32 bytes.
int launch_grad_multibox_loss(const GradLossParams& params, CUstream_st* stream);

}  // namespace ssd_ops
