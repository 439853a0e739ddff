// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <foresightkv/detail/host/kernels.hpp>
#include <foresightkv/detail/host/row.hpp>
#include <foresightkv/detail/window.hpp>

namespace foresightkv::inline v0::detail::host {

inline constexpr int query_block = 32;  // logits of 32 queries x 1,152 keys stay inside a 256 KB L2 cache

/// Slots that any vector path may touch of a row of n: one more panel, the widest.
constexpr std::size_t padded_bound(int n) { return static_cast<std::size_t>(n) + panel_tokens<isa_avx512>; }

/// Scratch of one thread that observes.
struct observe_scratch {
  void const** keys = nullptr;   // where each token's key stands
  float* packed = nullptr;       // keys of the row
  float* queries = nullptr;      // [query_block][dim]
  float* logits = nullptr;       // [query_block][padded]
  float* folds = nullptr;        // [statistics][padded]
  std::int32_t* late = nullptr;  // slots that some query of the window does not see

  static observe_scratch take(arena& memory, cache_shape const& shape, int max_length, int num_statistics) {
    std::size_t const slots = padded_bound(max_length);
    auto const dim = static_cast<std::size_t>(shape.key_head_dim);
    observe_scratch scratch;
    scratch.keys = memory.take<void const*>(slots);
    scratch.packed = memory.take<float>(slots * dim);
    scratch.queries = memory.take<float>(query_block * dim);
    scratch.logits = memory.take<float>(query_block * slots);
    scratch.folds = memory.take<float>(static_cast<std::size_t>(num_statistics) * slots);
    scratch.late = memory.take<std::int32_t>(slots);
    return scratch;
  }
};

/// Which cached tokens a query sees.
struct visibility {
  bool prefix = true;  // positions ascend and no slot is empty: a query sees the slots before some slot
  int num_late = 0;    // otherwise: slots to test against every query
};

inline visibility find_visibility(row_positions const& positions, int n, int first_query, std::int32_t* late) {
  if (positions.column == nullptr) return {};
  visibility seen;
  int previous = -1;
  for (int slot = 0; slot < n; ++slot) {
    int const position = positions.at(slot);
    seen.prefix = seen.prefix && position > previous;
    previous = position;
    if (position < 0 || position > first_query) late[seen.num_late++] = slot;
  }
  return seen;
}

template <class Isa>
[[gnu::always_inline]] inline void cap_logits(softmax_rule const& rule, float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = rule.soft_cap * std::tanh(x[i] * rule.scale / rule.soft_cap);
}

/// Probabilities of the first n entries of x, in place; all zero if the query is masked. `sink` may be null. False
/// where a log-sum-exp that was not given is no number.
template <class Isa>
[[gnu::always_inline]] inline bool probabilities(softmax_rule const& rule, float const* lse2, float const* sink,
                                                 float* x, int n) {
  bool masked = n == 0, sound = true;
  if (lse2 != nullptr) {
    masked = masked || !is_finite(*lse2);
    if (!masked) (void)kernels<Isa>::exp2(x, n, rule.multiply, *lse2);
  } else if (!masked) {
    float const highest = kernels<Isa>::maximum(x, n);
    float largest = highest * rule.multiply;
    float extra = sink == nullptr ? lowest_float : *sink * log2_e;
    if (is_far(largest)) {  // from the largest one, then
      for (int i = 0; i < n; ++i) x[i] -= highest;
      extra -= largest;
      largest = is_finite(largest) ? 0.0f : largest;
    }
    if (extra > largest) largest = extra;
    float total = kernels<Isa>::exp2(x, n, rule.multiply, largest);
    if (sink != nullptr) total += std::exp2(extra - largest);
    sound = is_finite(total) && is_finite(largest);
    masked = !sound || !(total > 0.0f);
    if (!masked) kernels<Isa>::scale(x, n, 1.0f / total);
  }
  if (masked)
    for (int i = 0; i < n; ++i) x[i] = 0.0f;
  return sound;
}

template <class Statistic>
[[gnu::always_inline]] inline void fold_row(float* folds, float const* p, int n, int age) {
  if (age >= horizon<Statistic>()) return;
  for (int i = 0; i < n; ++i) folds[i] = Statistic::fold(folds[i], p[i], age);
}

/// Queries whose statistics are folded in one pass over the row.
inline constexpr int folded_together = 4;

/// Folds `count` queries, p[query * stride], the oldest of this age, in order.
template <class Statistic>
[[gnu::always_inline]] inline void fold_rows(float* folds, float const* p, std::size_t stride, int count, int n,
                                             int age) {
  bool const all = count == folded_together && age < horizon<Statistic>();
  if (!all) {
    for (int r = 0; r < count; ++r) fold_row<Statistic>(folds, p + static_cast<std::size_t>(r) * stride, n, age - r);
    return;
  }
  static_assert(folded_together == 4);
  for (int i = 0; i < n; ++i) {
    float value = Statistic::fold(folds[i], p[i], age);
    value = Statistic::fold(value, p[stride + static_cast<std::size_t>(i)], age - 1);
    value = Statistic::fold(value, p[2 * stride + static_cast<std::size_t>(i)], age - 2);
    folds[i] = Statistic::fold(value, p[3 * stride + static_cast<std::size_t>(i)], age - 3);
  }
}

template <class... Statistics>
[[gnu::always_inline]] inline void fold_all(statistics<Statistics...>, [[maybe_unused]] float* folds,
                                            [[maybe_unused]] float const* p, [[maybe_unused]] std::size_t stride,
                                            [[maybe_unused]] int count, [[maybe_unused]] int n,
                                            [[maybe_unused]] int age) {
  [[maybe_unused]] std::size_t place = 0;  // unused where nothing is read
  (fold_rows<Statistics>(folds + stride * place++, p, stride, count, n, age), ...);
}

template <class... Statistics>
[[gnu::always_inline]] inline void begin_folds(statistics<Statistics...>, [[maybe_unused]] float* folds,
                                               [[maybe_unused]] std::size_t stride, [[maybe_unused]] int n) {
  [[maybe_unused]] std::size_t place = 0;
  (
      [&](float initial) {
        float* const row = folds + stride * place++;
        for (int i = 0; i < n; ++i) row[i] = initial;
      }(Statistics::initial),
      ...);
}

/// What a chunk without a query leaves: that there was none so far, or 0 of all queries before for the tokens behind
/// them.
template <class... Statistics>
inline void leave_unqueried(statistics<Statistics...>, row_positions const& positions, int n, window_place const& place,
                            bool continues, int group, float* out) {
  constexpr int width = static_cast<int>(sizeof...(Statistics));
  [[maybe_unused]] bool const begun = continues && window_begun(positions, n, place, out, width * group);
  [[maybe_unused]] int const age = place.end - place.first;
  float const unseen[width + 1] = {
      (age < horizon<Statistics>() ? Statistics::fold(Statistics::initial, 0.0f, age) : Statistics::initial)...};
  for (int slot = 0; slot < n; ++slot) {
    if (continues && positions.at(slot) < place.first) continue;
    for (int i = 0; i < width * group; ++i)
      store_or_mark(begun, unseen[i / group], out + std::ptrdiff_t{slot} * width * group + i);
  }
}

/// A row and the chunk of its window, with what all its queries share: in code for one instruction set.
template <class Isa, class List, class Cache, class Query, log_base Base>
struct row_observation {
  Cache const& cache;
  row_index at;
  int n;
  row_positions const& positions;
  observation<Query, Base> const& window;
  observe_scratch const& scratch;
  float* out;  // [slot][List][group]
  window_place place;
  softmax_rule rule = softmax_rule_of(window, cache, at);
  visibility seen = find_visibility(positions, n, place.first, scratch.late);
  std::size_t stride = static_cast<std::size_t>(padded<Isa>(n));
  key_vectors<Cache> vectors = cache.keys(at);

  [[nodiscard]] int group() const { return cache.shape().group; }
  [[nodiscard]] int head_dim() const { return cache.shape().key_head_dim; }

  /// Keys of all tokens, side by side as the logits want them, and as large as their tokens' scales make them.
  [[gnu::always_inline]] void pack_keys() const {
    auto const keys = reinterpret_cast<key_element<Cache> const**>(scratch.keys);
    for (int slot = 0; slot < n; ++slot) keys[slot] = vectors.at(slot);
    kernels<Isa>::pack(keys, n, head_dim(), scratch.packed);
    if constexpr (is_scaled_by_token<key_vectors<Cache>>()) {
      for (int slot = 0; slot < n; ++slot) scratch.logits[slot] = vectors.scale(slot);
      kernels<Isa>::scale_packed(scratch.logits, n, head_dim(), scratch.packed);
    }
  }

  /// Statistics of query head j, 0 <= j < group; `begun`: onto those that earlier chunks left.
  [[gnu::always_inline]] bool observe_head(int j, bool begun) const {
    begin_folds(List{}, scratch.folds, stride, n);
    if (begun) go_on(j);
    bool sound = true;
    for (int first = 0; first < place.count; first += query_block)
      sound &= fold_queries(j, first, std::min(query_block, place.count - first));
    for (int i = 0; i < n; ++i)
      for (int s = 0; s < List::size; ++s) statistic(i, s, j) = fold(i, s);
    return sound;
  }

 private:
  [[nodiscard]] float& statistic(int slot, int s, int j) const {
    return out[(static_cast<std::ptrdiff_t>(slot) * List::size + s) * group() + j];
  }
  [[nodiscard]] float& fold(int slot, int s) const {
    return scratch.folds[static_cast<std::size_t>(s) * stride + static_cast<std::size_t>(slot)];
  }
  [[nodiscard]] float* logits(int r) const { return scratch.logits + static_cast<std::size_t>(r) * stride; }
  [[nodiscard]] float const* sink_of(int head) const {
    if (window.sink_logits == nullptr) return nullptr;
    cache_shape const& shape = cache.shape();
    return window.sink_logits + static_cast<std::ptrdiff_t>(at.layer) * shape.num_kv_heads * shape.group + head;
  }

  /// A token that comes after all earlier queries got 0 from them, and nobody may have written that down.
  [[gnu::always_inline]] void go_on(int j) const {
    std::fill_n(scratch.logits, n, 0.0f);
    fold_all(List{}, scratch.folds, scratch.logits, stride, 1, n, place.end - place.first);
    for (int i = 0; i < n; ++i)
      for (int s = 0; s < List::size && positions.at(i) < place.first; ++s) fold(i, s) = statistic(i, s, j);
  }

  /// Queries [first, first + count) of one query head, together, since they read the same keys.
  [[gnu::always_inline]] bool fold_queries(int j, int first, int count) const {
    int const head = at.kv_head * group() + j;
    int const reach = seen.prefix ? visible_prefix(positions, n, place.first + first + count - 1) : n;
    kernels<Isa>::logits(side_by_side(head, first, count), count, head_dim(), scratch.packed, reach, scratch.logits,
                         stride);
    bool sound = true;
    for (int r = 0; r < count; r += folded_together) {
      int const together = std::min(folded_together, count - r), oldest = place.first + first + r;
      for (int i = 0; i < together; ++i) sound &= normalise(logits(r + i), head, first + r + i, reach);
      fold_all(List{}, scratch.folds, logits(r), stride, together, n, place.end - 1 - oldest);
    }
    return sound;
  }

  /// Queries as floats, one behind the other: where they stand, if they stand so.
  [[gnu::always_inline]] float const* side_by_side(int head, int first, int count) const {
    if constexpr (std::same_as<Query, float>)
      if (count == 1 || window.query(at, head, first + 1) - window.query(at, head, first) == head_dim())
        return window.query(at, head, first);
    for (int r = 0; r < count; ++r)
      kernels<Isa>::widen(window.query(at, head, first + r), head_dim(),
                          scratch.queries + static_cast<std::ptrdiff_t>(r) * head_dim());
    return scratch.queries;
  }

  /// Logits of a query to probabilities, 0 for what it does not see.
  [[gnu::always_inline]] bool normalise(float* x, int head, int query, int reach) const {
    int const visible = weigh(x, reach, place.first + query);
    float lse2 = 0.0f;
    if (window.lse != nullptr) {
      float const given = window.log_sum_exp(at, head, query);
      lse2 = is_finite(given) && Base == log_base::natural ? given * log2_e : given;
    }
    bool const sound = probabilities<Isa>(rule, window.lse == nullptr ? nullptr : &lse2, sink_of(head), x, visible);
    std::fill(x + visible, x + n, 0.0f);
    return sound;
  }

  /// Scales and caps the logits of a query and hides what it does not see: the first so many entries are its own.
  [[gnu::always_inline]] int weigh(float* x, int reach, int position) const {
    int const visible = seen.prefix ? visible_prefix(positions, reach, position) : n;
    if (rule.soft_cap > 0.0f) cap_logits<Isa>(rule, x, visible);
    if (seen.prefix) return visible;
    int hidden = 0;
    for (int i = 0; i < seen.num_late; ++i) {
      int const where = positions.at(scratch.late[i]);
      if (where >= 0 && where <= position) continue;
      x[scratch.late[i]] = lowest_float;
      ++hidden;
    }
    return hidden == n ? 0 : visible;
  }
};

/// Observes the window of one row into out[slot][List][group], in code for one instruction set; see observe_row.
template <class Isa, class List, class Cache, class Query, log_base Base>
[[gnu::always_inline]] inline bool observe_row_with(Cache const& cache, row_index at, int n,
                                                    row_positions const& positions,
                                                    observation<Query, Base> const& window,
                                                    observe_scratch const& scratch, float* out) {
  int const group = cache.shape().group;
  window_place const place = place_window(window, at.sequence, positions.end(n));
  if (place.count == 0) leave_unqueried(List{}, positions, n, place, window.continues, group, out);
  if (place.count == 0 || n == 0) return true;
  bool const begun = window.continues && window_begun(positions, n, place, out, List::size * group);
  row_observation<Isa, List, Cache, Query, Base> const row{cache, at, n, positions, window, scratch, out, place};
  row.pack_keys();
  bool sound = true;
  for (int j = 0; j < group; ++j) sound &= row.observe_head(j, begun);
  return sound;
}

/// Observes the window of one row into out[slot][List][group]. False where a query has a log-sum-exp that is no number.
template <class List, class Cache, class Query, log_base Base>
[[gnu::noinline]] bool observe_row(Cache const& cache, row_index at, int n, row_positions const& positions,
                                   observation<Query, Base> const& window, observe_scratch const& scratch, float* out) {
  return with_best_isa([&](auto isa) __attribute__((always_inline)) {
    return observe_row_with<decltype(isa), List>(cache, at, n, positions, window, scratch, out);
  });
}

/// One carried statistic of one row: out[slot * width] [j] = carry(old, now).
template <class Statistic, class WindowList>
void carry_column(int n, int group, float const* observed, row_carried const& old, int place, float* out) {
  int const fed = WindowList::template index<typename Statistic::window>();
  for (int slot = 0; slot < n; ++slot) {
    float const* const now = observed + (static_cast<std::ptrdiff_t>(slot) * WindowList::size + fed) * group;
    auto const at = static_cast<std::ptrdiff_t>(slot) * old.width + place * group;
    for (int j = 0; j < group; ++j)
      out[at + j] = Statistic::carry(slot < old.stored ? old.values[at + j] : 0.0f, now[j]);
  }
}

/// Carried statistics of a row after a window: out[slot][Carried][group]. Tokens that the state has not seen start
/// from zero. `out` may be where the old values stand.
template <class WindowList, class... Carried>
void carry_row(statistics<Carried...>, int n, int group, float const* observed, row_carried const& old, float* out) {
  int place = 0;
  (carry_column<Carried, WindowList>(n, group, observed, old, place++, out), ...);
}

}  // namespace foresightkv::inline v0::detail::host
