#include "rate.h"

#include <math.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <vector>

#include "codec.h"
#include "numbers.h"
#include "trellis.h"

namespace lilliput {
namespace {

double diagonal(const double* matrix, size_t i, size_t n) { return matrix[i * n + i]; }
double diagonal(const double* matrix, size_t i, int64_t n) { return diagonal(matrix, i, static_cast<size_t>(n)); }

// What a row is off moves the rows below, which are not decided yet.
void pass_down(const lilliput_rounding& job, size_t r, const double* w, const std::vector<double>& start, size_t width) {
  const auto rows = static_cast<size_t>(job.rows);
  const double* down = job.down + r * rows;
  for (size_t other = r + 1; other < rows; ++other) {
    const double share = down[other] / down[r];
    double* below = job.weights + other * width;
    if (share == 0) continue;
    for (size_t j = 0; j < width; ++j) below[j] -= share * (start[j] - w[j]);
  }
}

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
      pass_down(job_, static_cast<size_t>(r), w, start_, width_);
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

// The same along the sixteen best paths at once, one that ends in each state of the trellis. Each path has a row of its own, moved
// by its own errors; prices are those of what the best path has coded, as if nothing were learnt within the row.
class TurnRounding {
 public:
  TurnRounding(const lilliput_rounding& job, Turns& m, const double* before)
      : job_(job), m_(m), before_(before), shape_{job.rows, job.kernels, job.taps}, row_(static_cast<size_t>(shape_.row())),
        width_(row_ + static_cast<size_t>(job.extra)), trail_(shape_), start_(width_), links_(row_ * Trellis::kStates) {
    for (auto& each : paths_) each.weights.resize(width_);
    for (auto& each : next_) each.weights.resize(width_);
  }

  double run() {
    for (int64_t r = 0; r < job_.rows; ++r) {
      double* w = job_.weights + static_cast<size_t>(r) * width_;
      std::copy(w, w + width_, start_.begin());
      search(static_cast<size_t>(r));
      take(static_cast<size_t>(r), w);
      pass_down(job_, static_cast<size_t>(r), w, start_, width_);
    }
    return static_cast<double>(spent_.total()) / 4096;
  }

 private:
  struct Path {
    double cost;
    std::vector<double> weights;
  };
  struct Link {  // how the best path into a state came there
    double cost;
    uint32_t from;
    int64_t k;
  };

  void search(size_t r) {
    Trail trail = trail_;
    for (auto& each : paths_) each.cost = INFINITY;
    paths_[now_.state].cost = 0;
    std::copy(start_.begin(), start_.end(), paths_[now_.state].weights.begin());
    for (size_t j = 0; j < row_; ++j) {
      const size_t kernel = j / static_cast<size_t>(job_.taps);
      Link* links = &links_[j * Trellis::kStates];
      extend(r, j, trail.view(kernel), links);
      trail.add(kernel, std::min_element(links, links + Trellis::kStates, cheaper)->k);
      follow(r, j, links);
    }
    finish(r);
  }

  static bool cheaper(const Link& a, const Link& b) { return a.cost < b.cost; }

  void extend(size_t r, size_t j, const Trail::View& view, Link* links) {
    quotes_.clear();
    std::fill(links, links + Trellis::kStates, Link{INFINITY, 0, 0});
    const double step = job_.steps[r * row_ + j], unit = step / (diagonal(job_.down, r, job_.rows) * diagonal(job_.across, j, width_));
    for (uint32_t s = 0; s < Trellis::kStates; ++s) {
      if (paths_[s].cost == INFINITY) continue;
      const bool zero = before_[r * width_ + j] == 0;
      const double x = zero ? 0 : paths_[s].weights[j] / step;
      Trellis at{s};
      const auto q = static_cast<int64_t>(at.quantizer());
      const double size = fabs(x);
      const auto first = std::min<int64_t>(static_cast<int64_t>((size + static_cast<double>(q)) / 2), job_.most / 2);
      for (int64_t k = zero ? 0 : std::max<int64_t>(first - 2, 0); k <= (zero ? 0 : first + 1); ++k) {
        const int64_t code = x < 0 ? -k : k, number = at.number(code);
        const double off = x - static_cast<double>(number);
        const double cost = paths_[s].cost + unit * unit / 2 * off * off + job_.price * priced(view, at.quantizer(), code);
        Trellis then = at;
        then.step(code);
        Link& link = links[then.state];
        if (cost < link.cost) link = Link{cost, s, code};
      }
    }
  }

  // The rows of the paths, each moved by the error of its latest number.
  void follow(size_t r, size_t j, const Link* links) {
    const double* across = job_.across + j * width_;
    for (uint32_t s = 0; s < Trellis::kStates; ++s) {
      const Link& link = links[s];
      next_[s].cost = link.cost;
      if (link.cost == INFINITY) continue;
      const std::vector<double>& from = paths_[link.from].weights;
      const double is = static_cast<double>(Trellis{link.from}.number(link.k)) * job_.steps[r * row_ + j];
      const double error = (from[j] - is) / across[j];
      double* to = next_[s].weights.data();
      for (size_t k = j + 1; k < width_; ++k) to[k] = from[k] - error * across[k];
    }
    std::swap(paths_, next_);
  }

  // The bias, and the state of the path that is best with it.
  void finish(size_t r) {
    last_ = 0;
    for (uint32_t s = 0; s < Trellis::kStates; ++s) {
      Path& path = paths_[s];
      if (path.cost == INFINITY) continue;
      for (size_t j = row_; j < width_; ++j) {
        const double is = job_.extra_step > 0 ? nearbyint(path.weights[j] / job_.extra_step) * job_.extra_step : path.weights[j];
        const double off = (path.weights[j] - is) / (diagonal(job_.down, r, job_.rows) * diagonal(job_.across, j, width_));
        path.cost += off * off / 2;
        path.weights[j] = is;
      }
      if (path.cost < paths_[last_].cost) last_ = s;
    }
  }

  // The numbers of the best path, coded for good.
  void take(size_t r, double* w) {
    std::copy(paths_[last_].weights.begin() + static_cast<std::ptrdiff_t>(row_), paths_[last_].weights.end(), w + row_);
    codes_.resize(row_);
    uint32_t s = last_;
    for (size_t j = row_; j-- > 0; s = links_[j * Trellis::kStates + s].from) codes_[j] = links_[j * Trellis::kStates + s].k;
    for (size_t j = 0; j < row_; ++j) {
      const size_t kernel = j / static_cast<size_t>(job_.taps);
      turn_code(spent_, m_, trail_.view(kernel), now_.quantizer(), codes_[j]);
      w[j] = static_cast<double>(now_.number(codes_[j])) * job_.steps[r * row_ + j];
      trail_.add(kernel, codes_[j]);
      now_.step(codes_[j]);
    }
    trail_.next_row();
  }

  double priced(const Trail::View& view, uint32_t q, int64_t k) {
    for (const Priced& each : quotes_) {
      if (each.q == q && each.k == k) return each.bits;
    }
    Quote quote;
    turn_code(quote, m_, view, q, k);
    quotes_.push_back({q, k, static_cast<double>(quote.total()) / 4096});
    return quotes_.back().bits;
  }

  struct Priced {
    uint32_t q;
    int64_t k;
    double bits;
  };

  const lilliput_rounding& job_;
  Turns& m_;
  const double* before_;
  Shape shape_;
  size_t row_, width_;
  Trail trail_;
  Trellis now_;
  std::vector<double> start_;
  std::array<Path, Trellis::kStates> paths_, next_;
  std::vector<Link> links_;
  std::vector<int64_t> codes_;
  std::vector<Priced> quotes_;
  Counter spent_;
  uint32_t last_ = 0;
};

// Twice: prices are known from the start when the numbers have been seen once.
template <class How, class Model>
int round_twice(const lilliput_rounding& job, double* bits) {
  auto numbers = std::make_unique<Model>();
  const size_t width = static_cast<size_t>(job.kernels * job.taps + job.extra);
  std::vector<double> before(job.weights, job.weights + static_cast<size_t>(job.rows) * width);
  How(job, *numbers, before.data()).run();
  std::copy(before.begin(), before.end(), job.weights);
  const double found = How(job, *numbers, before.data()).run();
  if (bits) *bits = found;
  return lilliput_ok;
}

}  // namespace
}  // namespace lilliput

extern "C" int lilliput_round(const lilliput_rounding* job, double* bits) {
  if (job->rows < 0 || job->kernels < 0 || job->taps < 0 || job->extra < 0 || job->extra > 1 || job->most < 1) return lilliput_bad_piece;
  try {
    return job->turns ? lilliput::round_twice<lilliput::TurnRounding, lilliput::Turns>(*job, bits)
                      : lilliput::round_twice<lilliput::Rounding, lilliput::Numbers>(*job, bits);
  } catch (const std::bad_alloc&) {
    return lilliput_out_of_memory;
  }
}
