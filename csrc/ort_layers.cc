#include "ort_layers.h"

#include <algorithm>

#include "binary.h"
#include "int4.h"
#include "ort_read.h"
#include "sparse.h"

namespace ort {
namespace {

struct Window {
  Window(const Api& api, const void* info) {
    conv.groups = narrow(number(api, info, "group"), "group");
    pair(api, info, "strides", conv.stride);
    pair(api, info, "pads", conv.padding);
    pair(api, info, "dilations", conv.dilation);
  }

  lilliput_conv sized(int64_t height, int64_t width) const {
    lilliput_conv made = conv;
    made.height = narrow(height, "height");
    made.width = narrow(width, "width");
    check(lilliput_conv_check(&made));
    return made;
  }

  lilliput_conv conv{};
};

struct Binarize : Node {
  Binarize(const Api& given, const void* info)
      : api(given), least(values<float>(constant(given, info, 1, "least", floats, true))) {}

  void compute(void* context) const override {
    const Tensor x = input(api, context, 0, floats);
    if (x.shape.size() < 2) fail("the first input must have a batch and channels");
    std::vector<int64_t> shape = x.shape;
    const int64_t channels = shape[1];
    if (channels < 1) fail("the first input has no channels");
    if (!least.empty()) sized(least.size(), channels, "least");
    shape[1] = (channels + 7) / 8;
    int64_t pixels = 1;
    for (size_t i = 2; i < shape.size(); ++i) pixels *= shape[i];
    uint8_t* to = static_cast<uint8_t*>(output(api, context, shape));
    const float* from = static_cast<const float*>(x.data);
    check(lilliput_binarize(from, shape[0], narrow(channels, "channels"), pixels, or_null(least), nullptr, to));
  }

  Api api;
  std::vector<float> least;
};

// The weights of a window, `per` channels in a byte; they say what the window does not know yet.
std::vector<uint8_t> packed_weight(const Api& api, const void* info, Window& window, int64_t per) {
  lilliput_conv& c = window.conv;
  const Tensor packed = constant(api, info, 1, "weight", bytes);
  if (packed.shape.size() != 4) fail("input `weight` must have four dimensions");
  c.in = narrow(number(api, info, "channels"), "channels");
  c.out = narrow(packed.shape[0], "weight");
  for (int axis = 0; axis < 2; ++axis) c.kernel[axis] = narrow(packed.shape[static_cast<size_t>(axis) + 2], "weight");
  if (c.groups < 1 || c.in < 1 || c.in % c.groups != 0 || packed.shape[1] != (c.in / c.groups + per - 1) / per) {
    fail("`channels`, `group` and the shape of `weight` do not go together");
  }
  return values<uint8_t>(packed);
}

// What becomes of sums that are written as floats, from inputs `at` and the next.
struct Line {
  Line(const Api& api, const void* info, size_t at, int64_t outputs)
      : scale(values<float>(constant(api, info, at, "scale", floats))),
        bias(values<float>(constant(api, info, at + 1, "bias", floats, true))) {
    sized(scale.size(), outputs, "scale");
    if (!bias.empty()) sized(bias.size(), outputs, "bias");
  }

  std::vector<float> scale, bias;
};

// With `bits`, thresholds are written; with `ternary`, a mask follows the weights.
struct Binary : Node {
  Binary(const Api& given, const void* info, bool bits, bool ternary) : api(given), window(given, info), writes_bits(bits) {
    weight = packed_weight(api, info, window, 8);
    pad = narrow(number(api, info, "pad"), "pad");
    if (pad > 1) fail("attribute `pad` must be -1, 0 or 1");
    const size_t next = ternary ? 3 : 2;
    if (ternary) {
      mask = values<uint8_t>(constant(api, info, 2, "mask", bytes));
      sized(mask.size(), static_cast<int64_t>(weight.size()), "mask");
    }
    if (bits) {
      least = values<int32_t>(constant(api, info, next, "least", ints));
      flip = values<uint8_t>(constant(api, info, next + 1, "flip", bytes));
      sized(least.size(), window.conv.out, "least");
      sized(flip.size(), window.conv.out, "flip");
    } else {
      Line line(api, info, next, window.conv.out);
      scale = std::move(line.scale);
      bias = std::move(line.bias);
    }
  }

  void compute(void* context) const override {
    const Tensor x = input(api, context, 0, bytes);
    const std::vector<int64_t>& shape = four(x);
    const int64_t in = window.conv.in;
    belong(shape[1], (in + 7) / 8, "bytes of channels");
    const lilliput_conv conv = window.sized(shape[2], shape[3]);
    const auto& layer = packed.at(shape[2], shape[3], [&] { return make(conv); });
    const int64_t rows = lilliput_conv_output(&conv, 0), columns = lilliput_conv_output(&conv, 1);
    const int64_t channels = writes_bits ? (conv.out + 7) / 8 : conv.out;
    void* to = output(api, context, {shape[0], channels, rows, columns});
    check(lilliput_binary_run(&layer, shape[0], static_cast<const uint8_t*>(x.data), to, threads));
  }

  std::shared_ptr<lilliput_binary> make(const lilliput_conv& conv) const {
    const lilliput_binary_layer layer{conv,           pad,           weight.data(), or_null(scale), or_null(bias),
                                      or_null(least), or_null(flip), or_null(mask)};
    lilliput_binary* made = nullptr;
    check(lilliput_binary_new(&layer, nullptr, &made));
    return {made, lilliput_binary_free};
  }

  Api api;
  int threads = threads_told();
  Window window;
  bool writes_bits;
  int32_t pad = 0;
  std::vector<uint8_t> weight, flip, mask;
  std::vector<float> scale, bias;
  std::vector<int32_t> least;
  Packed<lilliput_binary> packed;
};

struct Int4 : Node {
  Int4(const Api& given, const void* info)
      : api(given),
        window(given, info),
        weight(packed_weight(given, info, window, 2)),
        line(given, info, 2, window.conv.out),
        zero(narrow(number(given, info, "zero"), "zero")) {
    if (zero < 0 || zero > 255) fail("attribute `zero` must be 0 to 255");
  }

  void compute(void* context) const override {
    const Tensor x = input(api, context, 0, bytes);
    const std::vector<int64_t>& shape = four(x);
    belong(shape[1], window.conv.in, "channels");
    const lilliput_conv conv = window.sized(shape[2], shape[3]);
    const auto& layer = packed.at(shape[2], shape[3], [&] { return make(conv); });
    void* to = output(api, context, {shape[0], conv.out, lilliput_conv_output(&conv, 0), lilliput_conv_output(&conv, 1)});
    check(lilliput_int4_run(&layer, shape[0], static_cast<const uint8_t*>(x.data), static_cast<float*>(to), threads));
  }

  std::shared_ptr<lilliput_int4> make(const lilliput_conv& conv) const {
    const lilliput_int4_layer layer{conv, zero, weight.data(), line.scale.data(), or_null(line.bias)};
    lilliput_int4* made = nullptr;
    check(lilliput_int4_new(&layer, nullptr, &made));
    return {made, lilliput_int4_free};
  }

  Api api;
  int threads = threads_told();
  Window window;
  std::vector<uint8_t> weight;
  Line line;
  int32_t zero;
  Packed<lilliput_int4> packed;
};

// The non-zeros of a weight, from four inputs.
struct NonZeros {
  NonZeros(const Api& api, const void* info)
      : rows(values<int32_t>(constant(api, info, 1, "rows", ints))),
        columns(values<int32_t>(constant(api, info, 2, "columns", ints))),
        numbers(values<float>(constant(api, info, 3, "values", floats))),
        bias(values<float>(constant(api, info, 4, "bias", floats, true))) {
    if (rows.size() < 2) fail("input `rows` must have one element more than outputs");
    sized(columns.size(), rows.back(), "columns");
    sized(numbers.size(), rows.back(), "values");
    if (!bias.empty()) sized(bias.size(), outputs(), "bias");
  }

  int64_t outputs() const { return static_cast<int64_t>(rows.size()) - 1; }

  std::shared_ptr<lilliput_sparse> make(const lilliput_conv& conv) const {
    const lilliput_sparse_layer layer{conv, rows.data(), columns.data(), numbers.data(), or_null(bias)};
    lilliput_sparse* made = nullptr;
    check(lilliput_sparse_new(&layer, nullptr, &made));
    return {made, lilliput_sparse_free};
  }

  std::vector<int32_t> rows, columns;
  std::vector<float> numbers, bias;
};

struct SparseConv : Node {
  SparseConv(const Api& given, const void* info) : api(given), window(given, info), weight(given, info) {
    pair(api, info, "kernel_shape", window.conv.kernel);
    window.conv.in = narrow(number(api, info, "channels"), "channels");
    window.conv.out = narrow(weight.outputs(), "rows");
  }

  void compute(void* context) const override {
    const Tensor x = input(api, context, 0, floats);
    const std::vector<int64_t>& shape = four(x);
    belong(shape[1], window.conv.in, "channels");
    const lilliput_conv conv = window.sized(shape[2], shape[3]);
    const auto& layer = packed.at(shape[2], shape[3], [&] { return weight.make(conv); });
    float* to = static_cast<float*>(
        output(api, context, {shape[0], conv.out, lilliput_conv_output(&conv, 0), lilliput_conv_output(&conv, 1)}));
    check(lilliput_sparse_run(&layer, shape[0], static_cast<const float*>(x.data), to, threads));
  }

  Api api;
  int threads = threads_told();
  Window window;
  NonZeros weight;
  Packed<lilliput_sparse> packed;
};

// A 1x1 convolution over rows, which lie side by side when transposed.
struct SparseLinear : Node {
  SparseLinear(const Api& given, const void* info) : api(given), weight(given, info) {
    inputs = narrow(number(api, info, "channels"), "channels");
  }

  void compute(void* context) const override {
    const Tensor x = input(api, context, 0, floats);
    std::vector<int64_t> shape = x.shape;
    if (shape.empty()) fail("the first input must have channels");
    belong(shape.back(), inputs, "channels");
    shape.back() = weight.outputs();
    float* to = static_cast<float*>(output(api, context, shape));
    const int64_t rows = inputs > 0 ? x.size() / inputs : 0;
    for (int64_t at = 0; at < rows; at += kRows) {
      compute_rows(static_cast<const float*>(x.data) + at * inputs, std::min(kRows, rows - at), to + at * weight.outputs());
    }
  }

  void compute_rows(const float* x, int64_t rows, float* to) const {
    const auto& layer = packed.at(1, rows, [&] {
      const int32_t outputs = narrow(weight.outputs(), "rows"), width = static_cast<int32_t>(rows);
      return weight.make({inputs, outputs, 1, 1, width, {1, 1}, {1, 1}, {0, 0}, {1, 1}});
    });
    if (rows == 1) return check(lilliput_sparse_run(&layer, 1, x, to, threads));
    const int64_t outputs = weight.outputs();
    std::vector<float> across(static_cast<size_t>(inputs * rows)), made(static_cast<size_t>(outputs * rows));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < inputs; ++c) across[static_cast<size_t>(c * rows + r)] = x[r * inputs + c];
    }
    check(lilliput_sparse_run(&layer, 1, across.data(), made.data(), threads));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < outputs; ++o) to[r * outputs + o] = made[static_cast<size_t>(o * rows + r)];
    }
  }

  static constexpr int64_t kRows = 1024;
  Api api;
  int threads = threads_told();
  NonZeros weight;
  int32_t inputs = 0;
  Packed<lilliput_sparse> packed;
};

template <bool bits, bool ternary>
std::unique_ptr<Node> make_binary(const Api& api, const void* info) { return std::make_unique<Binary>(api, info, bits, ternary); }

template <class T>
std::unique_ptr<Node> make(const Api& api, const void* info) { return std::make_unique<T>(api, info); }

}  // namespace

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"Binarize", {floats, -floats}, bytes, make<Binarize>},
      {"BinaryConv", {bytes, bytes, floats, -floats}, floats, make_binary<false, false>},
      {"BinaryConvBits", {bytes, bytes, ints, bytes}, bytes, make_binary<true, false>},
      {"TernaryConv", {bytes, bytes, bytes, floats, -floats}, floats, make_binary<false, true>},
      {"TernaryConvBits", {bytes, bytes, bytes, ints, bytes}, bytes, make_binary<true, true>},
      {"Int4Conv", {bytes, bytes, floats, -floats}, floats, make<Int4>},
      {"SparseConv", {floats, ints, ints, floats, -floats}, floats, make<SparseConv>},
      {"SparseLinear", {floats, ints, ints, floats, -floats}, floats, make<SparseLinear>},
  };
  return all;
}

}  // namespace ort
