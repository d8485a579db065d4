// Input validation: one error that names the argument, what was expected and what was given.
// ssd_ops/checks.py does the same in Python, with the same messages; tests/ops/test_errors.py runs both.
#pragma once

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/suppression.h"

namespace ssd_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Not STD_TORCH_CHECK: that puts function, file and line before the message.
[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error(message); }

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::UInt16: return "uint16";
    case ScalarType::UInt32: return "uint32";
    case ScalarType::UInt64: return "uint64";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    case ScalarType::ComplexHalf: return "complex32";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "another dtype";
  }
}

template <typename Range>
std::string bracketed(const Range& values) {
  std::ostringstream text;
  text << '[';
  const char* comma = "";
  for (const auto& value : values) {
    text << comma << value;
    comma = ", ";
  }
  text << ']';
  return text.str();
}

inline std::string shape_of(const Tensor& t) { return bracketed(t.sizes()); }

inline std::string device_of(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  if (t.is_cuda()) return "cuda:" + std::to_string(t.get_device_index());
  return "another device";
}

inline std::string plain_number(double value) {  // as Python's format(value, "g")
  std::ostringstream text;
  text << value;
  return text.str();
}

// `expected` is a string, or a function that returns one where composing it takes time.
template <typename Expected>
void check_shape(const char* name, const Tensor& t, const Expected& expected, bool matches) {
  if (matches) return;
  const auto text = [&]() -> std::string {
    if constexpr (std::is_invocable_v<Expected>)
      return expected();
    else
      return expected;
  };
  fail(std::string(name) + " must have shape " + text() + ", got " + shape_of(t));
}

inline bool has_shape(const Tensor& t, std::initializer_list<int64_t> shape) {
  if (t.dim() != static_cast<int64_t>(shape.size())) return false;
  int64_t i = 0;
  for (const int64_t size : shape)
    if (t.size(i++) != size) return false;
  return true;
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline void check_floating(const char* name, const Tensor& t) {
  if (!is_floating(t.scalar_type()))
    fail(std::string(name) + " must be float16, bfloat16, float32 or float64, got " + dtype_name(t.scalar_type()));
}

// [..., 4] with `dim` dimensions, floating.
inline void check_boxes(const char* name, const Tensor& t, const char* expected, int64_t dim) {
  check_shape(name, t, expected, t.dim() == dim && t.size(dim - 1) == 4);
  check_floating(name, t);
}

inline void check_dtype(const char* name, const Tensor& t, ScalarType expected) {
  if (t.scalar_type() != expected)
    fail(std::string(name) + " must be " + dtype_name(expected) + ", got " + dtype_name(t.scalar_type()));
}

inline void check_same_dtype(const char* name, const Tensor& t, const char* other_name, const Tensor& other) {
  if (t.scalar_type() != other.scalar_type())
    fail(std::string(name) + " must have the dtype of " + other_name + ", " + dtype_name(other.scalar_type()) +
         ", got " + dtype_name(t.scalar_type()));
}

inline void check_same_device(const char* name, const Tensor& t, const char* other_name, const Tensor& other) {
  if (t.device() != other.device())
    fail(std::string(name) + " must be on the device of " + other_name + ", " + device_of(other) + ", got " +
         device_of(t));
}

// The incoming gradient of a result of this shape.
inline void check_gradient(const Tensor& grad, const char* other_name, const Tensor& other,
                           const std::vector<int64_t>& shape) {
  check_shape(
      "grad", grad, [&] { return bracketed(shape); },
      std::vector<int64_t>(grad.sizes().begin(), grad.sizes().end()) == shape);
  check_floating("grad", grad);
  check_same_device("grad", grad, other_name, other);
}

// `out` must not be written to while an input is read.
inline void check_no_shared_memory(const char* name, const Tensor& out, const char* other_name, const Tensor& other) {
  const auto end = [](const Tensor& t) {
    int64_t last = 0;
    for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
    return static_cast<const char*>(t.const_data_ptr()) + (last + 1) * static_cast<int64_t>(t.element_size());
  };
  if (out.numel() == 0 || other.numel() == 0) return;
  const auto* begin = static_cast<const char*>(out.const_data_ptr());
  const auto* other_begin = static_cast<const char*>(other.const_data_ptr());
  if (other_begin < end(out) && begin < end(other))
    fail(std::string(name) + " must not share memory with " + other_name);
}

inline void check_number(const char* name, double value) {
  if (std::isnan(value)) fail(std::string(name) + " must be a number, got nan");
}

inline void check_finite(const char* name, double value) {
  check_number(name, value);
  if (std::isinf(value)) fail(std::string(name) + " must be finite, got " + plain_number(value));
}

inline void check_positive(const char* name, double value) {
  if (!(value > 0)) fail(std::string(name) + " must be a number above 0, got " + plain_number(value));
}

inline void check_not_negative(const char* name, double value) {
  if (!(value >= 0)) fail(std::string(name) + " must be 0 or more, got " + plain_number(value));
}

inline void check_at_least_one(const char* name, int64_t value) {
  if (value < 1) fail(std::string(name) + " must be at least 1, got " + std::to_string(value));
}

// Returns the index of `value` among `choices`.
inline int check_one_of(const char* name, std::string_view value, std::initializer_list<const char*> choices) {
  std::string expected;
  int index = 0;
  for (const char* choice : choices) {
    if (value == choice) return index;
    expected += (index++ ? ", " : "") + std::string(choice);
  }
  fail(std::string(name) + " must be one of " + expected + ", got " + std::string(value));
}

// The threshold above which a box is suppressed.
inline double suppress_threshold(double iou_threshold, bool suppress_equal) {
  return suppress_equal ? next_double_below(iou_threshold) : iou_threshold;
}

inline void check_variances(const std::vector<double>& variances) {
  bool good = variances.size() == 4;
  for (const double v : variances) good = good && v > 0;
  if (!good) fail("variances must be 2 or 4 numbers above 0, got " + bracketed(variances));
}

}  // namespace ssd_ops
