// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/policy.hpp>

namespace foresightkv::inline v0::detail {

// Tokens that go from one cache to another: see moving_batch.

/// In place of a target: tokens stay in their cache.
struct in_place {};
template <class Target>
inline constexpr bool is_in_place = std::same_as<Target, in_place>;

template <class Cache>
inline constexpr bool has_column = requires(Cache const cache) {
  cache.column(row_index{});
};
template <class Cache>
inline constexpr bool has_wide_column = has_column<Cache>&& requires(Cache const cache) {
  { cache.column_width } -> std::convertible_to<int>;
};
template <class Cache>
FORESIGHTKV_HOST_DEVICE constexpr bool values_in_keys() {
  if constexpr (requires { Cache::values_in_keys; }) return Cache::values_in_keys;
  return false;
}

/// Addresses of token scales.
template <class Vectors>
struct scale_place {
  Vectors vectors;
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const {
    return reinterpret_cast<std::byte*>(vectors.scale_at(slot));
  }
};
template <class Vectors>
inline constexpr bool has_scale_at = requires(Vectors const vectors) {
  { vectors.scale_at(0) } -> std::same_as<float*>;
};

/// Whether bytes of one row's vectors are right for another's, if their row scales are equal.
template <class From, class To>
FORESIGHTKV_HOST_DEVICE constexpr bool are_alike() {
  if constexpr (!std::same_as<typename From::element_type, typename To::element_type>) return false;
  if constexpr (is_scaled_by_token<From>() != is_scaled_by_token<To>()) return false;
  return !is_scaled_by_token<From>() || (has_scale_at<From> && has_scale_at<To>);
}
template <class From, class To>
FORESIGHTKV_HOST_DEVICE bool same_row_scale(From const& from, To const& to) {
  return float_bits(row_scale(from)) == float_bits(row_scale(to));
}

/// copy(from place, to place, bytes of a token), or convert(from, to, elements of a token).
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // what is called is for the side that calls
#endif
template <class From, class To, class Copy, class Convert>
FORESIGHTKV_HOST_DEVICE void visit_vectors(From const& from, To const& to, int dim, Copy const& copy,
                                           Convert const& convert) {
  if constexpr (are_alike<From, To>()) {
    if (same_row_scale(from, to)) {
      copy(place_of(from), place_of(to), static_cast<int>(sizeof(typename To::element_type)) * dim);
      if constexpr (is_scaled_by_token<To>())
        copy(scale_place<From>{from}, scale_place<To>{to}, static_cast<int>(sizeof(float)));
      return;
    }
  }
  // Of alike ones with a scale per token none come here.
  if constexpr (!are_alike<From, To>() || !is_scaled_by_token<To>()) convert(from, to, dim);
}

/// The same for all that moves with a token of a row. Between caches of one type bytes move part by part, as their type
/// says, unless the rows have scales that differ.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // what is called is for the side that calls
#endif
template <class Source, class Target, class Copy, class Convert>
FORESIGHTKV_HOST_DEVICE void visit_parts(Source const& source, Target const& target, row_index at, Copy const& copy,
                                         Convert const& convert) {
  cache_shape const& shape = target.shape();
  constexpr bool same = std::same_as<Source, Target>;
  if constexpr (same) {
    if (same_row_scale(source.keys(at), target.keys(at)) && same_row_scale(source.values(at), target.values(at))) {
      for (int part = 0; part < num_parts(target); ++part)
        copy(part_place(source, at, part), part_place(target, at, part), part_bytes(target, part));
      return;
    }
  }
  // Row scales that are no constants may differ.
  constexpr bool can_differ = !(is_unscaled<key_vectors<Target>>() || is_scaled_by_token<key_vectors<Target>>()) ||
                              !(is_unscaled<value_vectors<Target>>() || is_scaled_by_token<value_vectors<Target>>());
  if constexpr (!same || can_differ) {
    visit_vectors(source.keys(at), target.keys(at), shape.key_head_dim, copy, convert);
    if constexpr (!values_in_keys<Target>())
      visit_vectors(source.values(at), target.values(at), shape.value_head_dim, copy, convert);
    if constexpr (has_wide_column<Source> && has_wide_column<Target>)
      copy(place_of(source.column(at)), place_of(target.column(at)),
           static_cast<int>(sizeof(float)) * target.column_width);
  }
}

/// What a token's elements are divided by if its largest finite magnitude has these bits. Never so small that a
/// processor might take it for zero.
template <class Element>
FORESIGHTKV_HOST_DEVICE float scale_for(std::uint32_t magnitude) {
  return larger(bits_float(magnitude) / element_traits<typename layout_of<Element>::type>::largest, 0x1p-126f);
}

/// Stores a token of one cache in another. Lanes share its elements: see one_lane.
template <class Lanes, class From, class To>
FORESIGHTKV_HOST_DEVICE void convert_token(Lanes const& lanes, From const& from, int source, To const& to, int slot,
                                           int dim) {
  using element_type = typename To::element_type;
  typename From::element_type const* const stored = from.at(source);
  element_type* const out = to.at(slot);
  float const factor = from.scale(source);
  auto const element = [&](int d) { return to_float(stored[d]) * factor; };
  float divisor = row_scale(to);
  if constexpr (is_scaled_by_token<To>()) {
    std::int32_t most = 0;  // signed: there is a vector instruction for that
    for (int d = lanes.rank(); d < dim; d += lanes.width()) {
      auto const magnitude = static_cast<std::int32_t>(float_bits(element(d)) & 0x7fffffffu);
      std::int32_t const finite = magnitude < static_cast<std::int32_t>(float_infinity_bits) ? magnitude : 0;
      most = finite > most ? finite : most;
    }
    divisor = scale_for<element_type>(lanes.max(static_cast<std::uint32_t>(most)));
    if (lanes.rank() == 0) *to.scale_at(slot) = divisor;
  }
  for (int d = lanes.rank(); d < dim; d += lanes.width())
    out[d] = element_traits<element_type>::store(element(d) / divisor);
}

/// Whether a row's vectors can be made of another's.
template <class From, class To>
constexpr bool can_be_made() {
  if constexpr (are_alike<From, To>() || !is_scaled_by_token<To>())
    return true;
  else
    return has_scale_at<To> && requires {
      { element_traits<typename layout_of<typename To::element_type>::type>::largest } -> std::convertible_to<float>;
    };
}

/// Whether what a policy keeps of one cache can go to another.
template <class Policy, class Cache, class Target>
constexpr bool check_target_type() {
  if constexpr (check_cache<Cache>() && check_policy_on_cache<Policy, Target>()) {
    constexpr bool moves = Policy::compaction_type::moves_tokens;
    static_assert(moves,
                  "foresightkv: slot_list leaves tokens where they are: what goes to another cache takes ordered or "
                  "fill_holes");
    constexpr bool finer = static_cast<int>(Target::domain) >= static_cast<int>(Cache::domain);
    static_assert(finer, "foresightkv: rows of the target share a length that rows of the cache do not share");
    constexpr bool same = std::same_as<Cache, Target>;
    constexpr bool made = same || (can_be_made<key_vectors<Cache>, key_vectors<Target>>() &&
                                   can_be_made<value_vectors<Cache>, value_vectors<Target>>());
    static_assert(made,
                  "foresightkv: a target with a scale per token says where it stands, float* scale_at(slot), and what "
                  "its element type can hold, element_traits::largest");
    constexpr bool columns = same || !has_column<Target> || (has_wide_column<Cache> && has_wide_column<Target>);
    static_assert(columns, "foresightkv: a target with a column takes it from a cache that has one too");
    constexpr bool values = !values_in_keys<Target>() || values_in_keys<Cache>();
    static_assert(values, "foresightkv: values that are no part of their keys cannot go where they are one");
    return moves && finer && made && columns && values;
  } else {
    return false;
  }
}

/// What the host sees of a target.
template <class Cache, class Target>
status check_target(Cache const& cache, Target const& target) {
  cache_shape const& from = cache.shape();
  cache_shape const& to = target.shape();
  bool const agree = from.num_layers == to.num_layers && from.num_sequences == to.num_sequences &&
                     from.num_kv_heads == to.num_kv_heads && from.group == to.group &&
                     from.key_head_dim == to.key_head_dim && from.value_head_dim == to.value_head_dim;
  bool columns = true, apart = true;
  if constexpr (has_wide_column<Cache> && has_wide_column<Target>) columns = cache.column_width == target.column_width;
  if constexpr (requires { cache.extent(true).overlaps(target.extent(true)); })
    for (int pair = 0; pair < 4; ++pair)
      apart = apart && !cache.extent(pair % 2 != 0).overlaps(target.extent(pair / 2 != 0));
  return first_error([&] { return target.check().at(argument::target); },
                     [&] { return check_that(agree, errc::invalid_shape, argument::target); },
                     [&] { return check_that(columns, errc::invalid_shape, argument::column); },
                     [&] { return check_that(apart, errc::overlap, argument::target); });
}

}  // namespace foresightkv::inline v0::detail
