// Plan of encode and decode: one thread per box, loaded and stored as one vector; priors come from the L2 cache.
//
// Plan of the gradients: a block has `groups` x `width` threads (256 in all), for `width` neighboring priors and one
// slice of L. The threads of group k process every `groups`-th row of the slice, in order, accumulate the gradient of
// their prior in double in registers, and write the gradients of the boxes. The partial sums of a prior are then added
// in order through shared memory, and those of the slices in order by a second kernel: no atomics, so the same input
// gives the same bits.
#include "core/box_grad.h"
#include "cuda/box_codec.h"
#include "cuda/common/load.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

template <bool decodes, typename In, typename T>
__global__ void __launch_bounds__(kThreads)
    box_codec_kernel(const In* coded, const T* priors, T* out, int64_t rows, int64_t num_priors, CodeType code,
                     Variances<T> variances) {
  const int64_t r = global_thread_index();
  if (r >= rows) return;
  // A 64-bit remainder would cost more than all the rest.
  const int64_t p = rows <= 0x7fffffff ? static_cast<uint32_t>(r) % static_cast<uint32_t>(num_priors) : r % num_priors;
  const Box<T> a = load_box(coded, r), prior = load_box(priors, p);
  reinterpret_cast<Box<T>*>(out)[r] = decodes ? decode(a, prior, code, variances) : encode(a, prior, code, variances);
}

template <bool decodes, typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    grad_box_codec_kernel(const T* grad, const In* coded, const T* priors, In* grad_coded, double* sums,
                          int64_t leading, int64_t num_priors, int64_t slices, int width, CodeType code,
                          Variances<T> variances) {
  __shared__ double thread_sums[kThreads][4];
  const int groups = kThreads / width, group = threadIdx.x / width, column = threadIdx.x % width;
  const int64_t tiles = ceil_div(num_priors, width), slice = blockIdx.x / tiles;
  const int64_t p = blockIdx.x % tiles * width + column;
  const int64_t first = leading * slice / slices, last = leading * (slice + 1) / slices;
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  if (p < num_priors) {
    const Box<T> prior = load_box(priors, p);
    for (int64_t l = first + group; l < last; l += groups) {
      const int64_t row = l * num_priors + p;
      const Box<T> g = load_box(grad, row), a = load_box(coded, row);
      const CodecGrad<T> result =
          decodes ? grad_decode(g, a, prior, code, variances) : grad_encode(g, a, prior, code, variances);
      reinterpret_cast<Box<In>*>(grad_coded)[row] = {narrow<In>(result.coded.x1), narrow<In>(result.coded.y1),
                                                     narrow<In>(result.coded.x2), narrow<In>(result.coded.y2)};
      x1 += result.prior.x1;
      y1 += result.prior.y1;
      x2 += result.prior.x2;
      y2 += result.prior.y2;
    }
  }
  thread_sums[threadIdx.x][0] = x1;
  thread_sums[threadIdx.x][1] = y1;
  thread_sums[threadIdx.x][2] = x2;
  thread_sums[threadIdx.x][3] = y2;
  __syncthreads();
  // From here on one thread per coordinate of a prior: width * 4 <= 128 threads.
  const int64_t target = blockIdx.x % tiles * width + threadIdx.x / 4;
  if (threadIdx.x < width * 4 && target < num_priors) {
    double sum = 0;
    for (int k = 0; k < groups; ++k) sum += thread_sums[k * width + threadIdx.x / 4][threadIdx.x % 4];
    sums[4 * (slice * num_priors + target) + threadIdx.x % 4] = sum;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_slices_kernel(const double* sums, int64_t slices, int64_t size, T* out) {
  for (int64_t i = global_thread_index(); i < size; i += num_global_threads()) {
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += sums[s * size + i];
    out[i] = static_cast<T>(sum);
  }
}

// The number of priors of a block: up to 32, which are adjacent in memory; with fewer there are more groups.
int tile_width(int64_t num_priors) {
  int width = 1;
  while (width < 32 && width < num_priors) width *= 2;
  return width;
}

template <bool decodes>
int launch_codec(Dtype dtype, CodeType code, const double* variances, const void* coded, const void* priors, void* out,
                 int64_t rows, int64_t num_priors, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    using T = compute_t<In>;
    return launch(box_codec_kernel<decodes, In, T>, grid_blocks(rows, kThreads), kThreads, 0, stream,
                  static_cast<const In*>(coded), static_cast<const T*>(priors), static_cast<T*>(out), rows, num_priors,
                  code, variances_of<T>(variances));
  });
}

template <bool decodes, typename In>
cudaError_t launch_gradients(CodeType code, const double* variances, const void* grad, const void* coded,
                             const void* priors, void* grad_coded, void* grad_priors, double* sums, int64_t leading,
                             int64_t num_priors, cudaStream_t stream) {
  using T = compute_t<In>;
  const int width = tile_width(num_priors);
  const int64_t slices = grad_codec_slices(leading, num_priors), size = 4 * num_priors;
  const cudaError_t status =
      launch(grad_box_codec_kernel<decodes, In, T>, grid_blocks(ceil_div(num_priors, width) * slices, 1), kThreads, 0,
             stream, static_cast<const T*>(grad), static_cast<const In*>(coded), static_cast<const T*>(priors),
             static_cast<In*>(grad_coded), sums, leading, num_priors, slices, width, code, variances_of<T>(variances));
  if (status != cudaSuccess) return status;
  return launch(sum_slices_kernel<T>, grid_blocks(size, kThreads), kThreads, 0, stream,
                static_cast<const double*>(sums), slices, size, static_cast<T*>(grad_priors));
}

}  // namespace

int launch_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* coded,
                     const void* priors, void* out, int64_t rows, int64_t num_priors, CUstream_st* stream) {
  if (decodes) return launch_codec<true>(dtype, code, variances, coded, priors, out, rows, num_priors, stream);
  return launch_codec<false>(dtype, code, variances, coded, priors, out, rows, num_priors, stream);
}

// Some 512 blocks fill a GPU, and a thread should have at least 4 rows.
int64_t grad_codec_slices(int64_t leading, int64_t num_priors) {
  const int width = tile_width(num_priors);
  const int64_t wanted = ceil_div(512, ceil_div(num_priors, width)), rows = 4 * (kThreads / width);
  const int64_t max_slices = leading > rows ? leading / rows : 1;
  return wanted < max_slices ? wanted : max_slices;
}

int launch_grad_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* grad,
                          const void* coded, const void* priors, void* grad_coded, void* grad_priors, double* sums,
                          int64_t leading, int64_t num_priors, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    if (decodes)
      return launch_gradients<true, In>(code, variances, grad, coded, priors, grad_coded, grad_priors, sums, leading,
                                        num_priors, stream);
    return launch_gradients<false, In>(code, variances, grad, coded, priors, grad_coded, grad_priors, sums, leading,
                                       num_priors, stream);
  });
}

}  // namespace ssd_ops
