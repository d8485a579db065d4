// ssd_ops._C: answers what this build is made of. It holds no op and does not need torch: the ops are in libssd_ops.so,
// which knows nothing of Python, and this module can say what was built even when that library does not load.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "build_config.h"
#include "cpu/dispatch/isa.h"

namespace py = pybind11;

namespace {

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

// An empty text means that there is nothing of the kind.
py::object text_or_none(const std::string& text) {
  return text.empty() ? py::object(py::none()) : py::object(py::str(text));
}

py::dict build_info() {
  py::dict info;
  info["version"] = SSD_OPS_VERSION;
  info["compiler"] = SSD_OPS_COMPILER;
  info["torch_built_with"] = SSD_OPS_TORCH_BUILT_WITH;
  info["torch_at_least"] = "2.11";
  info["cuda"] = text_or_none(SSD_OPS_CUDA_VERSION);
  info["cuda_architectures"] = words(SSD_OPS_CUDA_ARCHITECTURES);
  info["cuda_note"] = text_or_none(SSD_OPS_CUDA_NOTE);
  info["isa_compiled"] = words(SSD_OPS_ISA_NAMES);
  info["isa_chosen"] = ssd_ops::isa_name(ssd_ops::chosen_isa());
  info["schemas_sha256"] = SSD_OPS_SCHEMAS_SHA256;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "What the compiled library was built from and with.";
  module.def("build_info", &build_info,
             "Returns a dict of what was compiled, with what, and the instruction set chosen on this CPU.");
}
