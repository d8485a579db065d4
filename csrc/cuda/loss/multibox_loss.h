// The training loss and its gradient on the GPU; torch-free.
#pragma once

#include "core/dtype.h"
#include "core/loss.h"

namespace ssd_ops {

// Numbers of 64 bits that launch_multibox_loss needs as scratch; they may hold anything.
int64_t loss_scratch_size(const LossTask& task);

// Fills lse and weight of the task and the two losses, one T each. There must be at least one row.
int launch_multibox_loss(const LossTask& task, const Mining& mining, const Division& division, void* scratch,
                         void* loc_loss, void* cls_loss, CUstream_st* stream);

// Fills both gradients. The tensors that the task points to are aligned to 32 bytes.
int launch_grad_multibox_loss(const GradLossTask& task, CUstream_st* stream);

}  // namespace ssd_ops
