// How fast this core runs right now, for benchmarks that count cycles.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Cycles a second, from the time that a long chain of additions takes, each of which waits for the last (best of `tries`).
// 0 where the compiler cannot write such a chain.
double lilliput_cycles_per_second(int tries);

#ifdef __cplusplus
}
#endif
