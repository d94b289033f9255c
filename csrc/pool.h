// Work shared among threads of the library's own.
//
// Who computes a part never changes what is computed, so results are the same for any number of threads. Threads are made when
// first asked for and sleep soon after their work is done. A job that meets another at work is done by its caller alone, as is
// everything in a process that was forked while threads were at work, until it has threads of its own.
#pragma once

#include <stdint.h>

namespace lilliput {

constexpr int kMostThreads = 64;

// part(context, thread, index) for every index below `count`, by `threads` threads at most, the caller (number 0) among them.
// Parts neither throw nor share work themselves.
void share(int threads, int64_t count, void (*part)(const void* context, int thread, int64_t index), const void* context);

template <class Part>
void share(int threads, int64_t count, const Part& part) {
  const auto call = [](const void* context, int thread, int64_t index) { (*static_cast<const Part*>(context))(thread, index); };
  share(threads, count, call, &part);
}

// As many of `threads` as have something to do that is worth waking them: `work` is in units of about a cycle.
int worth(int threads, double work);

}  // namespace lilliput
