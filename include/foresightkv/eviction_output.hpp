// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/page_list.hpp>
#include <foresightkv/selection.hpp>

namespace foresightkv::inline v0 {

/// What `evict` writes beside the cache and the state.
struct eviction_output {
  std::int32_t* new_lengths = nullptr;  ///< indexed by the cache's length domain; not the cache's own buffer
  selection lists{};                    ///< optional: see selection; capacity 0 asks for none
  bool dry_run = false;                 ///< writes lengths and lists, leaves cache and state alone but for flags
  page_list freed{};  ///< optional, of a cache that has pages: those that the new lengths leave empty,
                      ///< or, in a dry run, would
};

}  // namespace foresightkv::inline v0
