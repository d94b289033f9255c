// Numbers for which the vector kernels read and write whole registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace lilliput {

// As they come: whoever reads them writes them first.
struct Aligned {
  explicit Aligned(size_t bytes) : data(static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{64}))) {}
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data.get()); }
  std::unique_ptr<uint8_t, Free> data;
};

}  // namespace lilliput
