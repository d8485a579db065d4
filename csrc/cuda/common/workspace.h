// How one allocation of workspace is divided into arrays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

namespace ssd_ops {

// Places arrays one after another, each at an offset that is a multiple of 256 bytes: an array has the alignment of the
// allocation, up to 256 bytes. With a null allocation it only measures: bytes() is what the arrays need.
class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(void* memory) : begin_(reinterpret_cast<uintptr_t>(memory)) {}

  template <typename T>
  T* array(int64_t count) {
    T* const result = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment));
    return result;
  }
  // An array whose elements have `element_bytes` each.
  void* array(int64_t count, int64_t element_bytes) { return array<char>(count * element_bytes); }

  size_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kAlignment = 256;

  uintptr_t begin_;
  size_t bytes_ = 0;
};

}  // namespace ssd_ops
