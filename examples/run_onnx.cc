// Runs an .onnx with operations of domain `lilliput` on one image, without Python and without ONNX Runtime's headers.
//
//   g++ -std=c++17 examples/run_onnx.cc -ldl -o run_onnx
//   ./run_onnx libonnxruntime.so.1 lilliput_ops.so net.onnx 1 3 32 32 < image.f32 > outputs.f32
//
// The image is floats (n, c, h, w), written one after the other, and so are the outputs. ONNX Runtime's public C interface is a
// table of functions that only ever grows at its end, so a function is called by its place in it.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

enum Place : size_t {
  error_message = 2,
  create_env = 3,
  create_session = 7,
  run = 9,
  create_options = 10,
  set_threads = 24,
  register_library = 29,
  input_name = 36,
  output_name = 37,
  tensor_with_data = 49,
  tensor_data = 51,
  element_count = 64,
  type_and_shape = 65,
  cpu_memory = 69,
  default_allocator = 78,
};
constexpr uint32_t kVersion = 16;
constexpr int kFloat = 1, kWarnings = 2, kArena = 1;

struct Base {
  void* const* (*table)(uint32_t version);
  const char* (*version)();
};

void* const* table;

template <class... A>
void call(Place place, A... arguments) {
  if (void* status = reinterpret_cast<void* (*)(A...)>(table[place])(arguments...)) {
    std::fprintf(stderr, "%s\n", reinterpret_cast<const char* (*)(void*)>(table[error_message])(status));
    std::exit(1);
  }
}

void open_runtime(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  void* base = library == nullptr ? nullptr : dlsym(library, "OrtGetApiBase");
  table = base == nullptr ? nullptr : reinterpret_cast<const Base* (*)()>(base)()->table(kVersion);
  if (table != nullptr) return;
  std::fprintf(stderr, "%s: no ONNX Runtime from 1.16 on\n", path);
  std::exit(1);
}

}  // namespace

int main(int count, char** words) {
  if (count < 5) {
    std::fprintf(stderr, "run_onnx LIBONNXRUNTIME LILLIPUT_OPS NET.onnx N C H W < IMAGE > OUTPUTS\n");
    return 2;
  }
  open_runtime(words[1]);
  void *env, *options, *handle, *session, *allocator, *memory, *input, *shape, *output = nullptr;
  call(create_env, kWarnings, "run_onnx", &env);
  call(create_options, &options);
  call(set_threads, options, 1);
  call(register_library, options, static_cast<const char*>(words[2]), &handle);
  call(create_session, env, static_cast<const char*>(words[3]), options, &session);

  std::vector<int64_t> dims;
  size_t size = 1;
  for (int i = 4; i < count; ++i) dims.push_back(std::atoll(words[i])), size *= static_cast<size_t>(dims.back());
  std::vector<float> image(size);
  if (std::fread(image.data(), sizeof(float), size, stdin) != size) return std::fputs("too few numbers\n", stderr), 1;

  char *in, *out;
  call(default_allocator, &allocator);
  call(input_name, session, static_cast<size_t>(0), allocator, &in);
  call(output_name, session, static_cast<size_t>(0), allocator, &out);
  call(cpu_memory, kArena, 0, &memory);
  call(tensor_with_data, memory, image.data(), size * sizeof(float), dims.data(), dims.size(), kFloat, &input);
  call(run, session, static_cast<void*>(nullptr), &in, &input, static_cast<size_t>(1), &out, static_cast<size_t>(1), &output);

  float* values;
  call(type_and_shape, output, &shape);
  call(element_count, shape, &size);
  call(tensor_data, output, &values);
  return std::fwrite(values, sizeof(float), size, stdout) == size ? 0 : 1;
}
