// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/compact.hpp>
#include <foresightkv/detail/host/isa.hpp>
#include <foresightkv/detail/host/visit.hpp>
#include <foresightkv/detail/one_lane.hpp>
#include <foresightkv/detail/transfer.hpp>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::host {

/// What is chosen of the rows of one sequence, which goes to another cache as a whole or not at all.
struct chosen_rows {
  std::int32_t* counts = nullptr;  // [row of the sequence] tokens that stay, kept_whole or kept_too_many
  std::int32_t* kept = nullptr;    // [row of the sequence][stride]
  float* carried = nullptr;        // [row of the sequence][stride][width], updated by the call
  std::size_t stride = 0;
  std::size_t width = 0;

  static chosen_rows take(arena& memory, cache_shape const& shape, std::size_t slots, int num_carried) {
    auto const rows = static_cast<std::size_t>(shape.num_layers) * static_cast<std::size_t>(shape.num_kv_heads);
    chosen_rows made;
    made.stride = slots;
    made.width = static_cast<std::size_t>(num_carried * shape.group);
    made.counts = memory.take<std::int32_t>(rows);
    made.kept = memory.take<std::int32_t>(rows * slots);
    made.carried = memory.take<float>(rows * slots * made.width);
    return made;
  }
  [[nodiscard]] std::int32_t* kept_of(int row) const { return kept + static_cast<std::size_t>(row) * stride; }
  [[nodiscard]] float* carried_of(int row) const { return carried + static_cast<std::size_t>(row) * stride * width; }
};

/// Copies the tokens of a list (null: of all slots) to the first slots of a row of another cache.
template <class Source, class Target>
void copy_tokens(Source const& source, Target const& target, row_index at, std::int32_t const* list, int count) {
  auto const slot = [&](int i) { return list == nullptr ? i : list[i]; };
  auto const copy = [&](auto const& from, auto const& to, int bytes) {
    for (int i = 0, end = 0; i < count; i = end) {
      for (end = i + 1; end < count && slot(end) == slot(i) + end - i;) ++end;
      move_run(to, from, static_cast<std::size_t>(bytes), {i, slot(i), end - i});
    }
  };
  auto const convert = [&](auto const& from, auto const& to, int dim) {
    with_best_isa([&](auto) __attribute__((always_inline)) {
      for (int i = 0; i < count; ++i) convert_token(one_lane{}, from, slot(i), to, i, dim);
    });
  };
  visit_parts(source, target, at, copy, convert);
}

/// Whether what is asked of a target holds for a sequence, before anything is chosen of it; flags it otherwise. Rows
/// have been checked.
template <class Target>
bool check_target_data(Target const& target, int sequence, bool asks_owners, row_state const& state) {
  bool const rooms = check_rows(target.shape(), sequence, state,
                                [&](row_index at) { return check_room(target.shape(), target.length(at)); });
  if (!rooms || !check_tables(target, sequence, state)) return false;
  if constexpr (requires { target.is_shared(one_lane{}, row_index{}, 0); })
    return !asks_owners || check_rows(target.shape(), sequence, state, [&](row_index at) {
      return target.is_shared(one_lane{}, at, 0) ? sequence_flag::shared_page : no_flag;
    });
  return true;
}

/// Whether every row of a sequence has room for what it keeps, of its length or count(row); flags it otherwise.
template <class Cache, class Target, class Count>
bool check_fit(Cache const& cache, Target const& target, int sequence, row_state const& state, Count const& count) {
  bool storable = true;
  bool const fits = check_rows(cache.shape(), sequence, state, [&](row_index at) {
    int const kept = count(at);
    storable = storable && kept != kept_too_many;
    int const tokens = kept < 0 ? cache.length(at) : kept;
    return kept != kept_too_many && tokens > target.length(at) ? sequence_flag::bad_length : no_flag;
  });
  return fits && storable;
}

}  // namespace foresightkv::inline v0::detail::host
