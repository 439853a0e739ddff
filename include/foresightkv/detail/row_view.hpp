// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

/// Position of every slot of a row; see row_state for the three cases.
struct row_positions {
  std::int32_t const* column = nullptr;  // null: slot = position
  int seen = 0;
  int next = 0;  // position of the first token after those seen

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int at(int slot) const {
    if (column == nullptr) return slot;
    return slot < seen ? column[slot] : next + (slot - seen);
  }
  /// One past the newest position of a row of `length` slots.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int end(int length) const {
    return column == nullptr ? length : next + (length - seen);
  }
};

/// Positions of a sequence that stay.
struct row_pins {
  std::uint32_t const* bits = nullptr;  // null: none
  int words = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool at(int position) const {
    return bits != nullptr && position >= 0 && position / 32 < words &&
           (bits[position / 32] >> position % 32 & 1u) != 0;
  }
};

/// How many positions of [first, last) are pinned, whether their tokens are still there or not.
FORESIGHTKV_HOST_DEVICE inline int count_pinned(row_pins const& pins, int first, int last) {
  int const end = last / 32 < pins.words ? last : pins.words * 32;
  int count = 0;
  for (int word = first / 32; pins.bits != nullptr && word * 32 < end; ++word) {
    std::uint32_t bits = pins.bits[word];
    if (word * 32 < first) bits &= ~0u << (first - word * 32);
    if (end - word * 32 < 32) bits &= ~(~0u << (end - word * 32));
    for (; bits != 0; bits &= bits - 1) ++count;
  }
  return count;
}

FORESIGHTKV_HOST_DEVICE inline row_pins pins_of(row_state const& state, int sequence) {
  if (state.pinned == nullptr) return {};
  return {state.pinned + std::int64_t{sequence} * state.pinned_words, state.pinned_words};
}

FORESIGHTKV_HOST_DEVICE inline row_positions positions_of(row_state const& state, int row) {
  if (state.empty()) return {};
  if (state.step[row] == 0) return {};
  return {state.position + state.column(row, 0), state.seen_length[row], state.next_position[row]};
}

/// Carried statistics of a row as they stood before this call: zero for tokens that the state has not seen, and beyond
/// the columns of a pristine row that is longer than they are.
struct row_carried {
  float const* values = nullptr;  // [slot][num_carried][group]
  int stored = 0;                 // slots that have values
  int width = 0;                  // num_carried * group
};

FORESIGHTKV_HOST_DEVICE inline row_carried carried_of(row_state const& state, int row) {
  if (state.empty() || state.num_carried == 0) return {nullptr, 0, state.num_carried * state.group};
  int const seen = state.seen_length[row];
  return {state.carried_at(row, 0), seen < state.capacity ? seen : state.capacity, state.num_carried * state.group};
}

template <class Row>
class token_view;

/// One row as a scorer sees it, on every backend. `Reads` is what the policy reads: window statistics and carried
/// columns lie apart, both token by token.
template <class Cache, class Window, class Reads>
class row_view {
 public:
  using reads = Reads;
  using window_list = window_statistics<Reads>;
  using carried_list = carried_statistics<Reads>;
  using key_type = key_element<Cache>;
  using value_type = value_element<Cache>;

  Cache const* cache = nullptr;
  Window const* window = nullptr;
  row_index at{};
  int tokens = 0;  // slots
  row_positions positions{};
  int protected_from = 0;  // positions at and above are recent
  int sink_tokens = 0;
  row_pins pins{};
  int window_queries = 0;
  int first_query = 0;  // position of query 0
  float scale = 1.0f;
  float cap = 0.0f;
  std::uint32_t request = 0;
  std::uint32_t evictions = 0;
  float const* observed = nullptr;  // [slot][window_list][group]
  float const* carried = nullptr;   // [slot][carried_list][group]
  float* scratch_base = nullptr;
  std::size_t scratch_stride = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int length() const { return tokens; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int key_head_dim() const { return cache->shape().key_head_dim; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int value_head_dim() const { return cache->shape().value_head_dim; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int group() const { return cache->shape().group; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int position(int slot) const { return positions.at(slot); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int next_position() const { return positions.end(tokens); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int layer() const { return cache->shape().model_layer(at.layer); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int kv_head() const { return cache->shape().model_kv_head(at.kv_head); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int model_kv_heads() const { return cache->shape().model_kv_heads(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool occupied(int slot) const { return position(slot) >= 0; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool candidate(int slot) const {
    int const where = position(slot);
    return where >= sink_tokens && where < protected_from && !pins.at(where);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_view<row_view> token(int slot) const { return {this, slot}; }

  // Made anew where they are used: a view that kept them would take registers that row scorers do not have.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE key_vectors<Cache> row_keys() const { return cache->keys(at); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE value_vectors<Cache> row_values() const { return cache->values(at); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE key_type const* keys(int slot) const { return row_keys().at(slot); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE value_type const* values(int slot) const { return row_values().at(slot); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float key(int slot, int dim) const {
    return to_float(keys(slot)[dim]) * row_keys().scale(slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float value(int slot, int dim) const {
    return to_float(values(slot)[dim]) * row_values().scale(slot);
  }

  /// Value i of the engine's own that stands beside a token.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float column(int slot, int i) const {
    constexpr bool has_column = requires { std::declval<Cache const&>().column(row_index{}); };
    static_assert(has_column, "foresightkv: this scorer reads a column that the cache does not have: see with_column");
    if constexpr (has_column)
      return cache->column(at).at(slot)[i];
    else
      return 0.0f;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int num_queries() const { return window_queries; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int query_position(int r) const { return first_query + r; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float query(int r, int j, int dim) const {
    return to_float(queries(r, j)[dim]);
  }
  /// The elements of query head j's query r.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE auto const* queries(int r, int j) const {
    return window->query(at, at.kv_head * group() + j, r);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool masked(int r, int j) const {
    if (window->lse == nullptr) return false;
    // By its bits: -ffast-math folds the usual tests away.
    std::uint32_t const bits = float_bits(window->log_sum_exp(at, at.kv_head * group() + j, r));
    return (bits & float_infinity_bits) == float_infinity_bits;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float softmax_scale() const { return scale; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float soft_cap() const { return cap; }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t request_id() const { return request; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t step() const { return evictions; }

  template <class Statistic>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float statistic(Statistic, int slot, int j) const {
    return statistic_of<Statistic>(slot)[j];
  }
  /// The group's values of one statistic of one token.
  template <class Statistic>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float const* statistic_of(int slot) const {
    auto const token_index = static_cast<std::ptrdiff_t>(slot);
    if constexpr (carried_statistic<Statistic>)
      return carried + (token_index * carried_list::size + carried_list::template index<Statistic>()) * group();
    else
      return observed + (token_index * window_list::size + window_list::template index<Statistic>()) * group();
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float* scratch(int index) const {
    return scratch_base + static_cast<std::size_t>(index) * scratch_stride;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE row_view with_scratch(int first) const {
    row_view row = *this;
    row.scratch_base = scratch(first);
    return row;
  }
};

/// One token as a pointwise scorer sees it.
template <class Row>
class token_view {
 public:
  FORESIGHTKV_HOST_DEVICE token_view(Row const* row, int slot)
      : row_(row), slot_(slot), key_(row->keys(slot)), value_(row->values(slot)) {}

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float key(int dim) const {
    return to_float(key_[dim]) * row_->row_keys().scale(slot_);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float value(int dim) const {
    return to_float(value_[dim]) * row_->row_values().scale(slot_);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float column(int i) const { return row_->column(slot_, i); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int key_head_dim() const { return row_->key_head_dim(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int value_head_dim() const { return row_->value_head_dim(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int group() const { return row_->group(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int slot() const { return slot_; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int position() const { return row_->position(slot_); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int next_position() const { return row_->next_position(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int layer() const { return row_->layer(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int kv_head() const { return row_->kv_head(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int model_kv_heads() const { return row_->model_kv_heads(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t request_id() const { return row_->request_id(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t step() const { return row_->step(); }

  template <class Statistic>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float statistic(Statistic which, int j) const {
    return row_->statistic(which, slot_, j);
  }
  template <class Statistic>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float mean(Statistic) const {
    float const* const values = row_->template statistic_of<Statistic>(slot_);
    int const group = row_->group();
    float total = 0.0f;
    for (int j = 0; j < group; ++j) total += values[j];
    return total / static_cast<float>(group);
  }

 private:
  Row const* row_;
  int slot_;
  typename Row::key_type const* key_;
  typename Row::value_type const* value_;
};

}  // namespace foresightkv::inline v0::detail
