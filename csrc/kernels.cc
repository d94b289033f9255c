#include "kernels.h"

#include <cstdlib>
#include <cstring>

#include "conv.h"

namespace lilliput {
namespace {

const Row kRows[] = {
#define LILLIPUT_KERNEL(family, name, needs) {#family, #name, static_cast<uint32_t>(needs), &family##_##name},
#include "kernels.inc"
#undef LILLIPUT_KERNEL
};

bool runs(const Row& row) { return (row.needs & ~lilliput_cpu_features()) == 0; }

}  // namespace

int choose(const char* family, const char* name, const Row** row) {
  if (name == nullptr || *name == '\0') name = std::getenv("LILLIPUT_KERNEL");
  if (name != nullptr && *name == '\0') name = nullptr;
  for (const Row& each : kRows) {
    if (std::strcmp(each.family, family) != 0) continue;
    if (name == nullptr ? !runs(each) : std::strcmp(each.name, name) != 0) continue;
    *row = &each;
    return runs(each) ? lilliput_layer_ok : lilliput_layer_not_here;
  }
  return lilliput_layer_no_such_kernel;
}

}  // namespace lilliput

extern "C" const char* lilliput_kernel_row(int index, const char** family, int* usable) {
  using lilliput::kRows;
  if (index < 0 || index >= static_cast<int>(sizeof kRows / sizeof *kRows)) return nullptr;
  *family = kRows[index].family;
  *usable = lilliput::runs(kRows[index]) ? 1 : 0;
  return kRows[index].name;
}
