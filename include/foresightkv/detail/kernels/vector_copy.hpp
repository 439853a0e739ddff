// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Bytes that a thread moves at a time.
inline constexpr int vector_bytes = 16;

using word32 = std::uint32_t __attribute__((may_alias));  // bytes of any type

struct [[gnu::may_alias]] alignas(vector_bytes) vector16 {
  std::uint32_t word[4];
};

FORESIGHTKV_HOST_DEVICE inline bool aligned_to(void const* a, void const* b, std::uintptr_t bytes) {
  return ((reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) & (bytes - 1)) == 0;
}

/// Copies one vector, or what a row has left of one: whole where both ends are aligned, else by words or bytes.
FORESIGHTKV_HOST_DEVICE inline void copy_vector(std::byte* to, std::byte const* from, int bytes) {
  if (bytes == vector_bytes && aligned_to(to, from, vector_bytes)) {
    *reinterpret_cast<vector16*>(to) = *reinterpret_cast<vector16 const*>(from);
    return;
  }
  bool const words = bytes % 4 == 0 && aligned_to(to, from, 4);
  for (int i = 0; words && i < bytes; i += 4)
    *reinterpret_cast<word32*>(to + i) = *reinterpret_cast<word32 const*>(from + i);
  for (int i = 0; !words && i < bytes; ++i) to[i] = from[i];
}

/// Loads the first `count` entries of `from`, as vectors where it is aligned for that. What is behind them is not read.
template <class Word, int Most>
FORESIGHTKV_HOST_DEVICE void load_neighbours(Word const* from, int count, Word (&to)[Most]) {
  constexpr int words = vector_bytes / sizeof(Word);
  static_assert(sizeof(Word) == 4 && Most % words == 0);
  bool const whole = aligned_to(from, from, vector_bytes);
  for (int i = 0; i < Most; i += words) {
    if (whole && i + words <= count) {
      auto const vector = *reinterpret_cast<vector16 const*>(from + i);
      for (int j = 0; j < words; ++j) to[i + j] = __builtin_bit_cast(Word, vector.word[j]);
    } else {
      for (int j = i; j < i + words; ++j)
        if (j < count) to[j] = from[j];
    }
  }
}

/// Starts the copy of one vector into shared memory; what cannot go asynchronously is there on return.
template <class Context>
FORESIGHTKV_HOST_DEVICE void fetch_vector(Context const& c, std::byte* shared, std::byte const* from, int bytes) {
  if (bytes == vector_bytes && aligned_to(shared, from, vector_bytes))
    c.template copy_async<vector_bytes>(shared, from);
  else
    copy_vector(shared, from, bytes);
}

}  // namespace foresightkv::inline v0::detail::kernels
