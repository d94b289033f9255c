// Every kernel of this machine against the portable ones, over awkward shapes drawn from a seed, without Python: for sanitizers and
// for processors that an emulator stands in for (make test-sanitized, make test-arm).
//
//     kernels [CASES] [SEED]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "binary.h"
#include "int4.h"
#include "sparse.h"

namespace {

struct Draw {
  explicit Draw(uint64_t seed) : engine(seed) {}
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  int64_t one_of(std::vector<int64_t> all) { return all[static_cast<size_t>(between(0, static_cast<int64_t>(all.size()) - 1))]; }
  bool chance(double p) { return std::uniform_real_distribution<double>(0, 1)(engine) < p; }
  float number() { return std::normal_distribution<float>(0, 1)(engine); }
  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> made(static_cast<size_t>(count));
    for (uint8_t& each : made) each = static_cast<uint8_t>(engine());
    return made;
  }
  std::vector<float> numbers(int64_t count) {
    std::vector<float> made(static_cast<size_t>(count));
    for (float& each : made) each = number();
    return made;
  }
  std::mt19937_64 engine;
};

int failures = 0, compared = 0;

void expect(bool good, const std::string& what) {
  ++compared;
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

std::string text(const lilliput_conv& c) {
  char line[200];
  std::snprintf(line, sizeof line, "%dx%dx%d -> %d, kernel %dx%d, stride %dx%d, padding %dx%d, dilation %dx%d, groups %d", c.in, c.height,
                c.width, c.out, c.kernel[0], c.kernel[1], c.stride[0], c.stride[1], c.padding[0], c.padding[1], c.dilation[0],
                c.dilation[1], c.groups);
  return line;
}

lilliput_conv shape(Draw& draw) {
  lilliput_conv c{};
  do {
    c.groups = static_cast<int32_t>(draw.one_of({1, 1, 1, 2, 3, 5}));
    c.in = c.groups * static_cast<int32_t>(draw.one_of({1, 2, 3, 5, 8, 12, 16, 17, 33, 63, 64}));
    c.out = c.groups * static_cast<int32_t>(draw.one_of({1, 3, 8, 9, 17}));
    c.height = static_cast<int32_t>(draw.between(1, 13));
    c.width = static_cast<int32_t>(draw.one_of({1, 2, 3, 5, 7, 8, 13, 16, 33}));
    for (int axis = 0; axis < 2; ++axis) {
      c.kernel[axis] = static_cast<int32_t>(draw.between(1, 5));
      c.stride[axis] = static_cast<int32_t>(draw.one_of({1, 1, 2, 3}));
      c.padding[axis] = static_cast<int32_t>(draw.between(0, 3));
      c.dilation[axis] = static_cast<int32_t>(draw.between(1, 2));
    }
    if (draw.chance(0.2)) {  // pixel by pixel, where kernels may read the image as it is
      c.kernel[0] = c.kernel[1] = c.stride[0] = c.stride[1] = c.dilation[0] = c.dilation[1] = 1;
      c.padding[0] = c.padding[1] = 0;
    }
  } while (lilliput_conv_check(&c) != lilliput_layer_ok);
  return c;
}

int64_t pixels(const lilliput_conv& c) { return lilliput_conv_output(&c, 0) * lilliput_conv_output(&c, 1); }
int64_t image(const lilliput_conv& c) { return static_cast<int64_t>(c.height) * c.width; }
int64_t taps(const lilliput_conv& c) { return static_cast<int64_t>(c.kernel[0]) * c.kernel[1]; }

// The kernels of a family that run here, without the portable one.
std::vector<std::string> others(const char* wanted) {
  std::vector<std::string> found;
  const char* family = nullptr;
  int usable = 0;
  for (int i = 0; const char* name = lilliput_kernel_row(i, &family, &usable); ++i) {
    if (usable && std::strcmp(family, wanted) == 0 && std::strcmp(name, "portable") != 0) found.push_back(name);
  }
  return found;
}

// Room for exactly so many numbers, so that a sanitizer sees what is written beyond.
template <class T>
std::vector<T> run_binary(const lilliput_binary_layer& given, const char* kernel, int64_t batch, const uint8_t* x, int64_t size, int threads) {
  lilliput_binary* layer = nullptr;
  std::vector<T> out(static_cast<size_t>(size), static_cast<T>(0xAA));
  int status = lilliput_binary_new(&given, kernel, &layer);
  if (status == lilliput_layer_ok) status = lilliput_binary_run(layer, batch, x, out.data(), threads);
  expect(status == lilliput_layer_ok, std::string(kernel) + " is refused");
  lilliput_binary_free(layer);
  return out;
}

void binary(Draw& draw) {
  const lilliput_conv c = shape(draw);
  const int64_t batch = draw.between(1, 2), weights = c.out * ((c.in / c.groups + 7) / 8) * taps(c);
  const auto x = draw.bytes(batch * ((c.in + 7) / 8) * image(c)), weight = draw.bytes(weights), mask = draw.bytes(weights);
  const auto scale = draw.numbers(c.out), bias = draw.numbers(c.out);
  const int64_t products = c.in / c.groups * taps(c);
  std::vector<int32_t> least;
  for (int32_t o = 0; o < c.out; ++o) least.push_back(static_cast<int32_t>(draw.between(-products - 2, products + 2) / draw.between(1, 6)));
  const auto flip = draw.bytes(c.out);
  const bool masked = draw.chance(0.5);
  lilliput_binary_layer given{c,       static_cast<int32_t>(draw.between(-1, 1)), weight.data(), scale.data(), draw.chance(0.5) ? bias.data() : nullptr,
                              nullptr, nullptr,                                   masked ? mask.data() : nullptr};
  lilliput_binary_layer bits = given;
  bits.scale = bits.bias = nullptr;
  bits.least = least.data();
  bits.flip = flip.data();
  const int64_t size = batch * c.out * pixels(c), packed = batch * ((c.out + 7) / 8) * pixels(c);
  const auto floats = run_binary<float>(given, "portable", batch, x.data(), size, 1);
  const auto signs = run_binary<uint8_t>(bits, "portable", batch, x.data(), packed, 1);
  const char* family = masked ? "ternary" : "binary";
  for (const std::string& name : others(family)) {
    for (int threads : {1, 3}) {
      const std::string what = std::string(family) + " " + name + ", " + std::to_string(threads) + " threads: " + text(c);
      expect(run_binary<float>(given, name.c_str(), batch, x.data(), size, threads) == floats, what + ", floats");
      expect(run_binary<uint8_t>(bits, name.c_str(), batch, x.data(), packed, threads) == signs, what + ", bits");
    }
  }
}

void binarize(Draw& draw) {
  const int64_t batch = draw.between(0, 2), channels = draw.one_of({1, 3, 8, 33, 63}), count = draw.between(1, 200);
  const float special[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY, 1e-45f, -1e-45f, 1.0f};
  std::vector<float> x(static_cast<size_t>(batch * channels * count)), least(static_cast<size_t>(channels));
  for (float& each : x) each = special[draw.between(0, 7)];
  for (float& each : least) each = special[draw.between(0, 7)];
  const float* bounds = draw.chance(0.5) ? least.data() : nullptr;
  const auto signs = [&](const char* name) {
    std::vector<uint8_t> out(static_cast<size_t>(batch * ((channels + 7) / 8) * count), 0xAA);
    lilliput_binarize(x.data(), batch, static_cast<int32_t>(channels), count, bounds, name, out.data());
    return out;
  };
  for (const std::string& name : others("binary")) expect(signs(name.c_str()) == signs("portable"), "binarize " + name);
}

std::vector<float> run_sparse(const lilliput_sparse_layer& given, const char* kernel, int64_t batch, const float* x, int threads) {
  lilliput_sparse* layer = nullptr;
  std::vector<float> out(static_cast<size_t>(batch * given.conv.out * pixels(given.conv)), NAN);
  int status = lilliput_sparse_new(&given, kernel, &layer);
  if (status == lilliput_layer_ok) status = lilliput_sparse_run(layer, batch, x, out.data(), threads);
  expect(status == lilliput_layer_ok, std::string(kernel) + " is refused");
  lilliput_sparse_free(layer);
  return out;
}

// Sums in another order differ by the rounding of every term: (terms + 2) * 2^-24 of the sum of magnitudes, for either.
bool close(const std::vector<float>& found, const std::vector<float>& expected, const std::vector<float>& magnitude, int64_t terms) {
  for (size_t i = 0; i < found.size(); ++i) {
    const double bound = 2.0 * static_cast<double>(terms + 2) * std::ldexp(1.0, -24) * magnitude[i] + 1e-40;
    if (!(std::abs(static_cast<double>(found[i]) - expected[i]) <= bound)) return false;
  }
  return true;
}

std::vector<float> magnitudes(std::vector<float> of) {
  for (float& each : of) each = std::abs(each);
  return of;
}

void sparse(Draw& draw) {
  const lilliput_conv c = shape(draw);
  const int64_t batch = draw.between(1, 2), columns = c.in / c.groups * taps(c);
  const double kept = draw.chance(0.2) ? 1.0 : draw.chance(0.5) ? 0.2 : 0.02;
  std::vector<int32_t> rows{0}, column;
  for (int32_t o = 0; o < c.out; ++o) {
    for (int64_t k = 0; k < columns; ++k) {
      if (draw.chance(kept)) column.push_back(static_cast<int32_t>(k));
    }
    rows.push_back(static_cast<int32_t>(column.size()));
  }
  const auto values = draw.numbers(static_cast<int64_t>(column.size())), bias = draw.numbers(c.out), x = draw.numbers(batch * c.in * image(c));
  const bool biased = draw.chance(0.5);
  const lilliput_sparse_layer given{c, rows.data(), column.data(), values.data(), biased ? bias.data() : nullptr};
  const auto expected = run_sparse(given, "portable", batch, x.data(), 1);
  const auto abs_values = magnitudes(values), abs_bias = magnitudes(bias), abs_x = magnitudes(x);
  const lilliput_sparse_layer abs_given{c, rows.data(), column.data(), abs_values.data(), biased ? abs_bias.data() : nullptr};
  const auto magnitude = run_sparse(abs_given, "portable", batch, abs_x.data(), 1);
  for (const std::string& name : others("sparse")) {
    const auto one = run_sparse(given, name.c_str(), batch, x.data(), 1), three = run_sparse(given, name.c_str(), batch, x.data(), 3);
    expect(close(one, expected, magnitude, columns), "sparse " + name + ": " + text(c));
    expect(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)) == 0, "sparse " + name + ", three threads: " + text(c));
  }
}

std::vector<float> run_int4(const lilliput_int4_layer& given, const char* kernel, int64_t batch, const uint8_t* x, int threads) {
  lilliput_int4* layer = nullptr;
  std::vector<float> out(static_cast<size_t>(batch * given.conv.out * pixels(given.conv)), NAN);
  int status = lilliput_int4_new(&given, kernel, &layer);
  if (status == lilliput_layer_ok) status = lilliput_int4_run(layer, batch, x, out.data(), threads);
  expect(status == lilliput_layer_ok, std::string(kernel) + " is refused");
  lilliput_int4_free(layer);
  return out;
}

// With weights of all sizes, and with the largest of one sign by the largest activations, which 16 bits hold for few steps.
void int4(Draw& draw) {
  const lilliput_conv c = shape(draw);
  const int64_t batch = draw.between(1, 2);
  auto weight = draw.bytes(c.out * ((c.in / c.groups + 1) / 2) * taps(c)), x = draw.bytes(batch * c.in * image(c));
  if (draw.chance(0.3)) std::fill(weight.begin(), weight.end(), draw.chance(0.5) ? 0x88 : 0x77);
  if (draw.chance(0.3)) std::fill(x.begin(), x.end(), 255);
  const auto scale = draw.numbers(c.out), bias = draw.numbers(c.out);
  const int32_t zero = static_cast<int32_t>(draw.between(0, 255));
  const lilliput_int4_layer given{c, zero, weight.data(), scale.data(), draw.chance(0.5) ? bias.data() : nullptr};
  const auto expected = run_int4(given, "portable", batch, x.data(), 1);
  for (const std::string& name : others("int4")) {
    for (int threads : {1, 3}) {
      expect(run_int4(given, name.c_str(), batch, x.data(), threads) == expected, "int4 " + name + ": " + text(c));
    }
  }
}

// A layer with so much to do that threads are woken for it.
struct Large {
  Large() : draw(7), x(draw.bytes(16 * image(conv))), weight(draw.bytes(conv.out * 16 * 9)), scale(draw.numbers(conv.out)) {
    const lilliput_binary_layer given{conv, 0, weight.data(), scale.data(), nullptr, nullptr, nullptr, nullptr};
    lilliput_binary_new(&given, nullptr, &layer);
  }
  ~Large() { lilliput_binary_free(layer); }
  std::vector<float> run(int threads) const {
    std::vector<float> out(static_cast<size_t>(conv.out * pixels(conv)));
    lilliput_binary_run(layer, 1, x.data(), out.data(), threads);
    return out;
  }
  const lilliput_conv conv{128, 128, 1, 28, 28, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
  Draw draw;
  std::vector<uint8_t> x, weight;
  std::vector<float> scale;
  lilliput_binary* layer = nullptr;
};

void threads() {
  const Large large;
  const auto expected = large.run(1);
  for (int count : {2, 3, 8, 1000}) expect(large.run(count) == expected, std::to_string(count) + " threads");
  std::vector<std::thread> callers;
  std::vector<int> good(4);
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) good[static_cast<size_t>(i)] += large.run(3) == expected;
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (int each : good) expect(each == 20, "four callers at a time");
#if !defined(_WIN32)
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const bool good = large.run(3) == expected && large.run(2) == expected;
#if defined(__SANITIZE_ADDRESS__)
    std::_Exit(good ? 0 : 1);  // the search for leaks cannot stop the threads of a forked process
#else
    std::exit(good ? 0 : 1);
#endif
  }
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked process");
  expect(large.run(3) == expected, "the process that forked");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const char* family = nullptr;
  int usable = 0;
  for (int i = 0; const char* name = lilliput_kernel_row(i, &family, &usable); ++i) {
    std::printf("%s %s%s\n", family, name, usable ? "" : " (not here)");
  }
  for (int i = 0; i < cases; ++i) {
    Draw draw(seed + static_cast<uint64_t>(i));
    binary(draw);
    binarize(draw);
    sparse(draw);
    int4(draw);
  }
  threads();
  std::printf("%d comparisons, %d failures\n", compared, failures);
  return failures == 0 ? 0 : 1;
}
