// A tensor's numbers, read from where they lie or written there, as the bits that a model makes of them.
#pragma once

#include <algorithm>
#include <memory>

#include "codec.h"
#include "lines.h"
#include "numbers.h"
#include "ordered.h"
#include "patterns.h"
#include "trellis.h"

namespace lilliput {

struct State {
  Numbers numbers;
  std::unique_ptr<Patterns> patterns;  // half a megabyte, so only where there are patterns
  Patterns& some_patterns() {
    if (!patterns) patterns = std::make_unique<Patterns>();
    return *patterns;
  }
  std::unique_ptr<Turns> turns;  // the same holds for these
  Turns& some_turns() {
    if (!turns) turns = std::make_unique<Turns>();
    return *turns;
  }
  std::unique_ptr<Ordered> ordered;
  Ordered& some_ordered() {
    if (!ordered) ordered = std::make_unique<Ordered>();
    return *ordered;
  }
  std::unique_ptr<Lines> lines;
  Lines& some_lines() {
    if (!lines) lines = std::make_unique<Lines>();
    return *lines;
  }
};

struct Spec {
  Kind kind;
  Range range;
  Shape shape;
  int width;           // bits that an index takes
  bool apart = false;  // whether the lowest number is none of those in order
};

inline Spec spec_of(const lilliput_piece& p) {
  const Range range{p.low, p.high, p.low <= 0 && 0 <= p.high ? 0 : p.low};
  const int width = bit_length(static_cast<uint64_t>(p.high) - static_cast<uint64_t>(p.low));
  return {p.patterns ? Kind::patterns : Kind::mixed, range, {p.rows, p.kernels, p.taps}, width, false};
}

template <class T>
Offset offset_of(T value, const Range& range) {
  const auto x = static_cast<uint64_t>(static_cast<int64_t>(value)), centre = static_cast<uint64_t>(range.centre);
  const bool negative = static_cast<int64_t>(value) < range.centre;
  return {negative, negative ? centre - x : x - centre};
}

// The next number, remembered. What dense tensors do not look at is not kept up.
template <bool dense, class IO>
Offset one_number(IO& io, Numbers& m, Past& past, size_t kernel, Offset x, const Range& range, int depth) {
  if constexpr (dense) {
    x = dense_number(io, m, past.near(), x, range, depth);
    past.add_near(x.magnitude);
  } else {
    x = mixed_number(io, m, past.view(kernel), x, range);
    past.add(kernel, x.magnitude);
  }
  return x;
}

// Numbers by their magnitudes. False where a number is out of bounds or bytes are missing.
template <bool dense, class IO, class T>
bool by_magnitude(IO& io, Numbers& m, T* data, const Spec& spec) {
  const int depth = bit_length(static_cast<uint64_t>(bit_length(std::max(spec.range.above(), spec.range.below()))));
  Past past(spec.shape);
  for (int64_t row = 0; row < spec.shape.rows; ++row, past.next_row()) {
    for (size_t kernel = 0; kernel < static_cast<size_t>(spec.shape.kernels); ++kernel) {
      for (int64_t tap = 0; tap < spec.shape.taps; ++tap, ++data) {
        const Offset was = IO::decodes ? Offset{false, 0} : offset_of(*data, spec.range);
        const Offset is = one_number<dense>(io, m, past, kernel, was, spec.range, depth);
        if constexpr (IO::decodes) {
          if (is.magnitude > spec.range.side(is.negative)) return false;
          const auto centre = static_cast<uint64_t>(spec.range.centre);
          *data = static_cast<T>(is.negative ? centre - is.magnitude : centre + is.magnitude);
        }
      }
    }
    if constexpr (IO::decodes) {
      if (io.missing()) return false;
    }
  }
  return true;
}

// Numbers by a tree over all that are possible, in sparse tensors after whether they are the centre.
template <class IO, class T>
bool by_index(IO& io, Numbers& m, T* data, const Spec& spec) {
  const bool sparse = spec.kind == Kind::sparse_index;
  Past past(spec.shape);
  for (int64_t row = 0; row < spec.shape.rows; ++row, past.next_row()) {
    for (size_t kernel = 0; kernel < static_cast<size_t>(spec.shape.kernels); ++kernel) {
      for (int64_t tap = 0; tap < spec.shape.taps; ++tap, ++data) {
        int64_t value = IO::decodes ? 0 : static_cast<int64_t>(*data);
        const bool other = !sparse || stepped(io, m, 0, past.view(kernel), value != spec.range.centre);
        if (sparse) past.add(kernel, other);
        if (other) {
          const auto low = static_cast<uint64_t>(spec.range.low);
          value = static_cast<int64_t>(low + index_number(io, m, static_cast<uint64_t>(value) - low, spec.width));
        } else {
          value = spec.range.centre;
        }
        if constexpr (IO::decodes) {
          if (value > spec.range.high) return false;
          *data = static_cast<T>(value);
        }
      }
    }
    if constexpr (IO::decodes) {
      if (io.missing()) return false;
    }
  }
  return true;
}

// Numbers of two quantizers that take turns.
template <class IO, class T>
bool by_turns(IO& io, Turns& m, T* data, const Spec& spec) {
  Trail trail(spec.shape);
  Trellis trellis;
  for (int64_t row = 0; row < spec.shape.rows; ++row, trail.next_row()) {
    for (size_t kernel = 0; kernel < static_cast<size_t>(spec.shape.kernels); ++kernel) {
      for (int64_t tap = 0; tap < spec.shape.taps; ++tap, ++data) {
        const int64_t was = IO::decodes ? 0 : trellis.code(static_cast<int64_t>(*data));
        const int64_t is = turn_code(io, m, trail.view(kernel), trellis.quantizer(), was);
        if constexpr (IO::decodes) {
          const int64_t number = trellis.number(is);
          if (number < spec.range.low || number > spec.range.high) return false;
          *data = static_cast<T>(number);
        }
        trail.add(kernel, is);
        trellis.step(is);
      }
    }
    if constexpr (IO::decodes) {
      if (io.missing()) return false;
    }
  }
  return true;
}

// Bits that the distance from the pivot less one takes. From the pivot on it counts from one, below it from minus one.
inline int ordered_depth(const Range& range) {
  return bit_length(std::max(range.above(), range.below() - (range.below() > 0)));
}

// Numbers that stand for values in their order, by their distance from one in the middle.
template <class IO, class T>
bool by_order(IO& io, Ordered& m, T* data, const Spec& spec) {
  m.next_tensor();
  const int depth = ordered_depth(spec.range);
  const auto pivot = static_cast<uint64_t>(spec.range.centre);
  Distances past(spec.shape);
  for (int64_t row = 0; row < spec.shape.rows; ++row, past.next_row()) {
    for (size_t kernel = 0; kernel < static_cast<size_t>(spec.shape.kernels); ++kernel) {
      for (int64_t tap = 0; tap < spec.shape.taps; ++tap, ++data) {
        const Offset was = IO::decodes ? Offset{false, 0} : offset_of(*data, spec.range);
        const auto view = past.view(kernel);
        const bool lowest = !IO::decodes && static_cast<int64_t>(*data) == spec.range.low;
        int distance = 0;
        if (!spec.apart || !stands_apart(io, m, view, lowest)) {
          const int size = static_cast<int>(was.magnitude);
          distance = ordered_distance(io, m, view, was.negative ? -size : size + 1, depth);
        }
        past.add(kernel, distance);
        if constexpr (IO::decodes) {
          const uint64_t size = distance < 0 ? 0u - static_cast<uint64_t>(distance) : static_cast<uint64_t>(distance) - 1;
          if (distance != 0 && size > spec.range.side(distance < 0)) return false;
          *data = distance ? static_cast<T>(distance < 0 ? pivot - size : pivot + size) : static_cast<T>(spec.range.low);
        }
      }
    }
    if constexpr (IO::decodes) {
      if (io.missing()) return false;
    }
  }
  return true;
}

// The share k / n of a difference, rounded down.
inline int64_t part_of(int64_t difference, int64_t k, int64_t n) {
  const int64_t product = difference * k;
  return product / n - (product % n < 0);
}

// Patterns by where those before them point: first the ends of a row, then all between.
template <class IO, class T>
bool by_line(IO& io, Lines& m, T* data, const Spec& spec) {
  const int64_t length = spec.shape.row();
  const auto end = [&](T& x) { x = static_cast<T>(plain_bits(io, static_cast<uint32_t>(x), 32)); };
  for (int64_t row = 0; row < spec.shape.rows; ++row, data += length) {
    end(data[0]);
    if (length > 1) end(data[length - 1]);
    const int64_t ends[2] = {place_of(static_cast<int32_t>(data[0])), place_of(static_cast<int32_t>(data[length - 1]))};
    const Scale scale(ends[0], ends[1]);
    const int64_t first = scale.value(ends[0]), last = scale.value(ends[1]);
    Trace trace;
    trace.before = first;
    for (int64_t k = 1; k < length - 1; ++k) {
      const int64_t straight = scale.nearest(first + part_of(last - first, k, length - 1));
      const int64_t guess = k == 1 ? straight : scale.nearest(2 * trace.before - trace.second);
      int64_t place = IO::decodes ? 0 : place_of(static_cast<int32_t>(data[k]));
      if (!line_place(io, m, trace, straight, guess, place)) return false;
      if constexpr (IO::decodes) data[k] = static_cast<T>(pattern_at(place));
      trace.second = trace.before;
      trace.before = scale.value(place);
    }
    if constexpr (IO::decodes) {
      if (io.missing()) return false;
    }
  }
  return true;
}

template <class IO, class T>
bool by_pattern(IO& io, Patterns& m, T* data, const Spec& spec) {
  constexpr int kBytes = static_cast<int>(sizeof(T));
  uint32_t before = 0;
  for (int64_t left = spec.shape.count(); left > 0; --left, ++data) {
    const uint64_t x = IO::decodes ? 0 : static_cast<uint64_t>(static_cast<int64_t>(*data));
    uint64_t found = 0;
    uint32_t first = 0;
    for (int place = 0; place < kBytes; ++place) {
      const auto byte = static_cast<uint32_t>(x >> (8 * (kBytes - 1 - place)) & 255);
      const uint32_t got = pattern_byte(io, m, place, place ? first : before, byte);
      if (place == 0) first = got;
      found = found << 8 | got;
    }
    before = first;
    if constexpr (IO::decodes) {
      *data = static_cast<T>(found);
      if (io.missing()) return false;
    }
  }
  return true;
}

template <class IO, class T>
bool body(IO& io, State& state, T* data, const Spec& spec) {
  switch (spec.kind) {
    case Kind::mixed: return by_magnitude<false>(io, state.numbers, data, spec);
    case Kind::dense: return by_magnitude<true>(io, state.numbers, data, spec);
    case Kind::index:
    case Kind::sparse_index: return by_index(io, state.numbers, data, spec);
    case Kind::turns: return by_turns(io, state.some_turns(), data, spec);
    case Kind::patterns: return by_pattern(io, state.some_patterns(), data, spec);
    case Kind::ordered: return by_order(io, state.some_ordered(), data, spec);
    case Kind::lines: return by_line(io, state.some_lines(), data, spec);
  }
  return false;
}

// A function of the width of a piece's numbers, called with a pointer of that type.
template <class F>
auto typed(const lilliput_piece& p, F call) {
  switch (p.width) {
    case 1: return call(static_cast<int8_t*>(p.data));
    case 2: return call(static_cast<int16_t*>(p.data));
    case 4: return call(static_cast<int32_t*>(p.data));
    default: return call(static_cast<int64_t*>(p.data));
  }
}

}  // namespace lilliput
