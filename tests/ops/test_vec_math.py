"""csrc/cpu/common/vec_math.h: exp and log within 2 units of the last place, with the same bits on every instruction set."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-O3", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", f"-I{CSRC}"]
SETS = {"baseline": [], "avx2": ["-mavx2"], "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]}

# Walks through all floats by their bits in steps of a prime, in chunks, so that the loops become vectors.
SOURCE = r"""
#include <cstdio>
#include "cpu/common/vec_math.h"
using namespace ssd_ops;
using namespace ssd_ops::cpu;
constexpr int kChunk = 4096;
float x[kChunk], e[kChunk], l[kChunk], f[kChunk], scale[kChunk];
double error(float y, double truth) {  // in units of the last place of the truth
  if (std::isnan(truth)) return std::isnan(y) ? 0 : 1e9;
  const double top = 0x1.fffffep127, limit = top + 0x1p103;  // from here on a float is infinite
  if (truth >= limit) return y == INFINITY ? 0 : 1e9;
  if (std::isinf(y) || std::isinf(truth)) return y == truth ? 0 : 1e9;
  int exponent;
  std::frexp(truth, &exponent);
  return std::fabs(y - truth) / std::ldexp(1.0, exponent - 24 > -149 ? exponent - 24 : -149);
}
uint64_t mix(uint64_t hash, float y) { return (hash ^ (std::isnan(y) ? 1 : to_bits(y))) * 1099511628211ull; }
int main() {
  double worst_exp = 0, worst_log = 0;
  long differing = 0;  // where the steps for x <= 0 differ from vec_exp
  uint64_t hash = 14695981039346656037ull, bits = 0;
  while (bits < (1ull << 32)) {
    int n = 0;
    for (; n < kChunk && bits < (1ull << 32); ++n, bits += 1009) x[n] = from_bits<float>(static_cast<uint32_t>(bits));
    for (int i = 0; i < n; ++i) e[i] = vec_exp(x[i]);
    for (int i = 0; i < n; ++i) l[i] = vec_log(x[i]);
    for (int i = 0; i < n; ++i) f[i] = begin_exp(x[i], kLowestExp, &scale[i]);
    for (int i = 0; i < n; ++i) f[i] = end_exp(f[i], exp_series(f[i]), scale[i]);
    for (int i = 0; i < n; ++i) {
      const bool covered = std::isnan(x[i]) || (x[i] >= -87.0f && x[i] <= 0.0f);
      differing += covered ? mix(0, f[i]) != mix(0, e[i]) : x[i] < -87.0f && f[i] != vec_exp(kLowestExp);
    }
    for (int i = 0; i < n; ++i) {
      worst_exp = std::fmax(worst_exp, error(e[i], std::exp(static_cast<double>(x[i]))));
      worst_log = std::fmax(worst_log, error(l[i], std::log(static_cast<double>(x[i]))));
      hash = mix(mix(hash, e[i]), l[i]);
    }
  }
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -1.0f, 1.0f, 1e-45f, 88.72283f, 88.72284f, -104.0f};
  std::printf("%.4f %.4f %ld %llx\n", worst_exp, worst_log, differing, static_cast<unsigned long long>(hash));
  for (const float s : special) std::printf("%.6g %.6g\n", vec_exp(s), std::fabs(vec_log(s)));
}
"""
# exp and |log| of the special values above.
SPECIAL = """1 inf
1 inf
inf inf
0 nan
nan nan
0.367879 nan
2.71828 0
1 103.279
3.4028e+38 4.48552
inf 4.48552
0 nan"""


def run(folder: Path, name: str, compiler: str) -> list[str]:
    source, program = folder / "measure.cpp", folder / name
    source.write_text(SOURCE)
    subprocess.run([compiler, *FLAGS, *SETS[name], str(source), "-o", str(program)], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def supported() -> list[str]:
    path = Path("/proc/cpuinfo")
    flags = path.read_text().split() if path.exists() else []
    return [name for name, options in SETS.items() if all(f"{flag[2:]}" in flags for flag in options)]


def test_error_bound_and_bits(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    outputs = {name: run(tmp_path, name, compiler) for name in supported()}
    for name, lines in outputs.items():
        worst_exp, worst_log, differing, _ = lines[0].split()
        assert float(worst_exp) <= 2 and float(worst_log) <= 2 and differing == "0", name
        assert lines == outputs["baseline"], f"{name} gives other bits than baseline"
    values = [line.replace("-nan", "nan") for line in outputs["baseline"][1:]]
    assert "\n".join(values) == SPECIAL
