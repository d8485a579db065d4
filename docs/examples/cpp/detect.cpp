// Detects objects in an image without Python: detect MODEL.pt2 IMAGE.ppm
// MODEL.pt2 is written by `ssd export CHECKPOINT --to aoti`; `convert photo.jpg photo.ppm` makes a binary PPM.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

namespace {

at::Tensor read_ppm(const std::string& path) {  // float32 [1, 3, H, W] in 0..1
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, maximum = 0;
  if (!(file >> magic >> width >> height >> maximum) || magic != "P6" || maximum != 255)
    throw std::runtime_error(path + " is no binary PPM of 8 bits without comments");
  file.get();
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  if (!file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel()))
    throw std::runtime_error(path + " ends early");
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(255);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: detect MODEL.pt2 IMAGE.ppm");
  const c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const int64_t side = std::stoll(model.get_metadata().at("image_size"));
  const at::Tensor image = read_ppm(argv[2]);
  // resized as in training: antialiased
  const at::Tensor input = at::_upsample_bilinear2d_aa(image, {side, side}, /*align_corners=*/false);
  const auto found = model.run({input.contiguous()});
  const int64_t width = image.size(3), height = image.size(2), count = found[3][0].item<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor box = found[0][0][i];
    std::cout << found[2][0][i].item<int64_t>() << ' ' << found[1][0][i].item<float>();
    for (int64_t k = 0; k < 4; ++k)
      std::cout << ' ' << box[k].item<float>() * static_cast<float>(k % 2 ? height : width);
    std::cout << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << "detect: " << error.what() << '\n';
  return 1;
}
