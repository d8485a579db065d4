// An array for one call of a kernel: uninitialized, aligned to a cache line, freed at the end of its scope.
//
// Not std::vector: this header is compiled once for each instruction set, and a std template that is not inlined would
// be one weak symbol for all of them, so that the baseline could run code for AVX-512. For the same reason kernels call
// std::sort and the like for types of their own namespace only, never for built-in types.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

namespace ssd_ops::cpu::SSD_OPS_ISA {

template <typename T>
class Scratch {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Scratch() = default;
  explicit Scratch(int64_t size) : data_(allocate(size)), size_(size) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return size_; }

  // Grows the array to `size` items and keeps those that it has.
  void grow(int64_t size) {
    if (size <= size_) return;
    T* larger = allocate(size);
    if (size_ > 0) std::memcpy(static_cast<void*>(larger), data_, static_cast<size_t>(size_) * sizeof(T));
    std::free(data_);
    data_ = larger;
    size_ = size;
  }

 private:
  static T* allocate(int64_t size) {
    if (size <= 0) return nullptr;
    const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
