// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/storages/plain.hpp>

namespace foresightkv::inline v0 {

/// Values that are a part of their keys' memory, as those of multi-head latent attention are: they move with them
/// and are scaled as these are.
template <element Element>
struct within_keys : plain<Element> {
  static constexpr bool moves_with_key = true;
};

}  // namespace foresightkv::inline v0
