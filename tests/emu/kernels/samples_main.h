// Runs the kernels of samples.cu and compares the results with those of plain loops; for the emulator only.
namespace {

using namespace ssd_ops;

int failures = 0;

void expect(const char* what, bool right) {
  std::printf("%s: %s\n", what, right ? "right" : "WRONG");
  failures += right ? 0 : 1;
}
unsigned next(unsigned& state) { return state = state * 1664525u + 1013904223u; }

template <typename T>
void test_row_sum() {
  const int rows = 7, columns = 1000;
  std::vector<T> x(rows * columns), sums(rows, -1), wanted(rows, 0);
  for (int i = 0; i < rows * columns; ++i) wanted[i / columns] += x[i] = static_cast<T>(i % 13);
  const cudaError_t status = launch(row_sum_kernel<T>, rows, 256, 0, nullptr, x.data(), columns, sums.data());
  expect("row_sum", status == cudaSuccess && sums == wanted);
}

void test_transpose() {
  const int rows = 45, columns = 70;
  std::vector<int> x(rows * columns), y(rows * columns, -1);
  for (int i = 0; i < rows * columns; ++i) x[i] = i;
  const dim3 grid(grid_blocks(columns, 32), grid_blocks(rows, 32));
  launch(transpose_kernel, grid, dim3(32, 8), 0, nullptr, x.data(), rows, columns, y.data());
  bool right = true;
  for (int i = 0; i < rows * columns; ++i) right = right && y[i % columns * rows + i / columns] == i;
  expect("transpose", right);
}

void test_argmax() {
  std::vector<float> x(5000, 1.0f);
  x[1234] = x[4321] = 2.0f;
  unsigned long long best = 0;
  unsigned finished = 0;
  int index = -1;
  launch(argmax_kernel, 6, 128, 0, nullptr, x.data(), 5000, &best, &finished, &index);
  expect("argmax", index == 1234);
}

void test_compact() {
  unsigned state = 1;
  std::vector<float> x(777);
  std::vector<int> wanted, indices(777, -1);
  for (int i = 0; i < 777; ++i) {
    x[i] = static_cast<float>(static_cast<int>(next(state)));
    if (x[i] > 0) wanted.push_back(i);
  }
  int count = -1;
  launch(compact_kernel, 1, 256, 0, nullptr, x.data(), 777, indices.data(), &count);
  indices.resize(count < 0 ? 0 : count);
  expect("compact", indices == wanted);
}

void test_sort() {
  unsigned state = 2;
  std::vector<unsigned long long> keys(1024);
  for (auto& key : keys) key = static_cast<unsigned long long>(next(state)) << 32 | next(state);
  auto wanted = keys;
  std::sort(wanted.begin(), wanted.end());
  launch(sort_kernel, 1, 256, keys.size() * sizeof(keys[0]), nullptr, keys.data(), 1024);
  expect("sort", keys == wanted);
}

void test_histogram() {
  unsigned state = 3;
  std::vector<unsigned char> x(1001);
  std::vector<unsigned> counts(256, 9), wanted(256, 0);
  for (auto& value : x) ++wanted[value = static_cast<unsigned char>(next(state) >> 24 & 63)];
  launch(histogram_kernel, 1, 128, 0, nullptr, x.data(), 1001, counts.data());
  expect("histogram", counts == wanted);
}

void test_scan() {
  std::vector<int> x(64), whole(64), eights(64), wanted(64), wanted_eights(64);
  for (int i = 0; i < 64; ++i) {
    x[i] = i * i % 7;
    wanted[i] = x[i] + (i % 32 ? wanted[i - 1] : 0);
    wanted_eights[i] = x[i] + (i % 8 ? wanted_eights[i - 1] : 0);
  }
  launch(scan_kernel, 1, 64, 0, nullptr, x.data(), whole.data(), eights.data());
  expect("scan", whole == wanted && eights == wanted_eights);
}

void test_halves() {
  std::vector<int> out(32), wanted(32);
  for (int i = 0; i < 32; ++i) wanted[i] = (i < 16 ? 3 : 28) + 100 + 1000 + 10000;
  launch(halves_kernel, 1, 32, 0, nullptr, out.data());
  expect("halves", out == wanted);
}

void test_convert() {
  std::vector<float4> x(300);
  for (int i = 0; i < 300; ++i) x[i] = {1.0f + i, 0.5f, 2.0f, 3.0f};
  std::vector<__half> h(300);
  std::vector<__nv_bfloat16> b(300);
  launch(convert_kernel, grid_blocks(300, 128), 128, 0, nullptr, x.data(), h.data(), b.data(), 300);
  bool right = true;
  for (int i = 0; i < 300; ++i) right = right && __half2float(h[i]) == (1.0f + i) * 0.5f + 2.0f;
  for (int i = 0; i < 300; ++i) right = right && __bfloat162float(b[i]) == 0.66796875f;
  expect("convert", right);
  for (unsigned bits = 0; bits < 65536; ++bits) {  // every half survives the way to float and back
    const __half value = __ushort_as_half(static_cast<unsigned short>(bits));
    const bool nan = (bits & 0x7fff) > 0x7c00;
    right = right && __half_as_ushort(__float2half_rn(__half2float(value))) == (nan ? 0x7fff : bits);
  }
  expect("half", right && __half_as_ushort(__float2half_rn(65519.99f)) == 0x7bff &&
                     __half_as_ushort(__float2half_rn(65520.0f)) == 0x7c00 &&
                     __half_as_ushort(__float2half_rn(2.98e-8f)) == 0 &&
                     __half_as_ushort(__float2half_rn(2.99e-8f)) == 1 &&
                     __half_as_ushort(__float2half_rn(2049.0f)) == 0x6800);
}

void test_launch() {
  const cudaError_t none = launch(halves_kernel, 0, 32, 0, nullptr, nullptr);
  const cudaError_t large = launch(halves_kernel, 1, 1025, 0, nullptr, nullptr);
  const cudaError_t shared = launch(halves_kernel, 1, 32, 1 << 20, nullptr, nullptr);
  const cudaError_t taken = cudaGetLastError(), nothing = cudaGetLastError();
  expect("launch", none == cudaSuccess && large == cudaErrorInvalidConfiguration && shared == cudaErrorInvalidValue &&
                       taken == cudaSuccess && nothing == cudaSuccess);
}

}  // namespace

int main() {
  test_row_sum<float>();
  test_row_sum<double>();
  test_transpose();
  test_argmax();
  test_compact();
  test_sort();
  test_histogram();
  test_scan();
  test_halves();
  test_convert();
  test_launch();
  return failures == 0 ? 0 : 1;
}
