// Tensors of whole numbers in few bytes, and back: the `context` encoding of docs/format.md.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// One tensor of `rows` · `kernels` · `taps` numbers from `low` to `high`, each `width` (1, 2, 4 or 8) bytes of this machine's
// order. `patterns` says that they are bit patterns, for which the bounds must be those of the width.
typedef struct {
  int64_t rows, kernels, taps, low, high;
  int32_t width, patterns;
  void* data;
} lilliput_piece;

enum lilliput_status {
  lilliput_ok = 0,
  lilliput_too_few_bytes = 1,
  lilliput_too_many_bytes = 2,
  lilliput_out_of_bounds = 3,
  lilliput_bad_kind = 4,
  lilliput_out_of_memory = 5,
  lilliput_bad_piece = 6,
};

// No section has more numbers than this for each of its bytes.
enum { lilliput_numbers_per_byte = 4096 };

// The bytes of these tensors. `*out` is to be given to `lilliput_free`. Numbers must keep their bounds.
int lilliput_encode(const lilliput_piece* pieces, size_t count, uint8_t** out, size_t* size);

// Fill the `data` of these tensors. `ends[i]`, unless `ends` is null, is how many bytes had been read after tensor i.
// Any bytes may be given: what `lilliput_encode` does not write is answered with another status than `lilliput_ok`.
int lilliput_decode(const uint8_t* bytes, size_t size, const lilliput_piece* pieces, size_t count, uint64_t* ends);

// The same for text.
int lilliput_encode_text(const uint8_t* text, size_t length, uint8_t** out, size_t* size);
int lilliput_decode_text(const uint8_t* bytes, size_t size, uint8_t* text, size_t length);

void lilliput_free(uint8_t* bytes);

#ifdef __cplusplus
}
#endif
