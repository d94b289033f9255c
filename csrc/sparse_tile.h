// Sparse convolution over contiguous pixels, for any width of register: a non-zero is broadcast, multiplied by the pixels at its
// offset and added. `Lanes` says how. Included only by files for one instruction set, into an unnamed namespace of theirs.

constexpr int kMost = 8;  // registers of pixels at a time
static_assert(kMost * Lanes::count <= kBlock, "sums are kept for so many pixels");

// Where the pixels of a block go, without those between two rows.
struct Segments {
  int count = 0;
  int64_t from[kMost * Lanes::count + 1], to[kMost * Lanes::count + 1], length[kMost * Lanes::count + 1];

  void find(const SparseTile& t, int64_t at, int64_t pixels) {
    count = 0;
    for (int64_t i = at; i < at + pixels;) {
      const int64_t y = i / t.pitch, x = i % t.pitch, end = at + pixels;
      const int64_t row = y * t.pitch + t.width;  // the first pixel of no use
      if (i < row) {
        from[count] = i - at;
        to[count] = y * t.width + x;
        length[count++] = (row < end ? row : end) - i;
      }
      i = (y + 1) * t.pitch;
    }
  }
};

// One part of N registers, the last of which holds `last` pixels. Few registers keep U sums each, so that one need not wait for
// the other.
template <int N, int U>
void block(const SparseTile& t, int64_t part, int64_t at, int64_t last, const Segments& segments) {
  const auto some = Lanes::some(last);
  for (int64_t o = 0; o < t.outputs; ++o) {
    typename Lanes::Vector sum[U][N];
    float* kept = t.sums + o * kBlock;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const auto first = Lanes::all(u > 0 || t.bias == nullptr ? 0.0f : t.bias[o]);
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) sum[u][v] = u == 0 && part > 0 ? Lanes::load(kept + v * Lanes::count) : first;
    }
    const float* planes = t.planes + at;
    int64_t k = t.rows[part * t.outputs + o];
    const int64_t end = t.rows[part * t.outputs + o + 1];
    for (; k + U <= end; k += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const auto w = Lanes::all(t.values[k + u]);
        const float* x = planes + t.offsets[k + u];
#pragma GCC unroll 8
        for (int v = 0; v < N - 1; ++v) sum[u][v] = Lanes::add(w, Lanes::load(x + v * Lanes::count), sum[u][v]);
        sum[u][N - 1] = Lanes::add(w, Lanes::load_some(x + (N - 1) * Lanes::count, some), sum[u][N - 1]);
      }
    }
    for (; U > 1 && k < end; ++k) {
      const auto w = Lanes::all(t.values[k]);
      const float* x = planes + t.offsets[k];
#pragma GCC unroll 8
      for (int v = 0; v < N - 1; ++v) sum[0][v] = Lanes::add(w, Lanes::load(x + v * Lanes::count), sum[0][v]);
      sum[0][N - 1] = Lanes::add(w, Lanes::load_some(x + (N - 1) * Lanes::count, some), sum[0][N - 1]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) {
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) sum[0][v] = Lanes::plus(sum[0][v], sum[u][v]);
      Lanes::store(kept + v * Lanes::count, sum[0][v]);
    }
    if (part + 1 < t.parts) continue;
    float* out = t.out + o * t.plane;
    for (int i = 0; i < segments.count; ++i) Lanes::copy(out + segments.to[i], kept + segments.from[i], segments.length[i]);
  }
}

template <int N, int U>
void blocks(const SparseTile& t, int64_t at, int64_t last, const Segments& segments) {
  for (int64_t part = 0; part < t.parts; ++part) block<N, U>(t, part, at, last, segments);
}

void run(const SparseTile& t) {
  Segments segments;
  for (int64_t at = 0; at < t.pixels;) {
    const int64_t left = t.pixels - at, most = kMost * Lanes::count;
    const int64_t pixels = left < most ? left : most;
    const int registers = static_cast<int>((pixels + Lanes::count - 1) / Lanes::count);
    const int64_t last = pixels - (registers - 1) * Lanes::count;
    segments.find(t, at, pixels);
    switch (registers) {
      case 1: blocks<1, 4>(t, at, last, segments); break;
      case 2: blocks<2, 2>(t, at, last, segments); break;
      case 3: blocks<3, 2>(t, at, last, segments); break;
      case 4: blocks<4, 2>(t, at, last, segments); break;
      case 5: blocks<5, 1>(t, at, last, segments); break;
      case 6: blocks<6, 1>(t, at, last, segments); break;
      case 7: blocks<7, 1>(t, at, last, segments); break;
      default: blocks<8, 1>(t, at, last, segments); break;
    }
    at += pixels;
  }
}
