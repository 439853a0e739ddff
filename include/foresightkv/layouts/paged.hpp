// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/layout.hpp>

namespace foresightkv::inline v0 {

/// Divides slots by a page size that is known at compile time, or (0) at run time, by a multiplication then.
template <int PageSize>
struct page_divider {
  static_assert(PageSize > 0 && PageSize <= 65536, "foresightkv: a page has 1 to 65536 tokens");
  constexpr page_divider() = default;
  constexpr explicit page_divider(int) {}
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int size() { return PageSize; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int operator()(int slot) const {
    return static_cast<int>(static_cast<unsigned>(slot) / static_cast<unsigned>(PageSize));
  }
};
template <>
struct page_divider<0> {
  int tokens = 0;                      // of no size: the layout's check refuses it
  std::uint32_t factor = 0x80000000u;  // 2^shift / tokens, rounded up: less than 2^32
  int shift = 31;                      // 31 + log2(tokens), rounded up: exact for all ints that are not negative

  constexpr page_divider() = default;
  constexpr explicit page_divider(int page_size) : tokens(page_size) {
    if (page_size <= 0 || page_size > 65536) return;  // the layout's check says so
    while ((std::int64_t{1} << (shift - 31)) < tokens) ++shift;
    std::uint64_t const power = std::uint64_t{1} << shift;
    auto const divisor = static_cast<std::uint64_t>(tokens);
    factor = static_cast<std::uint32_t>((power + divisor - 1) / divisor);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int size() const { return tokens; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int operator()(int slot) const {
    return static_cast<int>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(slot)) * factor >> shift);
  }
};

/// Tokens in pages: slot s of a row stands in page table[s / page size] of the pool, as its token s % page size.
template <int PageSize>
struct paged_map {
  std::int32_t const* table = nullptr;
  int page = 0;   // distance between pages
  int token = 0;  // and between tokens of one
  [[no_unique_address]] page_divider<PageSize> divide{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t operator()(int slot) const {
    int const index = divide(slot);
    return std::int64_t{table[index]} * page + std::int64_t{slot - index * divide.size()} * token;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr paged_map times(int bytes) const {
    return {table, page * bytes, token * bytes, divide};
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t distances() const { return page | token; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int steady(int slot) const {  // to the page's end
    return (divide(slot) + 1) * divide.size() - slot;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t step() const { return token; }
};

/// Distances in elements inside a pool of pages. A token's own elements are contiguous.
struct page_strides {
  std::int64_t layer = 0;    ///< between pools of layers; unused where there is one pointer per layer
  std::int64_t page = 0;     ///< between pages of a pool
  std::int64_t kv_head = 0;  ///< inside a page; 0 where a page holds tokens of one head
  std::int64_t token = 0;    ///< inside a page

  /// [layer][page][kv_head][token][dim]
  [[nodiscard]] static constexpr page_strides hnd(cache_shape const& shape, int num_pages, int page_size,
                                                  int head_dim) {
    page_strides strides = one_head(num_pages, page_size, head_dim);
    strides.kv_head = strides.page;
    strides.page *= shape.num_kv_heads;
    strides.layer *= shape.num_kv_heads;
    return strides;
  }
  /// [layer][page][token][kv_head][dim]
  [[nodiscard]] static constexpr page_strides nhd(cache_shape const& shape, int num_pages, int page_size,
                                                  int head_dim) {
    page_strides strides = hnd(shape, num_pages, page_size, head_dim);
    strides.kv_head = head_dim;
    strides.token = std::int64_t{shape.num_kv_heads} * head_dim;
    return strides;
  }
  /// [layer][page][token][dim]: pages of one head each
  [[nodiscard]] static constexpr page_strides one_head(int num_pages, int page_size, int head_dim) {
    page_strides strides;
    strides.token = head_dim;
    strides.page = strides.token * page_size;
    strides.layer = strides.page * num_pages;
    return strides;
  }
};

/// Where the page numbers of rows stand, and which rows share them.
struct page_table {
  std::int32_t const* pages = nullptr;   ///< data of the backend
  std::int64_t layer = 0;                ///< entries between the tables of layers; 0: all layers share them
  std::int64_t sequence = 0;             ///< between those of sequences
  std::int64_t kv_head = 0;              ///< between those of KV heads; 0: all heads share them
  std::int32_t const* starts = nullptr;  ///< [num_sequences + 1] where each sequence's table starts, in place of
                                         ///< `sequence`; data of the backend
  int max_pages = 0;                     ///< entries of a table; unused with `starts`
  int num_pages = 0;                     ///< pages of a pool: entries are below this
  int every = 1;                         ///< entries are multiples of this,
  int offset = 0;                        ///< plus this

  /// [sequence][max_pages]: a page holds tokens of all heads, of one layer or, where pools differ, of every layer.
  [[nodiscard]] static constexpr page_table per_sequence(std::int32_t const* pages, int max_pages, int num_pages) {
    page_table table{pages, 0, max_pages, 0, nullptr, max_pages, num_pages};
    return table;
  }
  /// [sequence][kv_head][max_pages]
  [[nodiscard]] static constexpr page_table per_head(cache_shape const& shape, std::int32_t const* pages, int max_pages,
                                                     int num_pages) {
    std::int64_t const heads = shape.num_kv_heads;
    page_table table{pages, 0, heads * max_pages, max_pages, nullptr, max_pages, num_pages};
    return table;
  }
  /// [layer][sequence][kv_head][max_pages]
  [[nodiscard]] static constexpr page_table per_row(cache_shape const& shape, std::int32_t const* pages, int max_pages,
                                                    int num_pages) {
    page_table table = per_head(shape, pages, max_pages, num_pages);
    table.layer = table.sequence * shape.num_sequences;
    return table;
  }
  /// Tables of all sequences one behind the other: that of a sequence is pages[starts[sequence] ... starts[sequence+1])
  [[nodiscard]] static constexpr page_table ragged(std::int32_t const* pages, std::int32_t const* starts,
                                                   int num_pages) {
    page_table table{pages, 0, 0, 0, starts, 0, num_pages};
    return table;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int32_t const* of(row_index at) const {
    std::int64_t const first = starts == nullptr ? at.sequence * sequence : starts[at.sequence];
    return pages + first + at.layer * layer + at.kv_head * kv_head;
  }
  /// Entries of each of a sequence's tables; starts that descend, or that are too far apart, give less than 0.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int entries(int of_sequence) const {
    if (starts == nullptr) return max_pages;
    std::int64_t const count = std::int64_t{starts[of_sequence + 1]} - starts[of_sequence];
    return starts[of_sequence] < 0 || count < 0 || count > 0x7fffffff ? -1 : static_cast<int>(count);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool is_page(std::int32_t entry) const {
    return entry >= offset && entry < num_pages && (entry - offset) % every == 0;
  }

  /// Tables of a sequence, in (layer, head) order, and the first of the rows that share one.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int tables_of_sequence(cache_shape const& shape) const {
    return (layer == 0 ? 1 : shape.num_layers) * heads(shape);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr row_index first_row(cache_shape const& shape, int of_sequence,
                                                                      int index) const {
    return {index / heads(shape), of_sequence, index % heads(shape)};
  }
  /// The longest of the rows that share a table, by length(row).
  template <class Length>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int longest(cache_shape const& shape, row_index first,
                                                              Length const& length) const {
    int most = 0;
    for (int l = first.layer; l < (layer == 0 ? shape.num_layers : first.layer + 1); ++l)
      for (int h = first.kv_head; h < (kv_head == 0 ? shape.num_kv_heads : first.kv_head + 1); ++h) {
        int const here = length(row_index{l, first.sequence, h});
        most = here > most ? here : most;
      }
    return most;
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int heads(cache_shape const& shape) const {
    return kv_head == 0 ? 1 : shape.num_kv_heads;
  }
};

namespace detail {

/// Whether what this lane sees of a table's first entries is sound: pages of the pool, each once. Lanes (with rank() and
/// width()) share the pairs, of which there are count * count / 2.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE bool are_pages(Lanes const& lanes, page_table const& table, std::int32_t const* pages,
                                       int count) {
  bool sound = true;
  for (int i = lanes.rank(); i < count; i += lanes.width()) {
    std::int32_t const page = pages[i];
    sound = sound && table.is_page(page);
    for (int before = 0; before < i; ++before) sound = sound & (pages[before] != page);
  }
  return sound;
}

}  // namespace detail

/// Keys, values or scales of tokens in a pool of pages.
/// \tparam PageSize  tokens of a page, 1 to 65,536; 0: known at run time
template <int PageSize = 0>
struct paged_layout {
  page_strides strides{};
  page_table table{};
  [[no_unique_address]] page_divider<PageSize> divide{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t in_layer(row_index at) const {
    return at.kv_head * strides.kv_head;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t of(row_index at) const {
    return at.layer * strides.layer + in_layer(at);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr paged_map<PageSize> map(row_index at) const {
    return {table.of(at), static_cast<int>(strides.page), static_cast<int>(strides.token), divide};
  }
  /// Pages that so many tokens take.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int pages_of(int tokens) const {
    return tokens <= 0 ? 0 : divide(tokens - 1) + 1;
  }

  [[nodiscard]] constexpr std::int32_t const* entries() const { return table.pages; }
  [[nodiscard]] status check(cache_shape const& shape, int head_dim, bool by_layer) const {
    using detail::check_that;
    return detail::first_of(detail::check_buffer(table.pages).at(argument::tables),
                            detail::check_aligned(table.starts).at(argument::tables),
                            check_that(tables_fit(shape), errc::invalid_shape, argument::tables),
                            check_that(strides_fit(shape, head_dim, by_layer), errc::invalid_shape));
  }

 private:
  [[nodiscard]] constexpr bool tables_fit(cache_shape const& shape) const {
    bool const sized = divide.size() > 0 && divide.size() <= 65536 && table.num_pages > 0;
    if (!sized || table.layer < 0 || table.kv_head < 0) return false;
    if (table.starts != nullptr) return table.layer == 0 && table.kv_head == 0;
    bool const apart = (shape.num_sequences == 1 || table.sequence >= table.max_pages) &&
                       (table.kv_head == 0 || table.kv_head >= table.max_pages) &&
                       (table.layer == 0 || table.layer >= table.max_pages);
    return apart && table.sequence >= 0 && table.max_pages >= pages_of(shape.capacity);
  }
  [[nodiscard]] constexpr bool strides_fit(cache_shape const& shape, int head_dim, bool by_layer) const {
    constexpr std::int64_t longest = 0x7fffffff / 8;  // elements between pages: their bytes fit an int
    auto const fits = [&](std::int64_t distance, bool may_be_less) {
      return distance >= 0 && distance <= longest && (may_be_less || distance >= head_dim);
    };
    return fits(strides.token, divide.size() == 1) && fits(strides.page, table.num_pages == 1) &&
           fits(strides.kv_head, shape.num_kv_heads == 1 || table.kv_head != 0) && strides.layer >= 0 &&
           (strides.layer >= head_dim || by_layer || shape.num_layers == 1 || table.layer != 0);
  }
};

}  // namespace foresightkv::inline v0
