#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace lilliput {
namespace {

constexpr int kSpins = 2000;          // some ten microseconds, then a thread sleeps
constexpr double kWorth = 100 * 1000; // cycles for which a thread is worth waking

long process() {
#if defined(_WIN32)
  return _getpid();
#else
  return static_cast<long>(getpid());
#endif
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Ready>
bool spun(Ready ready) {
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return true;
    pause();
  }
  return false;
}

struct Job {
  void (*part)(const void*, int, int64_t);
  const void* context;
  int64_t count;
  int workers;
};

class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard<std::mutex> hold(lock_);
      ended_ = true;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // False where another job is at work.
  bool run(Job job) {
    const std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
    if (!alone.owns_lock()) return false;
    job.workers = grown(job.workers);
    {
      const std::lock_guard<std::mutex> hold(lock_);
      job_ = job;
      next_.store(0);
      left_.store(job.workers);
      round_.fetch_add(1);
    }
    wake_.notify_all();
    work(job, 0);
    if (!spun([&] { return left_.load(std::memory_order_acquire) == 0; })) {
      std::unique_lock<std::mutex> hold(lock_);
      done_.wait(hold, [&] { return left_.load() == 0; });
    }
    return true;
  }

  const long made_by = process();

 private:
  // As many workers as wanted, or as the system gives.
  int grown(int wanted) {
    try {
      while (static_cast<int>(workers_.size()) < wanted) {
        const int number = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, number, seen = round_.load()] { live(number, seen); });
      }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
    return std::min(wanted, static_cast<int>(workers_.size()));
  }

  void work(const Job& job, int thread) {
    for (int64_t i = next_.fetch_add(1); i < job.count; i = next_.fetch_add(1)) job.part(job.context, thread, i);
  }

  void live(int number, uint64_t seen) {
    for (;;) {
      spun([&] { return round_.load(std::memory_order_acquire) != seen; });
      Job job;
      {
        std::unique_lock<std::mutex> hold(lock_);
        wake_.wait(hold, [&] { return round_.load() != seen; });
        if (ended_) return;
        seen = round_.load();
        job = job_;
      }
      if (number > job.workers) continue;
      work(job, number);
      if (left_.fetch_sub(1) == 1) {
        const std::lock_guard<std::mutex> hold(lock_);
        done_.notify_one();
      }
    }
  }

  std::mutex busy_, lock_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> left_{0};
  bool ended_ = false;
  Job job_{};
  std::vector<std::thread> workers_;
};

std::atomic<Pool*> current{nullptr};
std::atomic<bool> over{false};

// This process's pool. A forked one has none of its parent's threads, and leaves the parent's pool where it is.
Pool* pool() {
  Pool* found = current.load();
  if (over.load() || (found != nullptr && found->made_by == process())) return over.load() ? nullptr : found;
  Pool* made = new (std::nothrow) Pool;
  if (made == nullptr || current.compare_exchange_strong(found, made)) return made;
  delete made;
  return found;
}

// When the program ends or the library is unloaded, no thread may stay behind in its code.
struct End {
  ~End() {
    over.store(true);
    Pool* last = current.exchange(nullptr);
    if (last != nullptr && last->made_by == process()) delete last;
  }
} end;

}  // namespace

void share(int threads, int64_t count, void (*part)(const void*, int, int64_t), const void* context) {
  const int64_t workers = std::min<int64_t>(std::min(threads, kMostThreads), count) - 1;
  if (workers > 0) {
    Pool* const shared = pool();
    if (shared != nullptr && shared->run({part, context, count, static_cast<int>(workers)})) return;
  }
  for (int64_t i = 0; i < count; ++i) part(context, 0, i);
}

int worth(int threads, double work) {
  const double most = std::min<double>(std::min(threads, kMostThreads), 1 + work / kWorth);
  return std::max(1, static_cast<int>(most));
}

}  // namespace lilliput
