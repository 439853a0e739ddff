// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/element.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

/// How a cache stores the elements of its keys, or of its values: as what (element_type), and scaled by what.
///   of_row(shape, row)  trivially copyable, with scale(slot) as token_vectors have it
///   token_bytes         bytes of a scale that moves with its token, or 0; of_row(...).place() says where it stands, and
///                       of_row(...).scale_at(slot) if it is a float that verbs may write: see token_vectors
///   check()             what the host can see
template <class Storage>
concept element_storage = std::is_trivially_copyable_v<Storage> && element<typename Storage::element_type> &&
    requires(Storage const storage, cache_shape const shape, row_index at) {
  { storage.of_row(shape, at).scale(0) } -> std::same_as<float>;
  { Storage::token_bytes } -> std::convertible_to<int>;
  { storage.check() } -> std::same_as<status>;
};

}  // namespace foresightkv::inline v0
