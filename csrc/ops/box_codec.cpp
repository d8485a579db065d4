// encode_boxes, decode_boxes and their gradients: validation, allocation, and dispatch to the kernels.
#include "cpu/box_codec.h"

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/box_codec.h"
#endif

namespace ssd_ops {
namespace {

constexpr int64_t kRowGrain = 8192;  // minimum of rows for a thread: some 20 us of work

// What the validation of every op here returns. Rows are [L, P]; `leading` is L, 0 if there are no rows.
struct Codec {
  int64_t rows, num_priors, leading;
  CodeType code;
  ScalarType dtype;
};

Codec check_codec(const char* name, const Tensor& coded, const Tensor& priors, const std::vector<double>& variances,
                  const std::string& code_type) {
  check_shape(name, coded, "[..., 4]", coded.dim() >= 1 && coded.size(coded.dim() - 1) == 4);
  check_floating(name, coded);
  check_shape("priors", priors, "[..., 4]", priors.dim() >= 1 && priors.size(priors.dim() - 1) == 4);
  check_floating("priors", priors);
  check_same_device("priors", priors, name, coded);
  const int64_t extra = coded.dim() - priors.dim();
  bool suffix = extra >= 0;
  for (int64_t i = 0; suffix && i < priors.dim(); ++i) suffix = coded.size(extra + i) == priors.size(i);
  if (!suffix)
    fail("priors must have the last dimensions of " + std::string(name) + ", " + shape_of(coded) + ", got " +
         shape_of(priors));
  check_variances(variances);
  const auto code =
      static_cast<CodeType>(check_one_of("code_type", code_type, {"center_size", "corner", "corner_size"}));
  const int64_t rows = coded.numel() / 4, num_priors = priors.numel() / 4;
  return {rows, num_priors, rows > 0 ? rows / num_priors : 0, code,
          compute_dtype({coded.scalar_type(), priors.scalar_type()})};
}

template <bool decodes>
Tensor coded_with(const Tensor& coded, const Tensor& priors, const std::vector<double>& variances,
                  const std::string& code_type) {
  const Codec codec = check_codec(decodes ? "deltas" : "boxes", coded, priors, variances, code_type);
  Tensor out = empty(coded, coded.sizes(), codec.dtype);
  if (codec.rows == 0) return out;
  const Tensor dense_priors = dense(priors, codec.dtype);
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(coded)) {
    const CudaScope scope(coded);
    const Tensor dense_coded = dense_for(coded, codec.dtype);
    check_cuda(launch_box_codec(dtype_of(dense_coded), decodes, codec.code, variances.data(),
                                dense_coded.const_data_ptr(), dense_priors.const_data_ptr(), out.mutable_data_ptr(),
                                codec.rows, codec.num_priors, scope.stream()),
               decodes ? "decode_boxes" : "encode_boxes");
    return out;
  }
#endif
  chosen_isa();
  const Tensor dense_coded = dense(coded, codec.dtype);
  dispatch_compute(codec.dtype, [&](auto type) {
    using T = decltype(type);
    const cpu::CodecParams<T> params{.coded = const_data<T>(dense_coded),
                                     .priors = const_data<T>(dense_priors),
                                     .out = data<T>(out),
                                     .num_priors = codec.num_priors,
                                     .code = codec.code,
                                     .variances = variances_of<T>(variances.data())};
    torch::stable::parallel_for(0, codec.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      if (decodes) return SSD_OPS_CPU(decode_rows, params, begin, end);
      SSD_OPS_CPU(encode_rows, params, begin, end);
    });
  });
  return out;
}

// The number of slices in which L is summed: enough for all cores, and a function of the shape alone, so that sums do
// not depend on the threads.
int64_t slice_count(const Codec& codec) {
  const int64_t blocks = ceil_div(codec.num_priors, cpu::kPriorBlock);
  return std::min<int64_t>(codec.leading, std::max<int64_t>(1, 64 / blocks));
}

template <typename T>
void grad_on_cpu(const Tensor& grad, const Tensor& coded, const Tensor& priors, const std::vector<double>& variances,
                 const Codec& codec, bool decodes, Tensor& grad_coded, Tensor& grad_priors) {
  const Tensor dense_grad = dense(grad, codec.dtype), dense_coded = dense(coded, codec.dtype);
  const Tensor dense_priors = dense(priors, codec.dtype);
  const int64_t slices = slice_count(codec), size = 4 * codec.num_priors;
  Tensor sums = empty(coded, {slices, size}, ScalarType::Double);
  const cpu::GradCodecParams<T> params{.grad = const_data<T>(dense_grad),
                                       .coded = const_data<T>(dense_coded),
                                       .priors = const_data<T>(dense_priors),
                                       .grad_coded = data<T>(grad_coded),
                                       .prior_slices = data<double>(sums),
                                       .leading = codec.leading,
                                       .num_priors = codec.num_priors,
                                       .slices = slices,
                                       .code = codec.code,
                                       .variances = variances_of<T>(variances.data()),
                                       .decodes = decodes};
  const int64_t blocks = ceil_div(codec.num_priors, cpu::kPriorBlock);
  const int64_t rows_of_unit = (codec.leading / slices + 1) * cpu::kPriorBlock;
  torch::stable::parallel_for(0, slices * blocks, 1 + kRowGrain / rows_of_unit,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_codec_units, params, begin, end); });
  SSD_OPS_CPU(sum_slices, data<double>(sums), slices, size, data<T>(grad_priors));
}

template <bool decodes>
std::tuple<Tensor, Tensor> grad_coded_with(const Tensor& grad, const Tensor& coded, const Tensor& priors,
                                           std::vector<double> variances, std::string code_type) {
  const char* name = decodes ? "deltas" : "boxes";
  const Codec codec = check_codec(name, coded, priors, variances, code_type);
  check_gradient(grad, name, coded, std::vector<int64_t>(coded.sizes().begin(), coded.sizes().end()));
  Tensor grad_priors = empty(priors, priors.sizes(), codec.dtype);
  if (codec.rows == 0) {
    torch::stable::zero_(grad_priors);
    return {empty(coded, coded.sizes(), coded.scalar_type()), as_dtype(grad_priors, priors.scalar_type())};
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(coded)) {
    const CudaScope scope(coded);
    const Tensor dense_coded = dense_for(coded, codec.dtype);
    const Tensor dense_grad = dense(grad, codec.dtype), dense_priors = dense(priors, codec.dtype);
    Tensor grad_coded = empty(dense_coded, dense_coded.sizes(), dense_coded.scalar_type());
    const int64_t slices = grad_codec_slices(codec.leading, codec.num_priors);
    Tensor sums = empty(coded, {slices, 4 * codec.num_priors}, ScalarType::Double);
    check_cuda(launch_grad_box_codec(
                   dtype_of(dense_coded), decodes, codec.code, variances.data(), dense_grad.const_data_ptr(),
                   dense_coded.const_data_ptr(), dense_priors.const_data_ptr(), grad_coded.mutable_data_ptr(),
                   grad_priors.mutable_data_ptr(), data<double>(sums), codec.leading, codec.num_priors, scope.stream()),
               decodes ? "grad_decode_boxes" : "grad_encode_boxes");
    return {as_dtype(grad_coded, coded.scalar_type()), as_dtype(grad_priors, priors.scalar_type())};
  }
#endif
  chosen_isa();
  Tensor grad_coded = empty(coded, coded.sizes(), codec.dtype);
  dispatch_compute(codec.dtype, [&](auto type) {
    grad_on_cpu<decltype(type)>(grad, coded, priors, variances, codec, decodes, grad_coded, grad_priors);
  });
  return {as_dtype(grad_coded, coded.scalar_type()), as_dtype(grad_priors, priors.scalar_type())};
}

Tensor encode_boxes(const Tensor& boxes, const Tensor& priors, std::vector<double> variances, std::string code_type) {
  return coded_with<false>(boxes, priors, variances, code_type);
}

Tensor decode_boxes(const Tensor& deltas, const Tensor& priors, std::vector<double> variances, std::string code_type) {
  return coded_with<true>(deltas, priors, variances, code_type);
}

}  // namespace

SSD_OPS_REGISTER(encode_boxes, encode_boxes)
SSD_OPS_REGISTER(decode_boxes, decode_boxes)
SSD_OPS_REGISTER(grad_encode_boxes, grad_coded_with<false>)
SSD_OPS_REGISTER(grad_decode_boxes, grad_coded_with<true>)

}  // namespace ssd_ops
