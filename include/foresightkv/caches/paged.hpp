// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/caches/laid_out.hpp>
#include <foresightkv/layouts/paged.hpp>
#include <foresightkv/page_list.hpp>
#include <foresightkv/sequence_flag.hpp>

namespace foresightkv::inline v0 {

/// Extents of a pool of pages, of each layer where layers have pools of their own.
struct page_pool {
  int num_pages = 0;
  int page_size = 0;  ///< tokens; 0: as the cache's type says
};

/// Keys and values in pages of a pool: slot s of a row stands in page table[s / page_size].
///
/// A call reads the first ceil(length / page_size) entries of a row's table. A sequence is flagged (bad_table) and left
/// alone if one of them is no page of the pool, if a table names a page twice, or if it has too few entries; the pairs
/// of entries are compared, which shows from some 2,000 pages to a table on (a millisecond on one core of a host, 16 of
/// them for 8,000): `tables_are_sound` leaves it out.
/// \tparam Keys, Values  element types, or storages: plain, scaled_by_tensor, scaled_by_head, scaled_by_token; values also
///                       within_keys
/// \tparam PageSize      tokens of a page; 0: known at run time
/// \tparam KeyHeadDim    where it is known at compile time; 0: a device backend is compiled for several
template <class Keys, int PageSize = 0, class Values = Keys, length_domain Domain = length_domain::sequence,
          int KeyHeadDim = 0>
struct paged_cache : laid_out_cache<paged_cache<Keys, PageSize, Values, Domain, KeyHeadDim>, Keys, Values,
                                    paged_layout<PageSize>, Domain, KeyHeadDim> {
  using base = laid_out_cache<paged_cache, Keys, Values, paged_layout<PageSize>, Domain, KeyHeadDim>;
  using typename base::key_element;
  using typename base::value_element;

  std::int32_t const* last_page_lengths = nullptr;  ///< [sequence] tokens of each last page, in place of row_lengths
  std::int32_t const* owners = nullptr;             ///< [num_pages] sequences that read a page; null: each its own
  bool tables_are_sound = false;                    ///< the engine vouches for its tables: they are not checked

  /// Two pools, [layer][page][kv_head][token][head_dim] each. Where tables are per head or row, pages hold one head:
  /// see one_head.
  [[nodiscard]] static constexpr paged_cache hnd(key_element* keys, value_element* values, page_pool const& pool,
                                                 page_table const& table, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    int const tokens = page_size_of(pool);
    return paged(keys, values, tokens, sound_if(table.num_pages == pool.num_pages, table), lengths, shape,
                 [&](int dim) { return page_strides::hnd(shape, pool.num_pages, tokens, dim); });
  }
  /// Two pools, [layer][page][token][kv_head][head_dim] each.
  [[nodiscard]] static constexpr paged_cache nhd(key_element* keys, value_element* values, page_pool const& pool,
                                                 page_table const& table, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    int const tokens = page_size_of(pool);
    return paged(keys, values, tokens, sound_if(table.num_pages == pool.num_pages, table), lengths, shape,
                 [&](int dim) { return page_strides::nhd(shape, pool.num_pages, tokens, dim); });
  }
  /// Two pools whose pages hold tokens of one head each: [layer][page][token][head_dim] with a table per sequence and
  /// head, one [page][token][head_dim] for all layers with a table per layer, sequence and head.
  [[nodiscard]] static constexpr paged_cache one_head(key_element* keys, value_element* values, page_pool const& pool,
                                                      page_table const& table, std::int32_t const* lengths,
                                                      cache_shape const& shape) {
    int const tokens = page_size_of(pool);
    return paged(keys, values, tokens, sound_if(table.num_pages == pool.num_pages, table), lengths, shape,
                 [&](int dim) {
                   page_strides strides = page_strides::one_head(pool.num_pages, tokens, dim);
                   if (table.layer != 0) strides.layer = 0;
                   return strides;
                 });
  }

  /// vLLM with flash attention and the NHD layout: a tensor per layer, and a block table for all of them. Other versions
  /// and backends have other tensors: nhd, hnd or with_strides.
  ///
  ///     kv_cache      [2][num_blocks][block_size][num_kv_heads][head_size]   keys first, then values
  ///     block_tables  [num_seqs][max_num_blocks_per_seq]    entries behind a sequence's last block are not read
  ///     seq_lens      [num_seqs]
  ///
  ///     slot 35 of sequence 1, blocks of 16:  kv_cache[0][ block_tables[1][2] ][3]
  ///
  /// `kv_cache` is the first layer's tensor where they stand one behind the other. Else it may be null, and with_layers
  /// takes for each layer its tensor, and for its values the tensor + num_blocks * block_size * num_kv_heads * head_size.
  [[nodiscard]] static constexpr paged_cache vllm(key_element* kv_cache, page_pool const& blocks,
                                                  std::int32_t const* block_tables, int max_num_blocks_per_seq,
                                                  std::int32_t const* seq_lens, cache_shape const& shape) {
    int const tokens = page_size_of(blocks);
    auto const half = page_strides::nhd(shape, blocks.num_pages, tokens, shape.key_head_dim).layer;
    auto const table = page_table::per_sequence(block_tables, max_num_blocks_per_seq, blocks.num_pages);
    return joint(paged(kv_cache, behind(kv_cache, half), tokens, table, seq_lens, shape, [&](int dim) {
      page_strides strides = page_strides::nhd(shape, blocks.num_pages, tokens, dim);
      strides.layer *= 2;
      return strides;
    }));
  }

  /// FlashInfer: keys and values of a page side by side, tables one behind the other, NHD.
  ///
  ///     kv_data        [max_num_pages][2][page_size][num_kv_heads][head_dim]   a tensor per layer
  ///     indices        [indptr[num_sequences]]   pages of sequence 0, then those of sequence 1, ...
  ///     indptr         [num_sequences + 1]       where each sequence's pages begin
  ///     last_page_len  [num_sequences]           tokens of each last page, 1 to page_size
  ///
  ///     indptr 0 3 5, last_page_len 2 16, pages of 16: sequence 0 has 34 tokens in indices[0..3), sequence 1 has 32
  ///
  /// New lengths are tokens, as everywhere. A layer's values begin page_size * num_kv_heads * head_dim behind its keys:
  /// see with_layers.
  [[nodiscard]] static constexpr paged_cache flashinfer_nhd(key_element* kv_data, page_pool const& pool,
                                                            std::int32_t const* indices, std::int32_t const* indptr,
                                                            std::int32_t const* last_page_len,
                                                            cache_shape const& shape) {
    return flashinfer(kv_data, pool, indices, indptr, last_page_len, shape, &page_strides::nhd);
  }
  /// The same with kv_data [max_num_pages][2][num_kv_heads][page_size][head_dim].
  [[nodiscard]] static constexpr paged_cache flashinfer_hnd(key_element* kv_data, page_pool const& pool,
                                                            std::int32_t const* indices, std::int32_t const* indptr,
                                                            std::int32_t const* last_page_len,
                                                            cache_shape const& shape) {
    return flashinfer(kv_data, pool, indices, indptr, last_page_len, shape, &page_strides::hnd);
  }

  /// TensorRT-LLM: one pool for all layers, a table for keys and one for values, whose entries count blocks of keys or
  /// values of one layer.
  ///
  ///     pool           [num_blocks][num_layers][2][num_kv_heads][tokens_per_block][head_dim]
  ///     block_offsets  [num_sequences][2][max_blocks_per_seq]    those of one pool
  ///
  ///     block b:  block_offsets[s][0][i] = b * num_layers * 2,  block_offsets[s][1][i] = b * num_layers * 2 + 1,
  ///     and layer l finds both 2 * l further on
  ///
  /// `blocks.num_pages` is num_blocks; owners are counted by offset, [num_blocks * num_layers * 2], and freed pages are
  /// offsets too. Offsets into the secondary pool (their top bit is set) are bad entries here:
  /// such a sequence is not to be cut before it is back.
  [[nodiscard]] static constexpr paged_cache tensorrt_llm(key_element* pool, page_pool const& blocks,
                                                          std::int32_t const* block_offsets, int max_blocks_per_seq,
                                                          std::int32_t const* lengths, cache_shape const& shape) {
    int const tokens = page_size_of(blocks);
    int const offsets = blocks.num_pages * shape.num_layers * 2;
    auto table = page_table::per_sequence(block_offsets, max_blocks_per_seq, offsets);
    table.sequence *= 2;
    table.every = 2 * shape.num_layers;
    paged_cache cache = paged(pool, pool, tokens, table, lengths, shape, [&](int dim) {
      page_strides strides = page_strides::hnd(shape, offsets, tokens, dim);
      strides.layer = strides.page * 2;
      return strides;
    });
    cache.value_layout.table.pages = block_offsets == nullptr ? nullptr : block_offsets + max_blocks_per_seq;
    cache.value_layout.table.offset = 1;
    if constexpr (base::value_storage::token_bytes > 0) cache.stored_values.layout.table = cache.value_layout.table;
    return joint(cache);
  }

  /// The same cache with other distances: keys and values of a token side by side, padded pages.
  [[nodiscard]] constexpr paged_cache with_strides(page_strides const& keys, page_strides const& values) const {
    paged_cache cache = *this;
    cache.key_layout.strides = keys;
    cache.value_layout.strides = values;
    return cache;
  }
  /// The same cache with the number of sequences that read each page, [num_pages], numbered as in its tables. A sequence
  /// is flagged (shared_page) and left alone if it is to be cut and more than one reads a page between its first token
  /// that may move and its end.
  [[nodiscard]] constexpr paged_cache with_owners(std::int32_t const* counts) const {
    paged_cache cache = *this;
    cache.owners = counts;
    return cache;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int page_size() const { return this->key_layout.divide.size(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int32_t const* lengths() const {
    return last_page_lengths == nullptr ? this->row_lengths : last_page_lengths;
  }
  /// Negative where the tables or their last pages have no length.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int length(row_index at) const {
    if (last_page_lengths == nullptr) return base::length(at);
    int const pages = this->key_layout.table.entries(at.sequence);
    if (pages <= 0) return pages;
    std::int64_t const last = last_page_lengths[at.sequence];
    std::int64_t const tokens = std::int64_t{pages - 1} * page_size() + last;
    return last < 1 || last > page_size() || tokens > 0x7fffffff ? -1 : static_cast<int>(tokens);
  }

  [[nodiscard]] status check() const {
    bool const ragged = last_page_lengths != nullptr;
    bool const sound = !ragged || (Domain == length_domain::sequence && this->key_layout.table.starts != nullptr);
    return detail::first_of(this->check_shape(),
                            ragged ? detail::check_aligned(last_page_lengths).at(argument::lengths)
                                   : detail::check_buffer(this->row_lengths).at(argument::lengths),
                            detail::check_that(sound, errc::invalid_shape, argument::lengths),
                            detail::check_aligned(owners).at(argument::tables),
                            detail::check_that(this->key_layout.divide.size() == this->value_layout.divide.size(),
                                               errc::invalid_shape, argument::tables),
                            this->check_tokens());
  }

  template <class Lanes>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE sequence_flag check_sequence(Lanes const& lanes, int sequence) const {
    if (tables_are_sound) return sequence_flag{};
    bool sound = true;
    for (int index = 0; index < tables_per_sequence(); ++index) {
      row_index const first = this->key_layout.table.first_row(this->extents, sequence, index);
      int const pages = this->key_layout.pages_of(longest(first));
      sound = sound && is_sound(lanes, this->key_layout.table, first, pages);
      if (!one_table()) sound = sound && is_sound(lanes, this->value_layout.table, first, pages);
    }
    return sound ? sequence_flag{} : sequence_flag::bad_table;
  }

  template <class Lanes>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool is_shared(Lanes const& lanes, row_index at, int first) const {
    if (owners == nullptr) return false;
    int const pages = this->key_layout.pages_of(length(at));
    bool shared = false;
    for (int i = this->key_layout.divide(first) + lanes.rank(); i < pages; i += lanes.width())
      shared = shared || owners[this->key_layout.table.of(at)[i]] > 1 || owners[this->value_layout.table.of(at)[i]] > 1;
    return shared;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int most_pages() const {
    return this->key_layout.pages_of(this->extents.capacity);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int tables_per_sequence() const {
    return this->key_layout.table.tables_of_sequence(this->extents);
  }
  /// Lists the pages of one table beyond the longest of its rows' new lengths. Lengths that are none list nothing.
  template <class Lanes>
  FORESIGHTKV_HOST_DEVICE void list_freed(Lanes const& lanes, int sequence, int index, std::int32_t const* new_lengths,
                                          page_list const& out) const {
    page_table const& keys = this->key_layout.table;
    page_table const& values = this->value_layout.table;
    row_index const first = keys.first_row(this->extents, sequence, index);
    auto const bounded = [&](int length) { return length < 0 || length > this->extents.capacity ? -1 : length; };
    bool sound = true;
    int const new_length = keys.longest(this->extents, first, [&](row_index at) {
      int const length = bounded(new_lengths[detail::length_index(Domain, this->extents, at)]);
      sound = sound && length >= 0 && bounded(this->length(at)) >= 0;
      return length;
    });
    int const kept = this->key_layout.pages_of(new_length);
    int const entries = keys.entries(sequence);
    int const there = entries < most_pages() ? entries : most_pages();
    int const taken = sound ? this->key_layout.pages_of(longest(first)) : 0;
    int const held = taken < there ? taken : there;
    int const table = sequence * tables_per_sequence() + index;
    std::int64_t const start = std::int64_t{table} * out.capacity;
    for (int i = kept + lanes.rank(); i < held; i += lanes.width()) {
      out.pages[start + i - kept] = keys.of(first)[i];
      if (out.value_pages != nullptr) out.value_pages[start + i - kept] = values.of(first)[i];
    }
    if (lanes.rank() == 0) out.counts[table] = held > kept ? held - kept : 0;
  }

 private:
  /// Null stays null: layers may have pointers of their own.
  [[nodiscard]] static constexpr key_element* behind(key_element* data, std::int64_t elements) {
    return data == nullptr ? nullptr : data + elements;
  }
  /// A table that belongs to another pool, or to pages of another size: one of no pages, which check() refuses.
  [[nodiscard]] static constexpr page_table sound_if(bool agrees, page_table table) {
    if (!agrees) table.num_pages = 0;
    return table;
  }
  [[nodiscard]] static constexpr int page_size_of(page_pool const& pool) {
    return PageSize != 0 && pool.page_size == 0 ? PageSize : pool.page_size;
  }
  template <class StridesOf>
  static constexpr paged_cache paged(key_element* keys, value_element* values, int tokens, page_table const& table,
                                     std::int32_t const* lengths, cache_shape const& shape,
                                     StridesOf const& strides_of) {
    page_table const checked = sound_if(PageSize == 0 || tokens == PageSize, table);
    return base::make(keys, values, lengths, shape, [&](int dim) {
      return paged_layout<PageSize>{strides_of(dim), checked, page_divider<PageSize>(tokens)};
    });
  }
  /// Keys and values in one tensor have one element type and one dimension: without them there is no such tensor, which
  /// check() refuses.
  static constexpr paged_cache joint(paged_cache cache) {
    static_assert(std::same_as<key_element, value_element>,
                  "foresightkv: keys and values in one tensor have one element type");
    if (cache.extents.key_head_dim != cache.extents.value_head_dim && !base::values_in_keys)
      cache.value_layout.strides.token = -1;
    return cache;
  }
  static constexpr paged_cache flashinfer(key_element* kv_data, page_pool const& pool, std::int32_t const* indices,
                                          std::int32_t const* indptr, std::int32_t const* last_page_len,
                                          cache_shape const& shape,
                                          page_strides (*order)(cache_shape const&, int, int, int)) {
    int const tokens = page_size_of(pool);
    auto const page = order(shape, pool.num_pages, tokens, shape.key_head_dim).page;
    auto const table = page_table::ragged(indices, indptr, pool.num_pages);
    paged_cache cache = paged(kv_data, behind(kv_data, page), tokens, table, nullptr, shape, [&](int dim) {
      page_strides strides = order(shape, pool.num_pages, tokens, dim);
      strides.page *= 2;
      strides.layer *= 2;
      return strides;
    });
    cache.last_page_lengths = last_page_len;
    return joint(cache);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool one_table() const {
    return this->key_layout.table.pages == this->value_layout.table.pages;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int longest(row_index first) const {
    if constexpr (Domain == length_domain::sequence) return length(first);
    return this->key_layout.table.longest(this->extents, first, [&](row_index at) { return length(at); });
  }
  template <class Lanes>
  FORESIGHTKV_HOST_DEVICE bool is_sound(Lanes const& lanes, page_table const& table, row_index first, int pages) const {
    return pages <= table.entries(first.sequence) && detail::are_pages(lanes, table, table.of(first), pages);
  }
};

}  // namespace foresightkv::inline v0
