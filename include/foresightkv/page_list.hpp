// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace foresightkv::inline v0 {

/// Pages that sequences no longer need, table by table, in the order of the table. Tables are numbered
/// [sequence][table of it], the latter in (layer, head) order of the rows that it belongs to.
struct page_list {
  std::int32_t* pages = nullptr;        ///< [table][capacity] page numbers, as the keys' table has them
  std::int32_t* counts = nullptr;       ///< [table]; null: nobody asks
  int capacity = 0;                     ///< at least the pages of a row as long as the cache's capacity
  std::int32_t* value_pages = nullptr;  ///< [table][capacity] as the values' table has them; null: nobody asks
};

}  // namespace foresightkv::inline v0
