// encode_boxes, decode_boxes and their gradients: checks, allocation, and the way to the kernels.
#include "cpu/box_codec.h"

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/box_codec.h"
#include "ops/cuda_route.h"
#endif

namespace ssd_ops {
namespace {

constexpr int64_t kRowGrain = 8192;  // rows of one thread's share at least: some 20 us of work

// What every op here knows after its checks. `leading` is L, 1 where there is no row.
struct Codec {
  int64_t rows, prior_count, leading;
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
  const int64_t rows = coded.numel() / 4, prior_count = priors.numel() / 4;
  return {rows, prior_count, rows > 0 ? rows / prior_count : 0, code,
          compute_dtype({coded.scalar_type(), priors.scalar_type()})};
}

template <typename T>
Variances<T> variances_of(const std::vector<double>& v) {
  return {{static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])}};
}

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* data_of(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <bool decodes>
Tensor coded_with(const Tensor& coded, const Tensor& priors, const std::vector<double>& variances,
                  const std::string& code_type) {
  const Codec codec = check_codec(decodes ? "deltas" : "boxes", coded, priors, variances, code_type);
  Tensor out = torch::stable::new_empty(coded, coded.sizes(), codec.dtype);
  if (codec.rows == 0) return out;
  const Tensor dense_priors = dense(priors, codec.dtype);
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(coded)) {
    const CudaScope scope(coded);
    const Tensor dense_coded = codec.dtype == ScalarType::Double ? dense(coded, codec.dtype) : dense(coded);
    check_cuda(launch_box_codec(dtype_of(dense_coded), decodes, codec.code, variances.data(),
                                dense_coded.const_data_ptr(), dense_priors.const_data_ptr(), out.mutable_data_ptr(),
                                codec.rows, codec.prior_count, scope.stream()),
               decodes ? "decode_boxes" : "encode_boxes");
    return out;
  }
#endif
  chosen_isa();
  const Tensor dense_coded = dense(coded, codec.dtype);
  dispatch_compute(codec.dtype, [&](auto type) {
    using T = decltype(type);
    const cpu::CodecTask<T> task{
        data_of<T>(dense_coded),   data_of<T>(dense_priors), data_of<T>(out), codec.prior_count, codec.code,
        variances_of<T>(variances)};
    torch::stable::parallel_for(0, codec.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      if (decodes) return SSD_OPS_CPU(decode_rows, task, begin, end);
      SSD_OPS_CPU(encode_rows, task, begin, end);
    });
  });
  return out;
}

// In how many parts L is summed: enough for all cores, a function of the shape alone, so that sums never differ.
int64_t slice_count(const Codec& codec) {
  const int64_t blocks = (codec.prior_count + cpu::kPriorBlock - 1) / cpu::kPriorBlock;
  return std::min<int64_t>(codec.leading, std::max<int64_t>(1, 64 / blocks));
}

template <typename T>
void grad_on_cpu(const Tensor& grad, const Tensor& coded, const Tensor& priors, const std::vector<double>& variances,
                 const Codec& codec, bool decodes, Tensor& grad_coded, Tensor& grad_priors) {
  const Tensor dense_grad = dense(grad, codec.dtype), dense_coded = dense(coded, codec.dtype);
  const Tensor dense_priors = dense(priors, codec.dtype);
  const int64_t slices = slice_count(codec), size = 4 * codec.prior_count;
  Tensor sums = empty(coded, {slices, size}, ScalarType::Double);
  const cpu::GradCodecTask<T> task{data_of<T>(dense_grad),
                                   data_of<T>(dense_coded),
                                   data_of<T>(dense_priors),
                                   data_of<T>(grad_coded),
                                   data_of<double>(sums),
                                   codec.leading,
                                   codec.prior_count,
                                   slices,
                                   codec.code,
                                   variances_of<T>(variances),
                                   decodes};
  const int64_t blocks = (codec.prior_count + cpu::kPriorBlock - 1) / cpu::kPriorBlock;
  const int64_t rows_of_unit = (codec.leading / slices + 1) * cpu::kPriorBlock;
  torch::stable::parallel_for(0, slices * blocks, 1 + kRowGrain / rows_of_unit,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_codec_units, task, begin, end); });
  SSD_OPS_CPU(sum_slices, data_of<double>(sums), slices, size, data_of<T>(grad_priors));
}

Tensor as_dtype(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

template <bool decodes>
std::tuple<Tensor, Tensor> grad_coded_with(const Tensor& grad, const Tensor& coded, const Tensor& priors,
                                           std::vector<double> variances, std::string code_type) {
  const char* name = decodes ? "deltas" : "boxes";
  const Codec codec = check_codec(name, coded, priors, variances, code_type);
  check_gradient(grad, name, coded, std::vector<int64_t>(coded.sizes().begin(), coded.sizes().end()));
  Tensor grad_priors = torch::stable::new_empty(priors, priors.sizes(), codec.dtype);
  if (codec.rows == 0) {
    torch::stable::zero_(grad_priors);
    return {torch::stable::new_empty(coded, coded.sizes()), as_dtype(grad_priors, priors.scalar_type())};
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(coded)) {
    const CudaScope scope(coded);
    const Tensor dense_coded = codec.dtype == ScalarType::Double ? dense(coded, codec.dtype) : dense(coded);
    const Tensor dense_grad = dense(grad, codec.dtype), dense_priors = dense(priors, codec.dtype);
    Tensor grad_coded = torch::stable::empty_like(dense_coded);
    const int64_t slices = grad_codec_slices(codec.leading, codec.prior_count);
    Tensor sums = empty(coded, {slices, 4 * codec.prior_count}, ScalarType::Double);
    check_cuda(
        launch_grad_box_codec(dtype_of(dense_coded), decodes, codec.code, variances.data(), dense_grad.const_data_ptr(),
                              dense_coded.const_data_ptr(), dense_priors.const_data_ptr(),
                              grad_coded.mutable_data_ptr(), grad_priors.mutable_data_ptr(), data_of<double>(sums),
                              codec.leading, codec.prior_count, scope.stream()),
        decodes ? "grad_decode_boxes" : "grad_encode_boxes");
    return {as_dtype(grad_coded, coded.scalar_type()), as_dtype(grad_priors, priors.scalar_type())};
  }
#endif
  chosen_isa();
  Tensor grad_coded = torch::stable::new_empty(coded, coded.sizes(), codec.dtype);
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
