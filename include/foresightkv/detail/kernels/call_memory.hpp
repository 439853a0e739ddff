// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/observe.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The arrays that the kernels of one call hand to each other. `place` is a row's number among those of the call.
template <class Policy>
struct call_memory {
  using reads = typename Policy::reads;

  std::int32_t* accepted = nullptr;       // [max_count]
  std::int32_t* begun = nullptr;          // [max_count], see window_pass; or the sequences that went to a target
  std::int32_t* lengths = nullptr;        // [place]
  exponent_sum* sums = nullptr;           // see window_sums
  float* observed = nullptr;              // [place][max_length][window statistics][group]
  float* carried = nullptr;               // [place][max_length][carried statistics][group]
  float* temporary = nullptr;             // [place][scratch rows][temporary_stride]
  float* scores = nullptr;                // [place][max_length]
  std::uint32_t* keys = nullptr;          // [place][max_length]
  std::int32_t* kept = nullptr;           // [place][max_length]
  std::int32_t* evicted = nullptr;        // [place][max_length]
  std::int32_t* evicted_count = nullptr;  // [place]
  std::int32_t* kept_count = nullptr;     // [place]
  std::int64_t temporary_stride = 0;

  static call_memory take(arena& memory, cache_shape const& shape, sequence_list const& list, int max_queries) {
    auto const rows = static_cast<std::size_t>(list.max_count) * static_cast<std::size_t>(shape.num_layers) *
                      static_cast<std::size_t>(shape.num_kv_heads);
    auto const group = static_cast<std::size_t>(shape.group);
    std::size_t const slots = rows * static_cast<std::size_t>(list.max_length);
    call_memory made;
    made.temporary_stride = borrowed_row(shape, list.max_length);
    made.accepted = memory.take<std::int32_t>(static_cast<std::size_t>(list.max_count));
    made.begun = memory.take<std::int32_t>(static_cast<std::size_t>(list.max_count));
    made.lengths = memory.take<std::int32_t>(rows);
    if constexpr (window_statistics<reads>::size > 0)
      made.sums = memory.take<exponent_sum>(
          rows * group * static_cast<std::size_t>(window_sums::most_sums(list.max_length, max_queries)));
    made.observed = memory.take<float>(slots * group * window_statistics<reads>::size);
    made.carried = memory.take<float>(slots * group * carried_statistics<reads>::size);
    made.temporary = memory.take<float>(rows * static_cast<std::size_t>(scratch_rows<typename Policy::scorer_type>()) *
                                        static_cast<std::size_t>(made.temporary_stride));
    made.scores = memory.take<float>(slots);
    made.keys = memory.take<std::uint32_t>(slots);
    made.kept = memory.take<std::int32_t>(slots);
    made.evicted = memory.take<std::int32_t>(slots);
    made.evicted_count = memory.take<std::int32_t>(rows);
    made.kept_count = memory.take<std::int32_t>(rows);
    return made;
  }

 private:
  /// A borrowed row holds a value per slot, or one per dimension of a head.
  static std::int64_t borrowed_row(cache_shape const& shape, int max_length) {
    int const dims = shape.key_head_dim > shape.value_head_dim ? shape.key_head_dim : shape.value_head_dim;
    return max_length > dims ? max_length : dims;
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
