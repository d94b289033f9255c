// Python's view of the core: conversions only, no arithmetic.
#include <nanobind/nanobind.h>

#include "cpu.h"

namespace nb = nanobind;

namespace {

nb::dict cpu_features() {
  const uint32_t found = lilliput_cpu_features();
  nb::dict features;
#define LILLIPUT_ROW(bit, name) features[#name] = (found & lilliput_cpu_##name) != 0;
  LILLIPUT_CPU_FEATURES(LILLIPUT_ROW)
#undef LILLIPUT_ROW
  return features;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native core of lilliput.";
  m.def("cpu_features", &cpu_features, nb::sig("def cpu_features() -> dict[str, bool]"),
        "Instruction sets that kernels are written for, and whether this processor has them.");
}
