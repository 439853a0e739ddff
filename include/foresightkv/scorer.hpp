// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/statistics.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

namespace detail::archetype {

/// What a pointwise scorer may ask of the lanes that share a token: one lane on the host, a warp on a device.
struct lanes {
  template <class Term>
  float sum(int count, Term const& term) const {
    return count > 0 ? term(0) : 0.0f;
  }
  template <class Term>
  float max(int count, Term const& term) const {
    return count > 0 ? term(0) : 0.0f;
  }
  /// Writes a value that every lane has: one of them does.
  void store(float& target, float value) const { target = value; }
};

/// What a scorer may ask of one cached token.
struct token {
  float key(int dim) const;
  float value(int dim) const;
  float column(int i) const;  // of a cache with_column
  int key_head_dim() const;
  int value_head_dim() const;
  int group() const;
  int slot() const;
  int position() const;
  int next_position() const;  // one past the newest token's position
  int layer() const;          // of the model
  int kv_head() const;        // of the model
  int model_kv_heads() const;
  std::uint32_t request_id() const;
  std::uint32_t step() const;  // evictions of this row so far
  template <class Statistic>
  float statistic(Statistic, int j) const {
    return static_cast<float>(j);
  }
  template <class Statistic>
  float mean(Statistic) const {
    return 0.0f;
  }
};

/// What a row scorer may ask of one row. `candidate` is false for protected tokens and empty slots.
struct row {
  int length() const;
  int key_head_dim() const;
  int value_head_dim() const;
  int group() const;
  int position(int slot) const;
  int next_position() const;
  int layer() const;
  int kv_head() const;
  bool candidate(int slot) const;
  bool occupied(int slot) const;
  archetype::token token(int slot) const;
  float key(int slot, int dim) const;
  float value(int slot, int dim) const;
  float column(int slot, int i) const;  // of a cache with_column
  int num_queries() const;
  int query_position(int r) const;
  float query(int r, int j, int dim) const;
  bool masked(int r, int j) const;  // the query's log-sum-exp is given and not finite
  float softmax_scale() const;
  float soft_cap() const;           // 0: none
  float* scratch(int index) const;  // as long as the row, or a head's dimensions where those are more
  row with_scratch(int first) const;
};

/// What a row scorer may ask of the threads that share a row. Every call is made by all of them and ends with a
/// barrier; results reach all of them.
struct block {
  template <class Body>
  void for_each(int count, Body const& body) const {
    if (count > 0) body(0);
  }
  template <class Body>
  void for_each_token(int count, Body const& body) const {
    if (count > 0) body(archetype::lanes{}, 0);
  }
  template <class Term>
  float sum(int count, Term const& term) const {
    return count > 0 ? term(0) : 0.0f;
  }
  template <class Term>
  float max(int count, Term const& term) const {
    return count > 0 ? term(0) : 0.0f;
  }
};

}  // namespace detail::archetype

/// A scorer that sees one token at a time:
///   reads                    statistics<...> that it reads: only those are ever computed
///   operator()(lanes, token) its score; higher = keep. Reductions over dimensions go through lanes.sum / lanes.max
template <class Scorer>
concept pointwise_scorer = requires(Scorer const scorer, detail::archetype::lanes const lanes,
                                    detail::archetype::token const token) {
  typename Scorer::reads;
  { scorer(lanes, token) } -> std::same_as<float>;
};

/// However many queries a window has.
inline constexpr int all_queries = 0x7fffffff;

/// A scorer that sees a whole row:
///   reads                              as above
///   needs_time_order                   true if neighbouring slots must be neighbours in time: then slots ascend in
///                                      position and none is empty
///   newest_queries                     (optional) how many of the window's newest queries it reads: all_queries, or fewer
///   scratch_rows                       rows of floats that it borrows through row.scratch(index)
///   operator()(block, row, scores)     writes scores[0, row.length())
template <class Scorer>
concept row_scorer = requires(Scorer const scorer, detail::archetype::block const block,
                              detail::archetype::row const row, float* scores) {
  typename Scorer::reads;
  { Scorer::needs_time_order } -> std::convertible_to<bool>;
  { Scorer::scratch_rows } -> std::convertible_to<int>;
  { scorer(block, row, scores) } -> std::same_as<void>;
};

/// Either kind may also have, and combinators hand on to what they combine:
///   check(shape)         (optional) a status: what the host can see to be wrong with it for a cache of this shape
///   covers(model_layer)  (optional) whether it has what a layer of the model needs, such as a judge
template <class Type>
concept scorer = std::is_trivially_copyable_v<Type> &&(pointwise_scorer<Type> || row_scorer<Type>);

namespace detail {

template <class Type>
inline constexpr bool is_statistics = false;
template <class... Statistics>
inline constexpr bool is_statistics<statistics<Statistics...>> = true;

template <class Scorer>
constexpr bool check_scorer() {
  constexpr bool has_reads = requires { typename Scorer::reads; };
  static_assert(has_reads, "foresightkv: a scorer must name what it reads: using reads = statistics<...>");
  if constexpr (has_reads) {
    static_assert(is_statistics<typename Scorer::reads>, "foresightkv: a scorer's `reads` must be a statistics<...>");
    static_assert(std::is_trivially_copyable_v<Scorer>, "foresightkv: a scorer must be trivially copyable");
    static_assert(pointwise_scorer<Scorer> || row_scorer<Scorer>,
                  "foresightkv: a scorer must have float operator()(lanes, token) const, or needs_time_order, "
                  "scratch_rows and void operator()(block, row, float* scores) const");
    return is_statistics<typename Scorer::reads> && scorer<Scorer>;
  } else {
    return false;
  }
}

template <class Scorer>
struct reads_from {
  using type = statistics<>;
};
template <class Scorer>
requires requires { typename Scorer::reads; }
struct reads_from<Scorer> {
  using type = typename Scorer::reads;
};
/// A scorer's reads, or none: a broken scorer then fails with one sentence instead of a cascade.
template <class Scorer>
using reads_of = typename reads_from<Scorer>::type;

template <class Scorer>
constexpr bool needs_time_order() {
  if constexpr (requires { Scorer::needs_time_order; }) return Scorer::needs_time_order;
  return false;
}

/// Queries that a scorer reads itself (R-KV, SnapKV), beside its statistics of the window.
template <class Scorer>
constexpr int newest_queries() {
  if constexpr (requires { Scorer::newest_queries; }) return Scorer::newest_queries;
  return 0;
}
template <class Scorer>
constexpr bool needs_queries() {
  return newest_queries<Scorer>() > 0;
}

template <class Scorer>
FORESIGHTKV_HOST_DEVICE constexpr int scratch_rows() {
  if constexpr (requires { Scorer::scratch_rows; }) return Scorer::scratch_rows;
  return 0;
}

/// Asks a part of a policy about the cache's extents, where it has an opinion.
template <class Part>
status check_part(Part const& part, cache_shape const& shape) {
  if constexpr (requires { part.check(shape); }) return part.check(shape);
  return {};
}

/// Whether a scorer has what it needs for a layer of the model.
template <class Scorer>
FORESIGHTKV_HOST_DEVICE constexpr bool covers_layer(Scorer const& scorer, int model_layer) {
  if constexpr (requires { scorer.covers(model_layer); }) return scorer.covers(model_layer);
  return true;
}

/// Scores a row with a scorer of either kind: the one place where combinators meet what they combine. Inlined into the
/// caller so that the host's code is compiled for the instruction set that the caller was entered for.
// The host's blocks are host code: nvcc need not warn of them, a kernel never gets one.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Scorer, class Block, class Row>
[[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE inline void evaluate(Scorer const& scorer, Block const& block,
                                                                    Row const& row, float* scores) {
  if constexpr (requires { bulk_score(scorer, block, row, scores); }) {
    bulk_score(scorer, block, row, scores);  // a backend's own form, found in the block's namespace
  } else if constexpr (pointwise_scorer<Scorer>) {
    block.for_each_token(
        row.length(), [&](auto const& lanes, int slot) { lanes.store(scores[slot], scorer(lanes, row.token(slot))); });
  } else {
    scorer(block, row, scores);
  }
}

}  // namespace detail

}  // namespace foresightkv::inline v0
