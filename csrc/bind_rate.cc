// Python's view of rounding with the rate in mind: conversions only, no arithmetic.
#include "bind_rate.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <new>
#include <tuple>

#include "codec.h"
#include "rate.h"

namespace nb = nanobind;

namespace {

using Matrix = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

double round_weights(const std::tuple<int64_t, int64_t, int64_t>& shape, Matrix weights, Matrix steps, double extra_step, Matrix across,
                   Matrix down, double price, int32_t most, bool turns) {
  const auto [rows, kernels, taps] = shape;
  const auto count = static_cast<size_t>(rows), width = static_cast<size_t>(kernels * taps), whole = weights.shape(1);
  const auto is = [](const auto& a, size_t n, size_t m) { return a.shape(0) == n && a.shape(1) == m; };
  if (whole < width || whole > width + 1 || !is(weights, count, whole) || !is(steps, count, width) || !is(across, whole, whole) ||
      !is(down, count, count)) {
    throw nb::value_error("arrays that do not fit together");
  }
  const lilliput_rounding job{rows, kernels, taps, static_cast<int64_t>(whole - width), weights.data(), steps.data(), extra_step,
                              across.data(), down.data(), price, most, turns};
  double bits = 0;
  int status;
  {
    nb::gil_scoped_release free;
    status = lilliput_round(&job, &bits);
  }
  if (status == lilliput_out_of_memory) throw std::bad_alloc();
  if (status != lilliput_ok) throw nb::value_error("a tensor that cannot be");
  return bits;
}

}  // namespace

void bind_rate(nb::module_& m) {
  m.def("round_weights", &round_weights, nb::arg("shape"), nb::arg("weights"), nb::arg("steps"), nb::arg("extra_step"), nb::arg("across"),
        nb::arg("down"), nb::arg("price"), nb::arg("most"), nb::arg("turns") = false,
        "Round weights to what costs least in loss and bits together; how many bits that is.");
}
