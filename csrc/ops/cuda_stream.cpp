#include "ops/cuda_stream.h"

#ifdef SSD_OPS_WITH_CUDA

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace ssd_ops {
#ifndef SSD_OPS_EMULATED
namespace {

using CurrentStream = int32_t (*)(int32_t device_index, void** stream);

// The function is in libtorch_cuda, and a library that links to it does not load with a CPU build of torch. A process
// with a CUDA tensor has libtorch_cuda loaded, so the function is looked up there, at the first use.
CurrentStream find_current_stream() {
  const char* name = "aoti_torch_get_current_cuda_stream";
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* found = dlsym(library != nullptr ? library : RTLD_DEFAULT, name);
  if (found == nullptr) {
    throw std::runtime_error("ssd_ops: this torch has no CUDA support (" + std::string(name) + " was not found)");
  }
  return reinterpret_cast<CurrentStream>(found);
}

CUstream_st* current_stream(int32_t device_index) {
  static const CurrentStream get = find_current_stream();
  void* stream = nullptr;
  if (get(device_index, &stream) != 0) {
    throw std::runtime_error("ssd_ops: torch has no current stream on cuda:" + std::to_string(device_index));
  }
  return static_cast<CUstream_st*>(stream);
}

}  // namespace

CudaScope::CudaScope(const torch::stable::Tensor& tensor)
    : guard_(tensor.get_device_index()), stream_(current_stream(tensor.get_device_index())) {}
#endif

#ifdef SSD_OPS_EMULATED
void* mapped_memory() {
  alignas(16) static thread_local char memory[kMappedBytes] = {1};  // not 0: the emulator takes that for shared memory
  return memory;
}
#else
void* mapped_memory() {
  struct Mapped {
    Mapped() {
      check_cuda(cudaHostAlloc(&memory, kMappedBytes, cudaHostAllocPortable | cudaHostAllocMapped), "cudaHostAlloc");
    }
    ~Mapped() { cudaFreeHost(memory); }  // fails at the end of the process, when there is nothing left to free
    void* memory = nullptr;
  };
  static thread_local const Mapped mapped;
  return mapped.memory;  // also its address on every device: all of them have unified addressing
}
#endif

void synchronize(CUstream_st* stream, const char* op) { check_cuda(cudaStreamSynchronize(stream), op); }

void check_cuda(int status, const char* op) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  throw std::runtime_error(std::string(op) + ": CUDA error " + std::to_string(status) + " (" + cudaGetErrorName(error) +
                           "): " + cudaGetErrorString(error));
}

}  // namespace ssd_ops

#endif  // SSD_OPS_WITH_CUDA
