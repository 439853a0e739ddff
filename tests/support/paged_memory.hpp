// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <vector>

#include <foresightkv/caches/paged.hpp>

#include "support/harness.hpp"

namespace testing {

/// Whose conventions a pool of pages follows.
enum class paging {
  hnd,
  nhd,
  head_tables,
  row_tables,
  vllm,
  vllm_layers,
  flashinfer_nhd,
  flashinfer_hnd,
  tensorrt_llm
};
inline constexpr std::array all_pagings{
    paging::hnd,         paging::nhd,         paging::head_tables,    paging::row_tables,
    paging::vllm,        paging::vllm_layers, paging::flashinfer_nhd, paging::flashinfer_hnd,
    paging::tensorrt_llm};

/// The memory behind a paged cache: pages in random order, entries that nobody may read, pages that nobody owns. Where
/// a token stands is worked out from the drawings in paged.hpp, not by the library.
template <class Element, int PageSize = 0, fkv::length_domain Domain = fkv::length_domain::sequence>
struct paged_memory {
  using view_type = fkv::paged_cache<Element, PageSize, Element, Domain>;
  static constexpr int spare_pages = 3;
  static constexpr std::int32_t no_page = 0x7f7f7f7f;

  fkv::cache_shape shape{};
  paging kind{};
  int page_size = 0;
  int row_pages = 0;  // of a row as long as the capacity
  int num_pages = 0;
  int max_pages = 0;              // entries of a table
  guarded<Element> keys, values;  // values: none where they share the keys' pool
  guarded<std::int32_t> lengths, tables, starts, last_page_lengths, owners;
  std::vector<int> pages;  // [table][row_pages]
  std::vector<Element*> layer_keys, layer_values;

  paged_memory(random_source& random, fkv::cache_shape const& extents, int tokens, paging wanted)
      : shape(extents),
        kind(wanted),
        page_size(tokens),
        row_pages((extents.capacity + tokens - 1) / tokens),
        num_pages(extents.num_sequences * tables_per_sequence() * row_pages + spare_pages),
        max_pages(row_pages + 2),
        keys(pool_size() * (joint() ? 2 : 1)),
        values(joint() ? 0 : pool_size()),
        lengths(static_cast<std::size_t>(fkv::detail::num_lengths(Domain, extents)), 0),
        starts(static_cast<std::size_t>(extents.num_sequences) + 1),
        last_page_lengths(static_cast<std::size_t>(extents.num_sequences)) {
    random.fill_normal<Element>(keys);
    random.fill_normal<Element>(values);
    std::vector<int> order(static_cast<std::size_t>(num_pages));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
    pages.assign(order.begin(), order.end() - spare_pages);
    publish();
  }

  [[nodiscard]] bool one_head() const { return kind == paging::head_tables || kind == paging::row_tables; }
  [[nodiscard]] bool is_flashinfer() const { return kind == paging::flashinfer_nhd || kind == paging::flashinfer_hnd; }
  [[nodiscard]] bool joint() const {
    return kind == paging::vllm || kind == paging::vllm_layers || is_flashinfer() || kind == paging::tensorrt_llm;
  }
  [[nodiscard]] int tables_per_sequence() const {
    return (one_head() ? shape.num_kv_heads : 1) * (kind == paging::row_tables ? shape.num_layers : 1);
  }
  [[nodiscard]] int table_of(fkv::row_index at) const {
    int const layer = kind == paging::row_tables ? at.layer : 0;
    int const head = one_head() ? at.kv_head : 0;
    return at.sequence * tables_per_sequence() + layer * (one_head() ? shape.num_kv_heads : 1) + head;
  }
  [[nodiscard]] std::size_t pool_size() const {
    int const layers = kind == paging::row_tables ? 1 : shape.num_layers;
    int const heads = one_head() ? 1 : shape.num_kv_heads;
    return static_cast<std::size_t>(layers * num_pages * page_size * heads * shape.key_head_dim);
  }
  [[nodiscard]] int& page(fkv::row_index at, int index) {
    return pages[static_cast<std::size_t>(table_of(at) * row_pages + index)];
  }

  /// Where a token's elements begin.
  [[nodiscard]] Element* token(fkv::row_index at, int slot, bool value) {
    int const which = value ? 1 : 0, heads = shape.num_kv_heads, layers = shape.num_layers;
    int const block = page(at, slot / page_size), inside = slot % page_size;
    int layer = at.layer;
    if (kind == paging::vllm_layers) layer = layers - 1 - layer;  // in reverse order of memory
    int place = 0;
    switch (kind) {
      case paging::hnd:
        place = ((layer * num_pages + block) * heads + at.kv_head) * page_size + inside;
        break;
      case paging::nhd:
        place = ((layer * num_pages + block) * page_size + inside) * heads + at.kv_head;
        break;
      case paging::head_tables:
        place = (layer * num_pages + block) * page_size + inside;
        break;
      case paging::row_tables:
        place = block * page_size + inside;
        break;
      case paging::vllm:
      case paging::vllm_layers:
        place = (((layer * 2 + which) * num_pages + block) * page_size + inside) * heads + at.kv_head;
        break;
      case paging::flashinfer_nhd:
        place = (((layer * num_pages + block) * 2 + which) * page_size + inside) * heads + at.kv_head;
        break;
      case paging::flashinfer_hnd:
        place = (((layer * num_pages + block) * 2 + which) * heads + at.kv_head) * page_size + inside;
        break;
      case paging::tensorrt_llm:
        place = (((block * layers + layer) * 2 + which) * heads + at.kv_head) * page_size + inside;
        break;
    }
    return (value && !joint() ? values : keys).data() + static_cast<std::ptrdiff_t>(place) * shape.key_head_dim;
  }

  /// Writes the tables as the convention has them; lengths are known where it needs them.
  void publish() {
    int const count = shape.num_sequences * tables_per_sequence();
    if (is_flashinfer()) {
      std::vector<std::int32_t> all;
      for (int s = 0; s < shape.num_sequences; ++s) {
        int const length = lengths[static_cast<std::size_t>(s)];
        int const held = (length + page_size - 1) / page_size;
        starts[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(all.size());
        last_page_lengths[static_cast<std::size_t>(s)] = held == 0 ? 0 : length - (held - 1) * page_size;
        for (int i = 0; i < held; ++i) all.push_back(page({0, s, 0}, i));
      }
      starts[static_cast<std::size_t>(shape.num_sequences)] = static_cast<std::int32_t>(all.size());
      tables = guarded<std::int32_t>(std::max<std::size_t>(all.size(), 1));
      std::copy(all.begin(), all.end(), tables.data());
      return;
    }
    int const kinds = kind == paging::tensorrt_llm ? 2 : 1;
    tables = guarded<std::int32_t>(static_cast<std::size_t>(count * kinds * max_pages), no_page);
    for (int table = 0; table < count; ++table) {
      // Rows stand in [sequence][layer][head] order here, tables of rows in [layer][sequence][head] order.
      int const heads = shape.num_kv_heads;
      int const of_row =
          (table / heads % shape.num_layers * shape.num_sequences + table / heads / shape.num_layers) * heads +
          table % heads;
      int const place = kind == paging::row_tables ? of_row : table;
      for (int which = 0; which < kinds; ++which)
        for (int i = 0; i < row_pages; ++i) {
          int const block = pages[static_cast<std::size_t>(table * row_pages + i)];
          tables[static_cast<std::size_t>((place * kinds + which) * max_pages + i)] =
              kinds == 2 ? block * shape.num_layers * 2 + which : block;
        }
    }
  }
  /// An entry of the table of a row, as the library reads it.
  [[nodiscard]] std::int32_t& entry(fkv::row_index at, int index) {
    auto const* const table = view().key_layout.table.of(at);
    return tables[static_cast<std::size_t>(table + index - tables.data())];
  }

  [[nodiscard]] view_type view() {
    using fkv::page_table;
    fkv::page_pool const pool{num_pages, PageSize == 0 ? page_size : 0};
    std::int32_t const* const entries = tables.data();
    auto const made = [&]() -> view_type {
      switch (kind) {
        case paging::hnd:
          return view_type::hnd(keys.data(), values.data(), pool,
                                page_table::per_sequence(entries, max_pages, num_pages), lengths.data(), shape);
        case paging::nhd:
          return view_type::nhd(keys.data(), values.data(), pool,
                                page_table::per_sequence(entries, max_pages, num_pages), lengths.data(), shape);
        case paging::head_tables:
          return view_type::one_head(keys.data(), values.data(), pool,
                                     page_table::per_head(shape, entries, max_pages, num_pages), lengths.data(), shape);
        case paging::row_tables:
          return view_type::one_head(keys.data(), values.data(), pool,
                                     page_table::per_row(shape, entries, max_pages, num_pages), lengths.data(), shape);
        case paging::vllm:
        case paging::vllm_layers:
          return view_type::vllm(keys.data(), pool, entries, max_pages, lengths.data(), shape);
        case paging::flashinfer_nhd:
          return view_type::flashinfer_nhd(keys.data(), pool, entries, starts.data(), last_page_lengths.data(), shape);
        case paging::flashinfer_hnd:
          return view_type::flashinfer_hnd(keys.data(), pool, entries, starts.data(), last_page_lengths.data(), shape);
        case paging::tensorrt_llm:
          break;
      }
      return view_type::tensorrt_llm(keys.data(), pool, entries, max_pages, lengths.data(), shape);
    }();
    auto cache = owners.size() > 0 ? made.with_owners(owners.data()) : made;
    if (kind != paging::vllm_layers) return cache;
    layer_keys.clear();
    layer_values.clear();
    std::ptrdiff_t const half = static_cast<std::ptrdiff_t>(pool_size()) / shape.num_layers;
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      layer_keys.push_back(keys.data() + (shape.num_layers - 1 - layer) * 2 * half);
      layer_values.push_back(layer_keys.back() + half);
    }
    return cache.with_layers(layer_keys.data(), layer_values.data());
  }

  template <class Body>
  void each_slot(Body const& body) const {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
        for (int head = 0; head < shape.num_kv_heads; ++head)
          for (int slot = 0; slot < shape.capacity; ++slot) body(fkv::row_index{layer, sequence, head}, slot);
  }
  /// Takes over the tokens and the lengths of a dense cache.
  void load(owned_cache<Element, Domain>& dense) {
    auto const from = dense.view();
    std::copy(dense.lengths.begin(), dense.lengths.end(), lengths.begin());
    publish();
    auto const copy = [&](Element* to, Element const* source) { std::copy_n(source, shape.key_head_dim, to); };
    each_slot([&](fkv::row_index at, int slot) {
      copy(token(at, slot, false), from.key(at, slot));
      copy(token(at, slot, true), from.value(at, slot));
    });
  }
  /// Slots whose key or value is not that of a dense cache.
  [[nodiscard]] int differences(owned_cache<Element, Domain>& dense) {
    auto const other = dense.view();
    auto const bytes = sizeof(Element) * static_cast<std::size_t>(shape.key_head_dim);
    int wrong = 0;
    each_slot([&](fkv::row_index at, int slot) {
      wrong += std::memcmp(token(at, slot, false), other.key(at, slot), bytes) != 0 ||
               std::memcmp(token(at, slot, true), other.value(at, slot), bytes) != 0;
    });
    return wrong;
  }
  [[nodiscard]] bool intact() const {
    return keys.intact() && values.intact() && lengths.intact() && tables.intact() && starts.intact() &&
           last_page_lengths.intact() && owners.intact();
  }
};

/// The memory behind lists of pages.
struct owned_page_list {
  guarded<std::int32_t> pages, counts, value_pages;
  int capacity = 0;

  owned_page_list() = default;
  owned_page_list(int tables, int most)
      : pages(static_cast<std::size_t>(tables * most), -7),
        counts(static_cast<std::size_t>(tables), -7),
        value_pages(static_cast<std::size_t>(tables * most), -7),
        capacity(most) {}
  [[nodiscard]] fkv::page_list view() { return {pages.data(), counts.data(), capacity, value_pages.data()}; }
  [[nodiscard]] std::vector<int> of(int table) const {
    auto const* const first = pages.data() + static_cast<std::ptrdiff_t>(table) * capacity;
    return {first, first + counts[static_cast<std::size_t>(table)]};
  }
  [[nodiscard]] bool intact() const { return pages.intact() && counts.intact() && value_pages.intact(); }
};

}  // namespace testing
