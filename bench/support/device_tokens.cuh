// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>

#include "support/device_timing.cuh"

namespace benchmarks {

// Where the tokens of a model stand on the device, as bench/support/setting.hpp has it on the host.

inline constexpr int page_size = 16;

template <class Storage>
inline constexpr bool is_scaled_by_token = false;
template <class Element>
inline constexpr bool is_scaled_by_token<fkv::scaled_by_token<Element>> = true;

/// Bytes of an element in memory, with its part of a token's scale.
template <class Storage>
inline constexpr double stored_bytes = is_scaled_by_token<Storage> ? 1.0 + 4.0 / 128 : sizeof(Storage);

/// Keys and values, and scales where a storage has them.
template <class Cache>
class device_tokens {
  using element_type = typename Cache::key_element;
  static constexpr bool has_scales = Cache::key_storage::token_bytes > 0;

 public:
  using cache_type = Cache;

  explicit device_tokens(fkv::cache_shape const& shape)
      : keys_(slots(shape) * static_cast<std::size_t>(shape.key_head_dim)),
        values_(Cache::values_in_keys ? 0 : slots(shape) * static_cast<std::size_t>(shape.value_head_dim)),
        key_scales_(std::vector<float>(has_scales ? slots(shape) : 0, 0.02f)),
        value_scales_(std::vector<float>(has_scales ? slots(shape) : 0, 0.02f)) {
    keys_.fill_normal();
    values_.fill_normal();
  }

 protected:
  [[nodiscard]] element_type* keys() const { return keys_.data(); }
  [[nodiscard]] element_type* values() const { return values_.data(); }
  [[nodiscard]] Cache scaled(Cache const& cache) const {
    if constexpr (has_scales)
      return cache.with_scales(key_scales_.data(), value_scales_.data());
    else
      return cache;
  }

 private:
  static std::size_t slots(fkv::cache_shape const& shape) {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(shape.capacity);
  }

  device_buffer<element_type> keys_, values_;
  device_buffer<float> key_scales_, value_scales_;
};

/// In rows of their own.
template <class Storage>
struct in_rows : device_tokens<fkv::dense_cache<Storage, Storage, fkv::length_domain::sequence, 128>> {
  using base = device_tokens<fkv::dense_cache<Storage, Storage, fkv::length_domain::sequence, 128>>;
  using typename base::cache_type;

  using base::base;
  static void describe(fkv::cache_shape&, row_extents& row) { row.element_bytes = stored_bytes<Storage>; }
  [[nodiscard]] cache_type cache(std::int32_t const* lengths, fkv::cache_shape const& shape) const {
    return this->scaled(cache_type::hnd(this->keys(), this->values(), lengths, shape));
  }
};

/// The same memory in pages, in random order: of all heads, [page][kv_head][token][dim].
template <class Storage>
struct in_pages : device_tokens<fkv::paged_cache<Storage, page_size, Storage, fkv::length_domain::sequence, 128>> {
  using base = device_tokens<fkv::paged_cache<Storage, page_size, Storage, fkv::length_domain::sequence, 128>>;
  using typename base::cache_type;

  explicit in_pages(fkv::cache_shape const& shape) : base(shape), table_(random_table(shape)) {}
  static void describe(fkv::cache_shape&, row_extents& row) { row.element_bytes = stored_bytes<Storage>; }
  [[nodiscard]] cache_type cache(std::int32_t const* lengths, fkv::cache_shape const& shape) const {
    int const pages = static_cast<int>(table_.size());
    auto const table = fkv::page_table::per_sequence(table_.data(), pages / shape.num_sequences, pages);
    return this->scaled(cache_type::hnd(this->keys(), this->values(), {pages}, table, lengths, shape));
  }

 private:
  /// All capacities here are multiples of a page.
  static std::vector<std::int32_t> random_table(fkv::cache_shape const& shape) {
    std::vector<std::int32_t> table(static_cast<std::size_t>(shape.num_sequences * (shape.capacity / page_size)));
    testing::random_source random(3);
    for (std::size_t i = 0; i < table.size(); ++i) {
      auto const other = static_cast<std::size_t>(random.integer(0, static_cast<int>(i)));
      table[i] = table[other];
      table[other] = static_cast<std::int32_t>(i);
    }
    return table;
  }

  device_buffer<std::int32_t> table_;
};

/// Latent rows of one KV head (MLA): of DeepSeek-V2-Lite, 27 layers, 16 query heads, 512 + 64 dimensions.
struct latent_rows : device_tokens<fkv::latent_cache<fkv::bfloat16, fkv::length_domain::sequence, 576>> {
  static constexpr int layers = 27;

  using device_tokens::device_tokens;
  static void describe(fkv::cache_shape& shape, row_extents& row) {
    shape.num_layers = layers;
    shape.num_kv_heads = 1;
    shape.group = 16;
    shape.key_head_dim = 576;
    shape.value_head_dim = 512;
    row.rows = 1.0 * layers * shape.num_sequences;
    row.group = 16;
    row.head_dim = 576;
    row.vectors = 1;
  }
  [[nodiscard]] cache_type cache(std::int32_t const* lengths, fkv::cache_shape const& shape) const {
    return cache_type::latent(keys(), lengths, shape);
  }
};

}  // namespace benchmarks
