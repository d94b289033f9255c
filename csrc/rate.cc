#include "rate.h"

#include <math.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "codec.h"
#include "numbers.h"

namespace lilliput {
namespace {

// Optimal brain surgery, number after number in the order of a scan: each takes the code that is best by itself, and what is
// not decided yet moves to make up for its error, first in the row and, when the row is done, in the rows below.
class Rounding {
 public:
  Rounding(const lilliput_rounding& job, Numbers& m, const double* before)
      : job_(job), m_(m), before_(before), shape_{job.rows, job.kernels, job.taps}, row_(static_cast<size_t>(shape_.row())),
        width_(row_ + static_cast<size_t>(job.extra)), past_(shape_), start_(width_) {}

  double run() {
    for (int64_t r = 0; r < job_.rows; ++r, past_.next_row()) {
      double* w = job_.weights + static_cast<size_t>(r) * width_;
      std::copy(w, w + width_, start_.begin());
      one_row(static_cast<size_t>(r), w);
      pass_down(static_cast<size_t>(r), w);
    }
    return bits_;
  }

 private:
  void one_row(size_t r, double* w) {
    const double down = job_.down[r * static_cast<size_t>(job_.rows) + r];
    for (size_t j = 0; j < width_; ++j) {
      const double* across = job_.across + j * width_;
      double step = job_.extra_step, code = 0;
      if (j < row_) {
        step = job_.steps[r * row_ + j];
        const double unit = step / (down * across[j]), x = before_[r * width_ + j] == 0 ? 0 : w[j] / step;
        code = choose(x, unit * unit / 2, j / static_cast<size_t>(job_.taps));
      } else {
        code = step > 0 ? nearbyint(w[j] / step) : 0;
      }
      const double is = step > 0 ? code * step : w[j], error = (w[j] - is) / across[j];
      w[j] = is;
      if (error != 0) {
        for (size_t k = j + 1; k < width_; ++k) w[k] -= error * across[k];
      }
    }
  }

  void pass_down(size_t r, const double* w) {
    const size_t rows = static_cast<size_t>(job_.rows);
    const double* down = job_.down + r * rows;
    for (size_t other = r + 1; other < rows; ++other) {
      const double share = down[other] / down[r];
      double* below = job_.weights + other * width_;
      if (share == 0) continue;
      for (size_t j = 0; j < width_; ++j) below[j] -= share * (start_[j] - w[j]);
    }
  }

  // The nearest code, or one of the two before it, or zero: whichever costs least in loss and bits.
  double choose(double x, double weight, size_t kernel) {
    const Past::View view = past_.view(kernel);
    const double most = job_.most, sign = x < 0 ? -1 : 1, size = fabs(x);
    const double nearest = std::min(nearbyint(size), most);
    double best = 0, least = INFINITY, cost = 0;
    for (const double q : {nearest, nearest - 1, nearest - 2, 0.0}) {
      if (q < 0) continue;
      const double bits = priced(view, sign * q), total = weight * (size - q) * (size - q) + job_.price * bits;
      if (total < least) best = q, least = total, cost = bits;
    }
    bits_ += cost;
    Counter learning;
    say(learning, view, sign * best);
    past_.add(kernel, static_cast<uint64_t>(best));
    return sign * best;
  }

  double priced(const Past::View& view, double code) {
    Quote quote;
    say(quote, view, code);
    return static_cast<double>(quote.total()) / 4096;
  }

  template <class IO>
  void say(IO& io, const Past::View& view, double code) {
    const auto x = static_cast<int64_t>(code);
    const Range range{-job_.most, job_.most, 0};
    mixed_number(io, m_, view, Offset{x < 0, static_cast<uint64_t>(x < 0 ? -x : x)}, range);
  }

  const lilliput_rounding& job_;
  Numbers& m_;
  const double* before_;  // the weights as they came; zeros stay
  Shape shape_;
  size_t row_, width_;
  Past past_;
  std::vector<double> start_;
  double bits_ = 0;
};

// Twice: prices are known from the start when the numbers have been seen once.
int round_twice(const lilliput_rounding& job, double* bits) {
  auto numbers = std::make_unique<Numbers>();
  const size_t width = static_cast<size_t>(job.kernels * job.taps + job.extra);
  std::vector<double> before(job.weights, job.weights + static_cast<size_t>(job.rows) * width);
  Rounding(job, *numbers, before.data()).run();
  std::copy(before.begin(), before.end(), job.weights);
  const double found = Rounding(job, *numbers, before.data()).run();
  if (bits) *bits = found;
  return lilliput_ok;
}

}  // namespace
}  // namespace lilliput

extern "C" int lilliput_round(const lilliput_rounding* job, double* bits) {
  if (job->rows < 0 || job->kernels < 0 || job->taps < 0 || job->extra < 0 || job->extra > 1 || job->most < 1) return lilliput_bad_piece;
  try {
    return lilliput::round_twice(*job, bits);
  } catch (const std::bad_alloc&) {
    return lilliput_out_of_memory;
  }
}
