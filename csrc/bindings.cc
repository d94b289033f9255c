// Python's view of the core: conversions only, no arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bind_layers.h"
#include "bind_rate.h"
#include "codec.h"
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

// Rows, kernels, taps, low, high, width, patterns: the fields of `lilliput_piece` before its data.
using Piece = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int32_t, int32_t>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<lilliput_piece> pieces_of(const std::vector<Piece>& pieces, const std::vector<Bytes>& data) {
  if (pieces.size() != data.size()) throw nb::value_error("as many arrays as pieces");
  std::vector<lilliput_piece> made;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto& [rows, kernels, taps, low, high, width, patterns] = pieces[i];
    if (static_cast<int64_t>(data[i].size()) != rows * kernels * taps * width) throw nb::value_error("an array of another size");
    made.push_back({rows, kernels, taps, low, high, width, patterns, data[i].data()});
  }
  return made;
}

nb::bytes given(int status, uint8_t* out, size_t size) {
  if (status == lilliput_out_of_memory) throw std::bad_alloc();
  if (status != lilliput_ok) throw nb::value_error("a piece that cannot be");
  nb::bytes made(reinterpret_cast<const char*>(out), size);
  lilliput_free(out);
  return made;
}

nb::bytes encode(const std::vector<Piece>& pieces, const std::vector<Bytes>& data) {
  const auto all = pieces_of(pieces, data);
  uint8_t* out = nullptr;
  size_t size = 0;
  int status;
  {
    nb::gil_scoped_release free;
    status = lilliput_encode(all.data(), all.size(), &out, &size);
  }
  return given(status, out, size);
}

std::tuple<int, std::vector<uint64_t>> decode(nb::bytes bytes, const std::vector<Piece>& pieces, const std::vector<Bytes>& data) {
  const auto all = pieces_of(pieces, data);
  std::vector<uint64_t> ends(all.size());
  nb::gil_scoped_release free;
  const int status =
      lilliput_decode(static_cast<const uint8_t*>(bytes.data()), bytes.size(), all.data(), all.size(), ends.data());
  return {status, ends};
}

nb::bytes encode_text(nb::bytes text) {
  uint8_t* out = nullptr;
  size_t size = 0;
  const int status = lilliput_encode_text(static_cast<const uint8_t*>(text.data()), text.size(), &out, &size);
  return given(status, out, size);
}

std::tuple<int, nb::bytes> decode_text(nb::bytes bytes, size_t length) {
  std::vector<uint8_t> text(length);
  const int status = lilliput_decode_text(static_cast<const uint8_t*>(bytes.data()), bytes.size(), text.data(), length);
  return {status, nb::bytes(reinterpret_cast<const char*>(text.data()), length)};
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native core of lilliput.";
  m.def("cpu_features", &cpu_features, nb::sig("def cpu_features() -> dict[str, bool]"),
        "Instruction sets that kernels are written for, and whether this processor has them.");
  m.def("encode", &encode, "Tensors of whole numbers as bytes.");
  m.def("decode", &decode, "A status, and how many bytes had been read after each tensor, whose arrays are filled.");
  m.def("encode_text", &encode_text, "Text as bytes.");
  m.def("decode_text", &decode_text, "A status, and the text.");
  bind_rate(m);
  bind_layers(m);
}
