// What the processor can do, asked at run time: kernels for an instruction set are called only where it is present.
#pragma once

#include <stdint.h>

// One row an instruction set: its bit, and its name here and in Python. New rows go to the end.
#define LILLIPUT_CPU_FEATURES(row) \
  row(0, avx2)                     \
  row(1, fma)                      \
  row(2, avx512f)                  \
  row(3, avx512_vnni)              \
  row(4, avx512_vpopcntdq)         \
  row(5, neon)                     \
  row(6, dotprod)                  \
  row(7, avx512bw)                 \
  row(8, avx512_bitalg)

#ifdef __cplusplus
extern "C" {
#endif

enum lilliput_cpu_feature {
#define LILLIPUT_ROW(bit, name) lilliput_cpu_##name = 1 << bit,
  LILLIPUT_CPU_FEATURES(LILLIPUT_ROW)
#undef LILLIPUT_ROW
};

// The union of `lilliput_cpu_feature` bits that the processor has and the operating system saves.
// A compiler that cannot ask claims nothing, so that the portable kernels run.
uint32_t lilliput_cpu_features(void);

#ifdef __cplusplus
}
#endif
