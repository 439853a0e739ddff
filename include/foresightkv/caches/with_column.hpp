// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/layout.hpp>
#include <foresightkv/layouts/strided.hpp>
#include <foresightkv/storages/plain.hpp>

namespace foresightkv::inline v0 {

/// A cache with values of the engine's own beside each token: what the model writes when a token is created (a gate per KV
/// head, or per query head; the number of a sentence) and a scorer reads as token.column(i). They move with their token,
/// as its key and its value do, and like those they are the engine's to write, to fork and to save.
/// \tparam Cache   any cache
/// \tparam Layout  of the column; see with_column
template <kv_cache Cache, token_layout Layout = cache_strides>
struct column_cache : Cache {
  using map_type = decltype(std::declval<Layout const&>().map(row_index{}));
  using place_type = detail::either_place<decltype(detail::part_place(std::declval<Cache const&>(), row_index{}, 0)),
                                          token_place<map_type>>;

  float* column_data = nullptr;
  Layout column_layout{};
  int column_width = 0;  ///< floats of a token and KV head

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr laid_out_vectors<plain<float>, map_type> column(row_index at) const {
    return {column_data + column_layout.of(at), column_layout.map(at), {}};
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int num_parts() const { return detail::num_parts(cache()) + 1; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int part_bytes(int index) const {
    if (index < detail::num_parts(cache())) return detail::part_bytes(cache(), index);
    return column_width * static_cast<int>(sizeof(float));
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE place_type part(row_index at, int index) const {
    bool const own = index < detail::num_parts(cache());
    return {detail::part_place(cache(), at, own ? index : 0), column(at).place(), own};
  }

  // What Cache has of these gives a Cache back, without its column: they come before with_column.
  template <class... Argument>
  void with_scales(Argument const&...) const = delete;
  template <class... Argument>
  void with_key_scales(Argument const&...) const = delete;
  template <class... Argument>
  void with_value_scales(Argument const&...) const = delete;
  template <class... Argument>
  void with_layers(Argument const&...) const = delete;
  template <class... Argument>
  void with_owners(Argument const&...) const = delete;

  [[nodiscard]] status check() const {
    return detail::first_of(Cache::check(), detail::check_that(column_width > 0, errc::invalid_shape, argument::column),
                            detail::check_buffer(column_data).at(argument::column),
                            column_layout.check(this->shape(), column_width, false).at(argument::column));
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE Cache const& cache() const { return *this; }
};

/// The cache with `width` floats to a token and KV head: with_column(cache, gates, 1, cache_strides::hnd(shape, 1)), or of
/// pages with_column(pages, gates, 1, paged_layout<16>{page_strides::nhd(shape, num_pages, 16, 1), table}).
/// \param values  memory of the backend
/// \param layout  where they stand, as tokens of `width` elements
template <kv_cache Cache, token_layout Layout>
[[nodiscard]] constexpr column_cache<Cache, Layout> with_column(Cache const& cache, float* values, int width,
                                                                Layout const& layout) {
  return {cache, values, layout, width};
}

}  // namespace foresightkv::inline v0
