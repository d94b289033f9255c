// Sparse convolution over contiguous pixels, for any width of register: a non-zero is broadcast, multiplied by the pixels at
// its offset and added. `Lanes` says how. Included only by files for one instruction set, into an unnamed namespace of theirs.

constexpr int kMost = 14;  // registers of pixels at a time: with the weight's, and one to spare, what AVX2 has

// Where the registers of a block go.
struct Places {
  bool direct;        // each register to one place, else some lie in two rows
  int64_t to[kMost];
  int count[kMost];   // of the register's pixels that are output
  int segments = 0;   // where it is not direct: [from, from + length) of the block goes to `start`
  int64_t from[kMost * Lanes::count], start[kMost * Lanes::count], length[kMost * Lanes::count];

  void find(const SparseTile& t) {
    const bool flat = t.pitch == t.width;
    direct = flat || t.pitch % Lanes::count == 0;
    const int64_t end = t.at + t.registers * Lanes::count < t.pixels ? t.at + t.registers * Lanes::count : t.pixels;
    for (int64_t v = 0; direct && v < t.registers; ++v) {
      const int64_t i = t.at + v * Lanes::count, x = i % t.pitch;
      const int64_t left = flat ? t.pixels - i : t.width - x;
      to[v] = flat ? i : i / t.pitch * t.width + x;
      count[v] = static_cast<int>(left < 0 ? 0 : left < Lanes::count ? left : Lanes::count);
    }
    for (int64_t i = t.at; !direct && i < end;) {
      const int64_t y = i / t.pitch, x = i % t.pitch, row = y * t.pitch + t.width;  // the first pixel of no use
      if (i < row) {
        from[segments] = i - t.at;
        start[segments] = y * t.width + x;
        length[segments++] = (row < end ? row : end) - i;
      }
      i = (y + 1) * t.pitch;
    }
  }

  template <int N>
  void write(const typename Lanes::Vector (&sum)[N], float* kept, float* out) const {
    if (direct) {
#pragma GCC unroll 14
      for (int v = 0; v < N; ++v) {
        if (count[v] == Lanes::count) {
          Lanes::store_any(out + to[v], sum[v]);
        } else {
          Lanes::store_some(out + to[v], sum[v], count[v]);
        }
      }
      return;
    }
#pragma GCC unroll 14
    for (int v = 0; v < N; ++v) Lanes::store(kept + v * Lanes::count, sum[v]);
    for (int s = 0; s < segments; ++s) Lanes::copy(out + start[s], kept + from[s], length[s]);
  }
};

// One part of N registers. Few registers keep U sums each, so that one need not wait for the other.
template <int N, int U>
void block(const SparseTile& t, int64_t part, const Places& places) {
  const float* planes = t.planes + t.at;
  const int64_t* row = t.rows + part * t.outputs;
  for (int64_t o = t.first; o < t.last; ++o) {
    typename Lanes::Vector sum[U][N];
    float* kept = t.sums + (o - t.first) * (N * Lanes::count);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const auto first = Lanes::all(u > 0 || t.bias == nullptr ? 0.0f : t.bias[o]);
#pragma GCC unroll 14
      for (int v = 0; v < N; ++v) sum[u][v] = u == 0 && part > 0 ? Lanes::load(kept + v * Lanes::count) : first;
    }
    const SparseWeight *w = t.weights + row[o], *end = t.weights + row[o + 1];
    for (; w + U <= end; w += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const auto value = Lanes::all(w[u].value);
        const float* x = planes + w[u].offset;
#pragma GCC unroll 14
        for (int v = 0; v < N; ++v) sum[u][v] = Lanes::add(value, Lanes::load_any(x + v * Lanes::count), sum[u][v]);
      }
    }
    for (; U > 1 && w < end; ++w) {
      const auto value = Lanes::all(w->value);
      const float* x = planes + w->offset;
#pragma GCC unroll 14
      for (int v = 0; v < N; ++v) sum[0][v] = Lanes::add(value, Lanes::load_any(x + v * Lanes::count), sum[0][v]);
    }
#pragma GCC unroll 4
    for (int u = 1; u < U; ++u) {
#pragma GCC unroll 14
      for (int v = 0; v < N; ++v) sum[0][v] = Lanes::plus(sum[0][v], sum[u][v]);
    }
    if (part + 1 < t.parts) {
#pragma GCC unroll 14
      for (int v = 0; v < N; ++v) Lanes::store(kept + v * Lanes::count, sum[0][v]);
    } else {
      places.write<N>(sum[0], kept, t.out + o * t.plane);
    }
  }
}

template <int N>
void choose_block(const SparseTile& t, const Places& places) {
  constexpr int U = N == 1 ? 4 : N < 5 ? 2 : 1;
  if (t.registers == N) {
    for (int64_t part = 0; part < t.parts; ++part) block<N, U>(t, part, places);
  } else if constexpr (N > 1) {
    choose_block<N - 1>(t, places);
  }
}

void run(const SparseTile& t) {
  Places places;
  places.find(t);
  choose_block<kMost>(t, places);
}

// Rows are written with the zeros that follow them, and in order, so that a register may run on into what comes next.
void fill(const SparseCopy& c, const float* from, float* to) {
  const auto zero = Lanes::all(0.0f);
  for (int64_t channel = 0; channel < c.channels; ++channel, to += c.size) {
    for (int64_t i = 0; i < c.lead; i += Lanes::count) Lanes::store_any(to + i, zero);
    float* row = to + c.lead;
    for (int64_t y = 0; y < c.height; ++y, row += c.pitch, from += c.width) {
      int64_t x = 0;
      for (; x + Lanes::count <= c.width; x += Lanes::count) Lanes::store_any(row + x, Lanes::load_any(from + x));
      if (x < c.width) {
        Lanes::store_any(row + x, Lanes::load_some(from + x, static_cast<int>(c.width - x)));
        x += Lanes::count;
      }
      for (; x < c.pitch; x += Lanes::count) Lanes::store_any(row + x, zero);
    }
    for (; row < to + c.size; row += Lanes::count) Lanes::store_any(row, zero);
  }
}
