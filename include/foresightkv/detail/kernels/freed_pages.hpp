// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/lanes.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/page_list.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Lists the pages that sequences no longer need. A block per entry of the list and table of a sequence.
template <class Cache>
struct freed_pages_kernel {
  static constexpr int threads = 128;

  sequence_list list{};
  Cache cache{};
  std::int32_t const* new_lengths = nullptr;
  page_list out{};

  [[nodiscard]] std::int64_t blocks() const { return std::int64_t{list.max_count} * cache.tables_per_sequence(); }

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const tables = cache.tables_per_sequence();
    int const sequence = first_listing(c, list, c.block() / tables, cache.shape().num_sequences).sequence;
    if (sequence >= 0) cache.list_freed(row_threads<Context>{c}, sequence, c.block() % tables, new_lengths, out);
  }
};

/// One launch, of a cache that has pages.
template <class Exec, class Cache>
void list_freed(launches<Exec>& launch, Cache const& cache, sequence_list const& list, std::int32_t const* new_lengths,
                page_list const& out) {
  if constexpr (has_pages<Cache>) {
    freed_pages_kernel<Cache> const body{list, cache, new_lengths, out};
    launch(body.blocks(), body);
  }
}

}  // namespace foresightkv::inline v0::detail::kernels
