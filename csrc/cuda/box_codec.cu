// Plan of encode and decode: a thread is a box, loaded, computed and stored as one vector; priors come from the L2
// cache.
//
// Plan of the gradients: a block is `lanes` x `width` threads (256 in all), for `width` neighboring priors and one
// slice of L. Lane k takes every `lanes`-th row of the slice, in order, keeps the sum of its prior's gradient in double
// in registers and writes the gradients of the boxes as it goes. The lanes of a prior are then added in order through
// shared memory, and the slices in order by a second kernel: no atomics, so the same input gives the same bits.
#include "core/box_grad.h"
#include "cuda/box_codec.h"
#include "cuda/common/load.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

template <typename T>
Variances<T> variances_of(const double* v) {
  return {{static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])}};
}

template <bool decodes, typename In, typename T>
__global__ void __launch_bounds__(kThreads)
    box_codec_kernel(const In* coded, const T* priors, T* out, int64_t rows, int64_t prior_count, CodeType code,
                     Variances<T> variances) {
  const int64_t r = global_thread();
  if (r >= rows) return;
  // A 64-bit remainder costs more than all the rest.
  const int64_t p =
      rows <= 0x7fffffff ? static_cast<uint32_t>(r) % static_cast<uint32_t>(prior_count) : r % prior_count;
  const Box<T> a = load_box(coded, r), prior = load_box(priors, p);
  reinterpret_cast<Box<T>*>(out)[r] = decodes ? decode(a, prior, code, variances) : encode(a, prior, code, variances);
}

template <bool decodes, typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    grad_box_codec_kernel(const T* grad, const In* coded, const T* priors, In* grad_coded, double* sums,
                          int64_t leading, int64_t prior_count, int64_t slices, int width, CodeType code,
                          Variances<T> variances) {
  __shared__ double of_lane[kThreads][4];
  const int lanes = kThreads / width, lane = threadIdx.x / width, column = threadIdx.x % width;
  const int64_t tiles = ceil_div(prior_count, width), slice = blockIdx.x / tiles;
  const int64_t p = blockIdx.x % tiles * width + column;
  const int64_t first = leading * slice / slices, last = leading * (slice + 1) / slices;
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  if (p < prior_count) {
    const Box<T> prior = load_box(priors, p);
    for (int64_t l = first + lane; l < last; l += lanes) {
      const int64_t row = l * prior_count + p;
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
  of_lane[threadIdx.x][0] = x1;
  of_lane[threadIdx.x][1] = y1;
  of_lane[threadIdx.x][2] = x2;
  of_lane[threadIdx.x][3] = y2;
  __syncthreads();
  // One thread a number from here on: width * 4 <= 128 of them.
  const int64_t target = blockIdx.x % tiles * width + threadIdx.x / 4;
  if (threadIdx.x < width * 4 && target < prior_count) {
    double sum = 0;
    for (int k = 0; k < lanes; ++k) sum += of_lane[k * width + threadIdx.x / 4][threadIdx.x % 4];
    sums[4 * (slice * prior_count + target) + threadIdx.x % 4] = sum;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_slices_kernel(const double* sums, int64_t slices, int64_t size, T* out) {
  for (int64_t i = global_thread(); i < size; i += global_threads()) {
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += sums[s * size + i];
    out[i] = static_cast<T>(sum);
  }
}

// Priors of a block: 32 lie side by side in memory; fewer leave more lanes for L.
int tile_width(int64_t prior_count) {
  int width = 1;
  while (width < 32 && width < prior_count) width *= 2;
  return width;
}

template <bool decodes>
int launch_codec(Dtype dtype, CodeType code, const double* variances, const void* coded, const void* priors, void* out,
                 int64_t rows, int64_t prior_count, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    using T = compute_t<In>;
    return launch(box_codec_kernel<decodes, In, T>, grid_blocks(rows, kThreads), kThreads, 0, stream,
                  static_cast<const In*>(coded), static_cast<const T*>(priors), static_cast<T*>(out), rows, prior_count,
                  code, variances_of<T>(variances));
  });
}

template <bool decodes, typename In>
cudaError_t launch_gradients(CodeType code, const double* variances, const void* grad, const void* coded,
                             const void* priors, void* grad_coded, void* grad_priors, double* sums, int64_t leading,
                             int64_t prior_count, cudaStream_t stream) {
  using T = compute_t<In>;
  const int width = tile_width(prior_count);
  const int64_t slices = grad_codec_slices(leading, prior_count), size = 4 * prior_count;
  const cudaError_t status =
      launch(grad_box_codec_kernel<decodes, In, T>, grid_blocks(ceil_div(prior_count, width) * slices, 1), kThreads, 0,
             stream, static_cast<const T*>(grad), static_cast<const In*>(coded), static_cast<const T*>(priors),
             static_cast<In*>(grad_coded), sums, leading, prior_count, slices, width, code, variances_of<T>(variances));
  if (status != cudaSuccess) return status;
  return launch(sum_slices_kernel<T>, grid_blocks(size, kThreads), kThreads, 0, stream,
                static_cast<const double*>(sums), slices, size, static_cast<T*>(grad_priors));
}

}  // namespace

int launch_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* coded,
                     const void* priors, void* out, int64_t rows, int64_t prior_count, CUstream_st* stream) {
  if (decodes) return launch_codec<true>(dtype, code, variances, coded, priors, out, rows, prior_count, stream);
  return launch_codec<false>(dtype, code, variances, coded, priors, out, rows, prior_count, stream);
}

// Some 512 blocks fill a GPU, and a lane should have 4 rows at least.
int64_t grad_codec_slices(int64_t leading, int64_t prior_count) {
  const int width = tile_width(prior_count);
  const int64_t wanted = ceil_div(512, ceil_div(prior_count, width)), rows = 4 * (kThreads / width);
  const int64_t most = leading > rows ? leading / rows : 1;
  return wanted < most ? wanted : most;
}

int launch_grad_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* grad,
                          const void* coded, const void* priors, void* grad_coded, void* grad_priors, double* sums,
                          int64_t leading, int64_t prior_count, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    if (decodes)
      return launch_gradients<true, In>(code, variances, grad, coded, priors, grad_coded, grad_priors, sums, leading,
                                        prior_count, stream);
    return launch_gradients<false, In>(code, variances, grad, coded, priors, grad_coded, grad_priors, sums, leading,
                                       prior_count, stream);
  });
}

}  // namespace ssd_ops
