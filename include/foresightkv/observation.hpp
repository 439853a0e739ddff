// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/statistics.hpp>

namespace foresightkv::inline v0 {

/// Base of a log-sum-exp: FlashAttention hands over natural logarithms, FlashInfer base 2 (m + log2 d).
enum class log_base : int { natural, two };

/// Distances in elements between neighbours of the window's queries (or of their log-sum-exps).
struct query_strides {
  std::int64_t layer = 0;
  std::int64_t sequence = 0;
  std::int64_t head = 0;   ///< query heads: kv_head * group + j
  std::int64_t token = 0;  ///< queries, oldest first

  /// [layer][sequence][query head][query][dim]
  [[nodiscard]] static constexpr query_strides hnd(cache_shape const& shape, int max_queries, int dim) {
    query_strides strides;
    strides.token = dim;
    strides.head = strides.token * max_queries;
    strides.sequence = strides.head * shape.num_kv_heads * shape.group;
    strides.layer = strides.sequence * shape.num_sequences;
    return strides;
  }
  /// [layer][sequence][query][query head][dim]
  [[nodiscard]] static constexpr query_strides nhd(cache_shape const& shape, int max_queries, int dim) {
    query_strides strides;
    strides.head = dim;
    strides.token = strides.head * shape.num_kv_heads * shape.group;
    strides.sequence = strides.token * max_queries;
    strides.layer = strides.sequence * shape.num_sequences;
    return strides;
  }
};

/// The queries that a call observes, after RoPE, and how their attention is computed.
///
/// Query r of a sequence (0 = oldest) stands at position first_position + r and sees every cached token at that
/// position or before. Its age is window_end - 1 - its position: a window may be handed over in chunks.
/// Probabilities are softmax(soft_cap(query . key * softmax_scale)) over the tokens it sees (and the sink logit).
/// With a log-sum-exp that is one pass. A query whose log-sum-exp is not finite is masked: it gives every token 0.
/// The arrays indexed by sequence are indexed by slot, not by place in the call's list.
template <element Query, log_base Base = log_base::natural>
struct observation {
  using element_type = Query;
  static constexpr log_base base = Base;

  Query const* queries = nullptr;
  query_strides strides{};
  int max_queries = 0;         ///< most queries that any visited sequence hands over
  float softmax_scale = 0.0f;  ///< 0: 1 / sqrt(key_head_dim)
  float soft_cap = 0.0f;       ///< 0: none; else logit = soft_cap * tanh(logit / soft_cap)
  float const* lse = nullptr;  ///< log-sum-exp of each query's scaled logits; null: computed
  query_strides lse_strides{};
  float const* sink_logits = nullptr;         ///< [layer][query head]: one more term of the denominator
  std::int32_t const* query_count = nullptr;  ///< [sequence]; null: max_queries, or by query_starts
  /// [num_sequences + 1] queries of all sequences stand one behind the other, those of a sequence from
  /// query_starts[sequence] on; null: they stand apart. See packed
  std::int32_t const* query_starts = nullptr;
  std::int32_t const* window_end =
      nullptr;  ///< [sequence] one past the window's newest position; null: one past the newest token
  std::int32_t const* first_position =
      nullptr;             ///< [sequence] of query 0; null: window_end - query_count. Below 0 beside window_end alone
  bool continues = false;  ///< a later chunk of a window, for `observe` alone: folds onto what `out` holds

  /// Queries as [layer][sequence][query head][max_queries][key_head_dim].
  [[nodiscard]] static constexpr observation hnd(Query const* queries, cache_shape const& shape, int max_queries) {
    observation window;
    window.queries = queries;
    window.strides = query_strides::hnd(shape, max_queries, shape.key_head_dim);
    window.lse_strides = query_strides::hnd(shape, max_queries, 1);
    window.max_queries = max_queries;
    return window;
  }
  /// Queries as [layer][sequence][max_queries][query head][key_head_dim].
  [[nodiscard]] static constexpr observation nhd(Query const* queries, cache_shape const& shape, int max_queries) {
    observation window;
    window.queries = queries;
    window.strides = query_strides::nhd(shape, max_queries, shape.key_head_dim);
    window.lse_strides = query_strides::nhd(shape, max_queries, 1);
    window.max_queries = max_queries;
    return window;
  }

  /// Queries as [layer][total_queries][query head][key_head_dim], those of sequence slot s in [starts[s], starts[s + 1]),
  /// as variable-length attention has them (cu_seqlens, qo_indptr). With query_count beside them starts[s] alone is read:
  /// batches in another order than slots need no repacking. Starts beyond total_queries are not seen.
  [[nodiscard]] static constexpr observation packed(Query const* queries, std::int32_t const* starts,
                                                    cache_shape const& shape, int total_queries, int max_queries) {
    observation window = nhd(queries, shape, max_queries);
    window.strides.sequence = 0;
    window.strides.layer = window.strides.token * total_queries;
    window.lse_strides.sequence = 0;
    window.lse_strides.layer = window.lse_strides.token * total_queries;
    window.query_starts = starts;
    return window;
  }

  /// The same window with its log-sum-exps, laid out like the queries without the last extent.
  [[nodiscard]] constexpr observation with_lse(float const* values) const {
    observation window = *this;
    window.lse = values;
    return window;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr Query const* query(row_index at, int query_head, int r) const {
    return query(queries_of(at), query_head, r);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float log_sum_exp(row_index at, int query_head, int r) const {
    return lse[start(at, lse_strides) + query_head * lse_strides.head + r * lse_strides.token];
  }

  /// Query 0 of query head 0, for who asks for many of a sequence's: query(queries_of(row), query_head, r).
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr Query const* queries_of(row_index at) const {
    return queries + start(at, strides);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr Query const* query(Query const* of_row, int query_head, int r) const {
    return of_row + query_head * strides.head + r * strides.token;
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t start(row_index at, query_strides const& by) const {
    std::int64_t const first = query_starts == nullptr ? 0 : query_starts[at.sequence];
    return at.layer * by.layer + at.sequence * by.sequence + first * by.token;
  }
};

/// Statistics that were observed before: by `observe`, in chunks, or by an engine's own attention kernel.
template <class List>
struct observed {
  statistics_view<List> statistics;
};

namespace detail {

template <class Window>
inline constexpr bool is_observation = false;
template <class Query, log_base Base>
inline constexpr bool is_observation<observation<Query, Base>> = true;
template <class Window>
inline constexpr bool is_observed = false;
template <class List>
inline constexpr bool is_observed<observed<List>> = true;

template <class Query, log_base Base>
status check_window(observation<Query, Base> const& window) {
  // Their bits: -ffast-math knows neither NaN nor infinity.
  auto const usable = [](float factor) {
    return factor >= 0.0f && (float_bits(factor) & 0x7fffffffu) < float_infinity_bits;
  };
  bool const sound = window.max_queries >= 0 && usable(window.softmax_scale) && usable(window.soft_cap);
  bool const present = window.max_queries <= 0 || window.queries != nullptr;
  return first_of(check_that(sound, errc::invalid_shape, argument::window),
                  check_that(present, errc::null_pointer, argument::queries),
                  check_aligned(window.queries).at(argument::queries),
                  check_aligned(window.lse, window.sink_logits, window.query_count, window.query_starts,
                                window.window_end, window.first_position)
                      .at(argument::window));
}

template <class List>
status check_window(observed<List> const& window) {
  return first_of(check_that(window.statistics.capacity >= 0, errc::invalid_shape),
                  check_that(List::size == 0 || window.statistics.data != nullptr, errc::null_pointer),
                  check_aligned(window.statistics.data))
      .at(argument::statistics);
}

}  // namespace detail

/// What a verb can take as its window: queries to observe, or statistics observed before.
template <class Window>
concept observation_window = detail::is_observation<Window> || detail::is_observed<Window>;

}  // namespace foresightkv::inline v0
