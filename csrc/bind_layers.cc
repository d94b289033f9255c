#include "bind_layers.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "binary.h"
#include "int4.h"
#include "pace.h"
#include "sparse.h"

namespace nb = nanobind;

namespace {

template <class T>
using Input = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Output = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<Input<T>>;

// The thirteen numbers of `lilliput_conv`, in its order.
using Numbers = std::array<int32_t, 13>;

lilliput_conv conv_of(const Numbers& n) {
  return {n[0], n[1], n[2], n[3], n[4], {n[5], n[6]}, {n[7], n[8]}, {n[9], n[10]}, {n[11], n[12]}};
}

void check(int status) {
  switch (status) {
    case lilliput_layer_ok: return;
    case lilliput_layer_no_memory: throw std::bad_alloc();
    case lilliput_layer_bad_weights: throw nb::value_error("weights that do not fit the shape");
    case lilliput_layer_no_such_kernel: throw nb::key_error("no kernel of this name");
    case lilliput_layer_not_here: throw nb::key_error("this processor cannot run the kernel of this name");
    default: throw nb::value_error("a shape that no convolution has");
  }
}

// Work that needs nothing of Python's.
template <class Work>
void unlocked(Work work) {
  int status;
  {
    nb::gil_scoped_release free;
    status = work();
  }
  check(status);
}

template <class T>
const T* sized(const Input<T>& array, int64_t size) {
  if (static_cast<int64_t>(array.size()) != size) throw nb::value_error("an array of another size");
  return array.data();
}

template <class T>
const T* sized(const Maybe<T>& array, int64_t size) { return array ? sized(*array, size) : nullptr; }

template <class T>
T* sized_out(const Output<T>& array, int64_t size) {
  if (static_cast<int64_t>(array.size()) != size) throw nb::value_error("an array of another size");
  return array.data();
}

const char* chars(const std::optional<std::string>& name) { return name ? name->c_str() : nullptr; }

int64_t bytes_for(int64_t signs) { return (signs + 7) / 8; }

class Binary {
 public:
  Binary(const Numbers& numbers, int32_t pad, const Input<uint8_t>& weight, const Maybe<float>& scale, const Maybe<float>& bias,
         const Maybe<int32_t>& least, const Maybe<uint8_t>& flip, const std::optional<std::string>& kernel,
         const Maybe<uint8_t>& mask)
      : conv_(conv_of(numbers)), bits_(least.has_value()) {
    check(lilliput_conv_check(&conv_));
    const int64_t taps = static_cast<int64_t>(conv_.kernel[0]) * conv_.kernel[1];
    const int64_t packed = conv_.out * bytes_for(conv_.in / conv_.groups) * taps;
    const lilliput_binary_layer layer{conv_,
                                      pad,
                                      sized(weight, packed),
                                      sized(scale, conv_.out),
                                      sized(bias, conv_.out),
                                      sized(least, conv_.out),
                                      sized(flip, conv_.out),
                                      sized(mask, packed)};
    lilliput_binary* made = nullptr;
    check(lilliput_binary_new(&layer, chars(kernel), &made));
    layer_.reset(made);
  }

  std::string kernel() const { return lilliput_binary_kernel(layer_.get()); }

  void floats(int64_t batch, const Input<uint8_t>& x, const Output<float>& out, int threads) const {
    if (bits_) throw nb::value_error("this layer writes bits");
    run(batch, x, sized_out(out, batch * conv_.out * image()), threads);
  }

  void bits(int64_t batch, const Input<uint8_t>& x, const Output<uint8_t>& out, int threads) const {
    if (!bits_) throw nb::value_error("this layer writes floats");
    run(batch, x, sized_out(out, batch * bytes_for(conv_.out) * image()), threads);
  }

 private:
  struct Free {
    void operator()(lilliput_binary* layer) const { lilliput_binary_free(layer); }
  };

  int64_t image() const { return lilliput_conv_output(&conv_, 0) * lilliput_conv_output(&conv_, 1); }

  void run(int64_t batch, const Input<uint8_t>& x, void* out, int threads) const {
    const uint8_t* from = sized(x, batch * bytes_for(conv_.in) * conv_.height * conv_.width);
    unlocked([&] { return lilliput_binary_run(layer_.get(), batch, from, out, threads); });
  }

  lilliput_conv conv_;
  bool bits_;
  std::unique_ptr<lilliput_binary, Free> layer_;
};

class Int4 {
 public:
  Int4(const Numbers& numbers, int32_t zero, const Input<uint8_t>& weight, const Input<float>& scale, const Maybe<float>& bias,
       const std::optional<std::string>& kernel)
      : conv_(conv_of(numbers)) {
    check(lilliput_conv_check(&conv_));
    const int64_t taps = static_cast<int64_t>(conv_.kernel[0]) * conv_.kernel[1];
    const int64_t packed = conv_.out * ((conv_.in / conv_.groups + 1) / 2) * taps;
    const lilliput_int4_layer layer{conv_, zero, sized(weight, packed), sized(scale, conv_.out), sized(bias, conv_.out)};
    lilliput_int4* made = nullptr;
    check(lilliput_int4_new(&layer, chars(kernel), &made));
    layer_.reset(made);
  }

  std::string kernel() const { return lilliput_int4_kernel(layer_.get()); }

  void floats(int64_t batch, const Input<uint8_t>& x, const Output<float>& out, int threads) const {
    const uint8_t* from = sized(x, batch * conv_.in * conv_.height * conv_.width);
    float* to = sized_out(out, batch * conv_.out * lilliput_conv_output(&conv_, 0) * lilliput_conv_output(&conv_, 1));
    unlocked([&] { return lilliput_int4_run(layer_.get(), batch, from, to, threads); });
  }

 private:
  struct Free {
    void operator()(lilliput_int4* layer) const { lilliput_int4_free(layer); }
  };

  lilliput_conv conv_;
  std::unique_ptr<lilliput_int4, Free> layer_;
};

class Sparse {
 public:
  Sparse(const Numbers& numbers, const Input<int32_t>& rows, const Input<int32_t>& columns, const Input<float>& values,
         const Maybe<float>& bias, const std::optional<std::string>& kernel)
      : conv_(conv_of(numbers)) {
    check(lilliput_conv_check(&conv_));
    const int32_t* starts = sized(rows, conv_.out + 1);
    if (columns.size() != values.size() || starts[conv_.out] != static_cast<int64_t>(values.size())) {
      throw nb::value_error("as many columns as values");
    }
    const lilliput_sparse_layer layer{conv_, starts, columns.data(), values.data(), sized(bias, conv_.out)};
    lilliput_sparse* made = nullptr;
    check(lilliput_sparse_new(&layer, chars(kernel), &made));
    layer_.reset(made);
  }

  std::string kernel() const { return lilliput_sparse_kernel(layer_.get()); }

  void floats(int64_t batch, const Input<float>& x, const Output<float>& out, int threads) const {
    const float* from = sized(x, batch * conv_.in * conv_.height * conv_.width);
    float* to = sized_out(out, batch * conv_.out * lilliput_conv_output(&conv_, 0) * lilliput_conv_output(&conv_, 1));
    unlocked([&] { return lilliput_sparse_run(layer_.get(), batch, from, to, threads); });
  }

 private:
  struct Free {
    void operator()(lilliput_sparse* layer) const { lilliput_sparse_free(layer); }
  };

  lilliput_conv conv_;
  std::unique_ptr<lilliput_sparse, Free> layer_;
};

void binarize(int64_t batch, int32_t channels, int64_t pixels, const Input<float>& x, const Maybe<float>& least,
              const Output<uint8_t>& out, const std::optional<std::string>& kernel) {
  const float* from = sized(x, batch * channels * pixels);
  uint8_t* to = sized_out(out, batch * bytes_for(channels) * pixels);
  const float* bounds = sized(least, channels);
  unlocked([&] { return lilliput_binarize(from, batch, channels, pixels, bounds, chars(kernel), to); });
}

std::vector<std::tuple<std::string, std::string, bool>> kernel_rows() {
  std::vector<std::tuple<std::string, std::string, bool>> rows;
  const char* family = nullptr;
  int usable = 0;
  while (const char* name = lilliput_kernel_row(static_cast<int>(rows.size()), &family, &usable)) {
    rows.emplace_back(family, name, usable != 0);
  }
  return rows;
}

}  // namespace

void bind_layers(nb::module_& m) {
  m.def("kernel_rows", &kernel_rows, "(family, name, whether this processor runs it) of every kernel, best first.");
  m.def("cycles_per_second", &lilliput_cycles_per_second, nb::arg("tries"), "How fast this core runs right now; 0 if unknown.");
  m.def("binarize", &binarize, nb::arg("batch"), nb::arg("channels"), nb::arg("pixels"), nb::arg("x"), nb::arg("least").none(),
        nb::arg("out"), nb::arg("kernel").none(), "Fill `out` with the signs of floats.");
  nb::class_<Binary>(m, "Binary", "A binary convolution, packed for this processor.")
      .def(nb::init<const Numbers&, int32_t, const Input<uint8_t>&, const Maybe<float>&, const Maybe<float>&, const Maybe<int32_t>&,
                    const Maybe<uint8_t>&, const std::optional<std::string>&, const Maybe<uint8_t>&>(),
           nb::arg("conv"), nb::arg("pad"), nb::arg("weight"), nb::arg("scale").none(), nb::arg("bias").none(),
           nb::arg("least").none(), nb::arg("flip").none(), nb::arg("kernel").none(),
           nb::arg("mask").none() = nb::none())
      .def_prop_ro("kernel", &Binary::kernel)
      .def("floats", &Binary::floats, nb::arg("batch"), nb::arg("x"), nb::arg("out"), nb::arg("threads") = 1)
      .def("bits", &Binary::bits, nb::arg("batch"), nb::arg("x"), nb::arg("out"), nb::arg("threads") = 1);
  nb::class_<Int4>(m, "Int4", "A convolution of bytes by weights of four bits, packed for this processor.")
      .def(nb::init<const Numbers&, int32_t, const Input<uint8_t>&, const Input<float>&, const Maybe<float>&,
                    const std::optional<std::string>&>(),
           nb::arg("conv"), nb::arg("zero"), nb::arg("weight"), nb::arg("scale"), nb::arg("bias").none(), nb::arg("kernel").none())
      .def_prop_ro("kernel", &Int4::kernel)
      .def("floats", &Int4::floats, nb::arg("batch"), nb::arg("x"), nb::arg("out"), nb::arg("threads") = 1);
  nb::class_<Sparse>(m, "Sparse", "A sparse convolution, packed for this processor.")
      .def(nb::init<const Numbers&, const Input<int32_t>&, const Input<int32_t>&, const Input<float>&, const Maybe<float>&,
                    const std::optional<std::string>&>(),
           nb::arg("conv"), nb::arg("rows"), nb::arg("columns"), nb::arg("values"), nb::arg("bias").none(), nb::arg("kernel").none())
      .def_prop_ro("kernel", &Sparse::kernel)
      .def("floats", &Sparse::floats, nb::arg("batch"), nb::arg("x"), nb::arg("out"), nb::arg("threads") = 1);
}
