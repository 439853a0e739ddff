// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/caches/paged.hpp>
#include <foresightkv/observation.hpp>
#include <memory_resource>
#include <stdexcept>
#include <vector>

#include "paged_engine/model.hpp"
#include "paged_engine/page_allocator.hpp"

namespace paged_engine {

namespace fkv = foresightkv;

using pages = fkv::paged_cache<float>;  // keys and values in fp32, the page size known at run time

struct memory_shape {
  int slots = 8;  ///< sequences that can run at once
  int num_pages = 256;
  int page_size = 16;
  int max_tokens = 1024;  ///< of one sequence, in the cache at one time
  int window = 0;         ///< newest queries that are kept of each sequence: the policy's interval
};

/// The engine's cache: two pools of pages, a table and a length for every slot, and the newest queries. All of it that
/// verbs and kernels read stands in memory of the resource, which the host reaches too.
class kv_memory {
 public:
  kv_memory(model_shape const& of_model, memory_shape const& extents,
            std::pmr::memory_resource* memory = std::pmr::new_delete_resource())
      : allocator(checked(extents).num_pages, memory),
        extents_(extents),
        shape_{.num_layers = of_model.layers,
               .num_sequences = extents.slots,
               .num_kv_heads = of_model.kv_heads,
               .group = of_model.group,
               .key_head_dim = of_model.head_dim,
               .value_head_dim = of_model.head_dim,
               .capacity = extents.max_tokens},
        max_pages_(pages_of(extents.max_tokens)),
        keys_(pool_size(of_model), memory),
        values_(pool_size(of_model), memory),
        tables_(num(extents.slots * max_pages_), -1, memory),
        lengths_(num(extents.slots), 0, memory),
        query_size_(of_model.hidden()),
        queries_(num(of_model.layers * extents.slots * query_room() * query_size_), memory),
        query_ends_(num(extents.slots), 0),
        query_starts_(num(extents.slots) + 1, memory),
        query_counts_(num(extents.slots), memory) {}

  kv_memory(kv_memory const&) = delete;  // a copy's vectors would stand in other memory
  kv_memory& operator=(kv_memory const&) = delete;

  page_allocator allocator;

  [[nodiscard]] fkv::cache_shape const& shape() const { return shape_; }
  [[nodiscard]] std::pmr::memory_resource* resource() const { return keys_.get_allocator().resource(); }
  [[nodiscard]] memory_shape const& extents() const { return extents_; }
  [[nodiscard]] int max_pages() const { return max_pages_; }
  [[nodiscard]] int pages_of(int tokens) const { return (tokens + extents_.page_size - 1) / extents_.page_size; }

  /// The library's view. Owners let it refuse to write what two sequences read, whatever the engine forgot.
  [[nodiscard]] pages cache() { return over(tables_.data(), lengths_.data()); }
  /// The same pools through other tables: where an eviction goes that must not touch the pages that it reads.
  [[nodiscard]] pages over(std::int32_t const* tables, std::int32_t const* lengths) {
    auto const table = fkv::page_table::per_sequence(tables, max_pages_, extents_.num_pages);
    return pages::hnd(keys_.data(), values_.data(), {extents_.num_pages, extents_.page_size}, table, lengths, shape_)
        .with_owners(allocator.owners().data());
  }

  [[nodiscard]] std::int32_t& length(int slot) { return lengths_[num(slot)]; }
  [[nodiscard]] std::int32_t const* lengths() const { return lengths_.data(); }
  [[nodiscard]] int pages_held(int slot) const {
    int held = 0;
    while (held < max_pages_ && tables_[num(slot * max_pages_ + held)] >= 0) ++held;
    return held;
  }
  [[nodiscard]] std::int32_t& page(int slot, int index) { return tables_[num(slot * max_pages_ + index)]; }

  /// Pages for so many tokens, which must be free.
  void grow(int slot, int tokens) {
    for (int i = pages_held(slot); i < pages_of(tokens); ++i) page(slot, i) = allocator.take();
  }
  /// Gives back what lies behind so many tokens.
  void shrink(int slot, int tokens) {
    for (int i = pages_held(slot); i-- > pages_of(tokens);) {
      allocator.give_back(page(slot, i));
      page(slot, i) = -1;
    }
  }
  /// Gives back the last pages of a slot, as an eviction lists them.
  void give_back(int slot, std::int32_t const* freed, int count) {
    int const kept = pages_held(slot) - count;
    for (int i = 0; i < count; ++i) {
      if (kept < 0 || page(slot, kept + i) != freed[i]) throw std::logic_error("a freed page is not the slot's last");
      allocator.give_back(freed[i]);
      page(slot, kept + i) = -1;
    }
  }
  /// Whether somebody else reads a page of the slot from its token `first` on.
  [[nodiscard]] bool shares_from(int slot, int first) {
    for (int i = first / extents_.page_size; i < pages_held(slot); ++i)
      if (allocator.owners()[num(page(slot, i))] > 1) return true;
    return false;
  }
  /// Keys and values of a sequence, to a buffer and back: preemption by swapping.
  [[nodiscard]] std::vector<float> copy_out(int slot) {
    std::vector<float> saved;
    each_page_of(slot, [&](float const* data, std::ptrdiff_t size) { saved.insert(saved.end(), data, data + size); });
    return saved;
  }
  void copy_in(int slot, std::vector<float> const& saved) {
    float const* from = saved.data();
    each_page_of(slot, [&](float* data, std::ptrdiff_t size) {
      std::copy_n(from, size, data);
      from += size;
    });
  }

  /// A token's queries of every layer join the window; `queries` is [layer][query head][dim].
  void push_queries(int slot, std::vector<float> const& queries) {
    int& end = query_ends_[num(slot)];
    if (extents_.window == 0) return;
    if (end == query_room()) close_up(slot);
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      std::copy_n(queries.data() + layer * query_size_, query_size_, query(layer, slot, end));
    ++end;
  }
  /// Queries of rejected drafts leave it.
  void pop_queries(int slot, int count) { query_ends_[num(slot)] = std::max(0, query_ends_[num(slot)] - count); }
  void clear_queries(int slot) { query_ends_[num(slot)] = 0; }
  /// The last `window` queries of every slot, where they stand.
  [[nodiscard]] fkv::observation<float> window() {
    for (int slot = 0; slot < extents_.slots; ++slot) {
      int const end = query_ends_[num(slot)], count = std::min(end, extents_.window);
      query_starts_[num(slot)] = slot * query_room() + end - count;
      query_counts_[num(slot)] = count;
    }
    int const total = extents_.slots * query_room();
    query_starts_[num(extents_.slots)] = total;
    auto window =
        fkv::observation<float>::packed(queries_.data(), query_starts_.data(), shape_, total, extents_.window);
    window.query_count = query_counts_.data();
    return window;
  }
  [[nodiscard]] std::vector<float> copy_queries(int slot) {
    std::vector<float> saved;
    int const end = query_ends_[num(slot)], count = std::min(end, extents_.window);
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      float const* const first = query(layer, slot, end - count);
      saved.insert(saved.end(), first, first + std::ptrdiff_t{count} * query_size_);
    }
    return saved;
  }
  void restore_queries(int slot, std::vector<float> const& saved) {
    int const count = static_cast<int>(saved.size()) / (shape_.num_layers * query_size_);
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      std::copy_n(saved.data() + std::ptrdiff_t{layer} * count * query_size_, std::ptrdiff_t{count} * query_size_,
                  query(layer, slot, 0));
    query_ends_[num(slot)] = count;
  }

 private:
  static std::size_t num(int i) { return static_cast<std::size_t>(i); }
  static memory_shape const& checked(memory_shape const& extents) {
    if (extents.slots < 1 || extents.num_pages < 1 || extents.page_size < 1 || extents.max_tokens < 1 ||
        extents.window < 0)
      throw std::invalid_argument("slots, pages and tokens must be at least 1");
    return extents;
  }
  [[nodiscard]] std::size_t pool_size(model_shape const& of_model) const {
    return num(of_model.layers * extents_.num_pages) * num(extents_.page_size * of_model.kv_heads * of_model.head_dim);
  }
  /// Queries are moved once in `window` tokens, and as many of them may be those of drafts.
  [[nodiscard]] int query_room() const { return 3 * extents_.window; }
  [[nodiscard]] float* query(int layer, int slot, int place) {
    std::ptrdiff_t const token = (std::ptrdiff_t{layer} * extents_.slots + slot) * query_room() + place;
    return queries_.data() + token * query_size_;
  }
  void close_up(int slot) {
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      float const* const kept = query(layer, slot, extents_.window);
      std::copy(kept, kept + std::ptrdiff_t{2} * extents_.window * query_size_, query(layer, slot, 0));
    }
    query_ends_[num(slot)] = 2 * extents_.window;
  }
  /// body(first element, elements) of every layer of every page, keys and values.
  template <class Body>
  void each_page_of(int slot, Body const& body) {
    std::ptrdiff_t const size = std::ptrdiff_t{extents_.page_size} * shape_.num_kv_heads * shape_.key_head_dim;
    for (int i = 0; i < pages_held(slot); ++i)
      for (int layer = 0; layer < shape_.num_layers; ++layer) {
        std::ptrdiff_t const first = (std::ptrdiff_t{layer} * extents_.num_pages + page(slot, i)) * size;
        body(keys_.data() + first, size);
        body(values_.data() + first, size);
      }
  }

  memory_shape extents_;
  fkv::cache_shape shape_;
  int max_pages_ = 0;
  std::pmr::vector<float> keys_, values_;
  std::pmr::vector<std::int32_t> tables_, lengths_;  // entries behind a table's last page are -1
  int query_size_ = 0;
  std::pmr::vector<float> queries_;  // [layer][slot][room][query head][dim]
  std::vector<int> query_ends_;      // one past each slot's newest query
  std::pmr::vector<std::int32_t> query_starts_, query_counts_;
};

}  // namespace paged_engine
