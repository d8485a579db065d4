// The one place where csrc/ops uses the CUDA runtime: the device of a tensor, torch's current stream on it, and errors.
#pragma once
#ifdef SSD_OPS_WITH_CUDA

#ifndef SSD_OPS_EMULATED
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/csrc/stable/tensor.h>

#include <cstddef>

struct CUstream_st;  // cudaStream_t is a pointer to it; csrc/ops needs no CUDA headers

namespace ssd_ops {

// Makes the device of `tensor` the current one until the end of the scope, as launches need, and has torch's current
// stream on it:
//   const CudaScope scope(boxes);
//   check_cuda(launch_nms(..., scope.stream()), "nms");
#ifdef SSD_OPS_EMULATED  // the tests' emulator has one device and one stream
class CudaScope {
 public:
  explicit CudaScope(const torch::stable::Tensor&) {}
  CUstream_st* stream() const { return nullptr; }
};
#else
class CudaScope {
 public:
  explicit CudaScope(const torch::stable::Tensor& tensor);
  CUstream_st* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  CUstream_st* stream_;
};
#endif

// kMappedBytes of host memory that kernels of every device can write to, one for each thread of the host.
constexpr size_t kMappedBytes = 64;
void* mapped_memory();

// Waits until the work on the stream is done; what its kernels wrote to mapped_memory() can then be read.
void synchronize(CUstream_st* stream, const char* op);

// Throws std::runtime_error("<op>: CUDA error ...") when a launcher's status (a cudaError_t) is not success.
void check_cuda(int status, const char* op);

}  // namespace ssd_ops

#endif  // SSD_OPS_WITH_CUDA
