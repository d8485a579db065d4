// How the ops make tensors ready for kernels, allocate results, and get pointers to their data.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "core/dtype.h"
#include "ops/check.h"
#ifdef SSD_OPS_EMULATED
#include "emu.h"
#endif

namespace ssd_ops {

// float64 if one is float64, else float32: half precision is computed in float32.
inline ScalarType compute_dtype(std::initializer_list<ScalarType> types) {
  for (const ScalarType type : types)
    if (type == ScalarType::Double) return ScalarType::Double;
  return ScalarType::Float;
}

// Calls f with a value of the C++ type of `dtype`, which must be float32 or float64: dispatch_compute(dtype, [&](auto
// t) { using T = decltype(t); ... });
template <typename F>
decltype(auto) dispatch_compute(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Double) return f(double());
  return f(float());
}

template <typename T>
constexpr ScalarType dtype_for() {
  return sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
}

// The dtype of a tensor without torch's name for it, as kernels take it.
inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    default: return Dtype::f32;
  }
}

inline Tensor as_dtype(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

// The tensor contiguous, in `dtype`, and aligned to `alignment` bytes, so that kernels may load whole boxes at once.
inline Tensor dense(const Tensor& t, ScalarType dtype, size_t alignment = 32) {
  Tensor result = as_dtype(t, dtype);
  if (!result.is_contiguous()) result = torch::stable::contiguous(result);  // the call alone costs 0.3 us
  if (reinterpret_cast<uintptr_t>(result.const_data_ptr()) % alignment != 0) result = torch::stable::clone(result);
  return result;
}
inline Tensor dense(const Tensor& t) { return dense(t, t.scalar_type()); }

// The dtype in which kernels that compute in `dtype` load a tensor: they widen half precision themselves, unless the
// arithmetic is in float64.
inline ScalarType load_dtype(ScalarType own, ScalarType dtype) { return dtype == ScalarType::Double ? dtype : own; }
inline Tensor dense_for(const Tensor& t, ScalarType dtype) { return dense(t, load_dtype(t.scalar_type(), dtype)); }

using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

// Throws if a call of torch's C interface fails, where its headers can (torch 2.13) with torch's own message.
#ifdef STABLE_TORCH_ERROR_CODE_CHECK
#define SSD_OPS_TORCH_CALL(call) STABLE_TORCH_ERROR_CODE_CHECK(call)
#else
#define SSD_OPS_TORCH_CALL(call) TORCH_ERROR_CODE_CHECK(call)
#endif

// Uninitialized, on the device of `like`. It skips the dispatcher, which takes longer than the allocation.
inline Tensor empty(const Tensor& like, Shape shape, Shape strides, ScalarType dtype) {
  int32_t device_type, device_index;
  SSD_OPS_TORCH_CALL(aoti_torch_get_device_type(like.get(), &device_type));
  SSD_OPS_TORCH_CALL(aoti_torch_get_device_index(like.get(), &device_index));
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle result;
  SSD_OPS_TORCH_CALL(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), number,
                                              device_type, device_index, &result));
#ifdef SSD_OPS_EMULATED  // so that the tests see what depends on memory that no kernel wrote
  void* memory = nullptr;
  int64_t bytes = 0;
  SSD_OPS_TORCH_CALL(aoti_torch_get_data_ptr(result, &memory));
  SSD_OPS_TORCH_CALL(aoti_torch_get_storage_size(result, &bytes));
  emu::poison_allocation(memory, static_cast<size_t>(bytes));
#endif
  return Tensor(result);
}
inline Tensor empty(const Tensor& like, Shape shape, ScalarType dtype) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(shape[i], 1);
  }
  return empty(like, shape, {strides.data(), strides.size()}, dtype);
}
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return empty(like, Shape(shape), dtype);
}

// A view of the first `count` elements of a tensor of one dimension; it skips the dispatcher.
inline Tensor first_elements(const Tensor& t, int64_t count) {
  constexpr int64_t stride = 1;
  AtenTensorHandle result;
  SSD_OPS_TORCH_CALL(aoti_torch__reinterpret_tensor(t.get(), 1, &count, &stride, 0, &result));
  return Tensor(result);
}

template <typename T>
const T* const_data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace ssd_ops
