// The gradient of the training loss on the CPU.
#pragma once

#include <cstdint>

#include "core/loss.h"
#include "cpu/dispatch/dispatch.h"

// Fills both gradients of rows begin .. end - 1 of the B * P rows, level after level.
SSD_OPS_CPU_KERNEL(void, grad_loss_rows, const GradLossParams& params, int64_t begin, int64_t end)
