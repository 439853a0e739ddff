// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/lanes.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/transfer.hpp>
#include <foresightkv/detail/window.hpp>
#include <foresightkv/selection.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Everything that is asked of a sequence before its rows are touched, in the host's order: a sequence gets the first
/// flag that some row in (layer, head) order has at the earliest question.
template <class Cache, class Budget, class Scorer>
struct visit_questions {
  Cache cache{};
  row_state state{};
  length_limits limits{};
  window_extent window{};
  eviction_config config{};
  Budget budget{};
  Scorer scorer{};
  bool asks_budget = false;

  /// Answer of one row: question << flag_bits | flag; `all_well` if there is nothing to say.
  static constexpr std::uint32_t all_well = 0xffffffffu;
  static constexpr int flag_bits = 24;
  static constexpr std::uint32_t flag_mask = (1u << flag_bits) - 1;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t operator()(row_index at) const {
    int const length = cache.length(at);
    cache_shape const& shape = cache.shape();
    if (sequence_flag const flag = check_length(shape, at, length, limits, state); flag != no_flag)
      return answer(0, flag);
    if (sequence_flag const flag = check_window_of(window, at.sequence); flag != no_flag) return answer(1, flag);
    if (sequence_flag const flag = check_window_row(window, length); flag != no_flag) return answer(1, flag);
    if (asks_budget) {
      sequence_flag const flag = check_budget_of(budget, config, shape, state, at, length);
      if (flag != no_flag) return answer(2, flag);
    }
    if (!covers_layer(scorer, shape.model_layer(at.layer))) return answer(3, sequence_flag::missing_judge);
    return all_well;
  }

 private:
  FORESIGHTKV_HOST_DEVICE static std::uint32_t answer(std::uint32_t question, sequence_flag flag) {
    return question << flag_bits | static_cast<std::uint32_t>(flag);
  }
};

/// Lists that somebody hands over must name slots of their row.
struct list_question {
  selection lists{};
  bool asked = false;
  bool moves_tokens = true;
};

/// Asks of a window that continues whether it has had a query before: begun[i] of the list's entries. Here, since a
/// block that observes must not read what another one of its row writes.
struct chunk_question {
  float const* earlier = nullptr;  // [row][capacity][width]; null: no window continues
  std::int64_t capacity = 0;
  int width = 0;
  std::int32_t* begun = nullptr;  // [max_count]
};

/// Whether tokens move where they stand, and from which slot on. Into a target: whether any do.
enum class token_writes : int { none, of_budget, of_lists };

/// Decides which sequences of a list a call visits: accepted[i] = sequence, or -1. One block per entry of the list.
/// With a positive `due` only sequences with a row of at least budget + due tokens are accepted.
template <class Cache, class Budget, class Scorer, class Target = in_place>
struct visit_kernel {
  static constexpr int threads = 256;
  enum sync : int { compared, answered, checked, counted, tables_read, owners_read, rooms_read, target_read };

  sequence_list list{};
  visit_questions<Cache, Budget, Scorer> questions{};
  list_question given{};
  chunk_question chunk{};
  token_writes writes = token_writes::none;
  [[no_unique_address]] Target target{};
  int due = 0;
  std::int32_t* accepted = nullptr;    // [max_count]
  std::int32_t* lengths = nullptr;     // [place] of the accepted sequences' rows; null: nobody wants them
  std::int32_t* kept_count = nullptr;  // [place] of the given lists; negative: the row stays as it is

  template <class Context>
  struct shared {
    std::uint64_t first_answer[Context::threads / warp_size];
    int repeated[Context::threads / warp_size];
    int bad_list[Context::threads / warp_size];
    int is_due[Context::threads / warp_size];
    int bad_table[Context::threads / warp_size];
    int is_shared[Context::threads / warp_size];
    int no_room[is_in_place<Target> ? 1 : Context::threads / warp_size];
    int bad_target[is_in_place<Target> ? 1 : Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const entry = c.block();
    int const sequence = sequence_of(entry);
    bool const repeated = sequence >= 0 && is_repeated(c, memory, entry, sequence);
    if (sequence < 0 || repeated) {
      if (c.rank() == 0) accepted[entry] = -1;
      if (c.rank() == 0 && repeated) flag(c, sequence, static_cast<std::uint32_t>(sequence_flag::duplicate));
      return;
    }
    std::uint64_t const found = ask(c, memory, sequence);
    bool accept = found == ~std::uint64_t{0};
    if (!accept && c.rank() == 0) flag(c, sequence, static_cast<std::uint32_t>(found) & questions.flag_mask);
    if (accept && given.asked) accept = lists_fit(c, memory, sequence);
    if (accept) accept = tables_are_sound(c, memory.bad_table, questions.cache, sequence, tables_read);
    if constexpr (!is_in_place<Target>) {
      if (accept) accept = has_rooms(c, memory, sequence);
      if (accept) accept = tables_are_sound(c, memory.bad_target, target, sequence, target_read);
    }
    if (accept && writes != token_writes::none) accept = owns_pages(c, memory, sequence);
    if (accept && due > 0) accept = any_due(c, memory, sequence);
    for (int index = c.rank(); accept && lengths != nullptr && index < rows(); index += Context::threads)
      lengths[entry * rows() + index] = questions.cache.length(row_at(index, sequence));
    if (c.rank() != 0) return;
    if (is_cut(list)) flag(c, sequence, static_cast<std::uint32_t>(sequence_flag::list_cut));
    accepted[entry] = accept ? sequence : -1;
    if (accept && chunk.earlier != nullptr) chunk.begun[entry] = has_begun(sequence) ? 1 : 0;
  }

 private:
  /// All rows of a sequence are observed alike: the first one tells.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool has_begun(int sequence) const {
    row_index const at{0, sequence, 0};
    int const row = questions.cache.shape().row(at);
    int const length = questions.cache.length(at);
    row_positions const positions = positions_of(questions.state, row);
    window_place const place = place_window(questions.window, sequence, positions.end(length));
    return window_begun(positions, length, place, chunk.earlier + row * chunk.capacity * chunk.width, chunk.width);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int sequence_of(int entry) const {
    int const wanted = list.count == nullptr ? list.max_count : *list.count;
    if (entry >= wanted) return -1;
    int const sequence = list.slots == nullptr ? entry : list.slots[entry];
    return sequence < questions.cache.shape().num_sequences ? sequence : -1;
  }
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void flag(Context const& c, int sequence, std::uint32_t bits) const {
    if (!questions.state.empty()) c.raise(questions.state.flags + sequence, bits);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE row_index row_at(int index, int sequence) const {
    int const heads = questions.cache.shape().num_kv_heads;
    return {index / heads, sequence, index % heads};
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int rows() const {
    return questions.cache.shape().num_layers * questions.cache.shape().num_kv_heads;
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool is_repeated(Context const& c, shared<Context>& memory, int entry, int sequence) const {
    if (list.slots == nullptr) return false;
    bool mine = false;
    for (int before = c.rank(); before < entry; before += Context::threads)
      mine = mine || list.slots[before] == sequence;
    return block_any(c, memory.repeated, mine, compared);
  }

  /// Lowest (question, row, flag) of all rows; all ones if nothing is wrong.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE std::uint64_t ask(Context const& c, shared<Context>& memory, int sequence) const {
    std::uint64_t lowest = ~std::uint64_t{0};
    for (int index = c.rank(); index < rows(); index += Context::threads) {
      std::uint32_t const answer = questions(row_at(index, sequence));
      if (answer == questions.all_well) continue;
      constexpr int flag_bits = visit_questions<Cache, Budget, Scorer>::flag_bits;
      std::uint64_t const here = std::uint64_t{answer >> flag_bits} << 56 |
                                 static_cast<std::uint64_t>(index) << flag_bits | (answer & questions.flag_mask);
      lowest = here < lowest ? here : lowest;
    }
    lowest = warp_min(c, lowest);
    if (c.rank() % warp_size == 0) memory.first_answer[c.rank() / warp_size] = lowest;
    c.sync(answered);
    for (int warp = 0; warp < Context::threads / warp_size; ++warp)
      lowest = memory.first_answer[warp] < lowest ? memory.first_answer[warp] : lowest;
    return lowest;
  }

  /// Slots of a row that hold a token, by a warp.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static int occupied(Context const& c, row_positions const& positions, int length) {
    if (positions.column == nullptr) return length;
    int count = 0;
    for (int slot = c.rank() % warp_size; slot < length; slot += warp_size) count += positions.at(slot) >= 0;
    return warp_sum(c, count);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool lists_fit(Context const& c, shared<Context>& memory, int sequence) const {
    bool sound = true;
    for (int index = c.rank() / warp_size; index < rows(); index += Context::threads / warp_size) {
      row_index const at = row_at(index, sequence);
      int const row = questions.cache.shape().row(at);
      int const length = questions.cache.length(at);
      int const num_evicted = given.lists.evicted_count[row];
      int const num_kept =
          num_evicted == 0 ? -1 : occupied(c, positions_of(questions.state, row), length) - num_evicted;
      if (c.rank() % warp_size == 0) kept_count[c.block() * rows() + index] = num_kept;
      if (num_evicted == 0) continue;
      bool const storable = !given.moves_tokens || num_kept <= questions.state.capacity;
      auto const base = given.lists.at(row);
      sound = sound && num_evicted > 0 && num_kept >= 0 && storable &&
              ascends(c, given.lists.kept + base, num_kept, length) &&
              ascends(c, given.lists.evicted + base, num_evicted, length);
    }
    bool const broken = block_any(c, memory.bad_list, !sound, checked);
    if (broken && c.rank() == 0) flag(c, sequence, static_cast<std::uint32_t>(sequence_flag::bad_length));
    return !broken;
  }
  /// This lane's share of the question whether a list ascends inside its row.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static bool ascends(Context const& c, std::int32_t const* slots, int count, int length) {
    bool sound = true;
    for (int i = c.rank() % warp_size; i < count; i += warp_size)
      sound = sound && slots[i] >= 0 && slots[i] < length && (i == 0 || slots[i] > slots[i - 1]);
    return sound;
  }

  /// What the cache has beside the sequence's tokens.
  template <class Context, class Tokens>
  FORESIGHTKV_HOST_DEVICE bool tables_are_sound(Context const& c, int (&said)[Context::threads / warp_size],
                                                Tokens const& cache, int sequence, int barrier) const {
    row_threads<Context> const lanes{c};
    if constexpr (requires { cache.check_sequence(lanes, sequence); }) {
      sequence_flag const mine = cache.check_sequence(lanes, sequence);
      if (mine != no_flag) flag(c, sequence, static_cast<std::uint32_t>(mine));
      return !block_any(c, said, mine != no_flag, barrier);
    }
    return true;
  }
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool has_rooms(Context const& c, shared<Context>& memory, int sequence) const {
    bool mine = false;
    for (int index = c.rank(); index < rows(); index += Context::threads)
      mine = mine || check_room(target.shape(), target.length(row_at(index, sequence))) != no_flag;
    bool const any = block_any(c, memory.no_room, mine, rooms_read);
    if (any && c.rank() == 0) flag(c, sequence, static_cast<std::uint32_t>(sequence_flag::bad_length));
    return !any;
  }
  /// Whose tokens are written: those of the cache, or of the target.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE auto const& written() const {
    if constexpr (is_in_place<Target>)
      return questions.cache;
    else
      return target;
  }
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool owns_pages(Context const& c, shared<Context>& memory, int sequence) const {
    row_threads<Context> const lanes{c};
    if constexpr (requires { written().is_shared(lanes, row_index{}, 0); }) {
      bool mine = false;
      for (int index = 0; index < rows(); ++index) {
        row_index const at = row_at(index, sequence);
        int const first = is_in_place<Target> ? first_moved_of(at) : 0;
        mine = mine || (first >= 0 && written().is_shared(lanes, at, first));
      }
      bool const any = block_any(c, memory.is_shared, mine, owners_read);
      if (any && c.rank() == 0) flag(c, sequence, static_cast<std::uint32_t>(sequence_flag::shared_page));
      return !any;
    }
    return true;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int first_moved_of(row_index at) const {
    cache_shape const& shape = questions.cache.shape();
    if (writes == token_writes::of_budget)
      return first_moved(questions.budget, questions.config, shape, at, questions.cache.length(at));
    int const row = shape.row(at);
    return first_moved(given.lists.evicted + given.lists.at(row), given.lists.evicted_count[row]);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool any_due(Context const& c, shared<Context>& memory, int sequence) const {
    bool mine = false;
    for (int index = c.rank() / warp_size; index < rows(); index += Context::threads / warp_size) {
      row_index const at = row_at(index, sequence);
      row_positions const positions = positions_of(questions.state, questions.cache.shape().row(at));
      int const tokens = occupied(c, positions, questions.cache.length(at));
      mine = mine || tokens - questions.budget(questions.config, questions.cache.shape(), at) >= due;
    }
    return block_any(c, memory.is_due, mine, counted);
  }
};

/// Closes up a list in place: entries that are not negative, in order, and their number. One block.
struct gather_kernel {
  static constexpr int threads = 256;
  enum sync : int { loaded };

  std::int32_t* slots = nullptr;
  std::int32_t* count = nullptr;
  int num_entries = 0;

  template <class Context>
  struct shared {
    typename Context::template scan<int> scan;
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int gathered = 0;
    for (int first = 0; first < num_entries; first += Context::threads) {
      int const entry = first + c.rank();
      std::int32_t const sequence = entry < num_entries ? slots[entry] : -1;
      int here = 0;
      int const place = c.exclusive_sum(memory.scan, sequence >= 0 ? 1 : 0, here);
      c.sync(loaded);  // before anything is overwritten; the scan's scratch too
      if (sequence >= 0) slots[gathered + place] = sequence;
      gathered += here;
    }
    if (c.rank() == 0) *count = gathered;
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
