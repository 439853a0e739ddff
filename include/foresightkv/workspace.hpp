// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace foresightkv::inline v0 {

struct workspace;

namespace detail {

template <class Bytes>
concept owner_of_bytes =
    !std::same_as<std::remove_cv_t<Bytes>, workspace> && std::constructible_from<std::span<std::byte>, Bytes&>;

}  // namespace detail

/// Scratch memory of one call: any alignment; its size comes from the verb's *_bytes function.
struct workspace {
  std::byte* data = nullptr;
  std::size_t size = 0;

  constexpr workspace() = default;
  constexpr workspace(std::byte* bytes, std::size_t count) : data(bytes), size(count) {}
  /// A span, a vector, an array.
  constexpr workspace(std::span<std::byte> bytes) : data(bytes.data()), size(bytes.size()) {}
  template <detail::owner_of_bytes Bytes>
  constexpr workspace(Bytes& bytes) : workspace(std::span<std::byte>(bytes)) {}
};

namespace detail {

/// Cuts 64-byte aligned arrays out of a workspace. With a null base it only counts, so that a verb and its *_bytes
/// function walk the same list of arrays.
class arena {
 public:
  static constexpr std::size_t alignment = 64;

  arena() = default;
  explicit arena(workspace scratch)
      : base_(reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(scratch.data) + alignment - 1) &
                                           ~(alignment - 1))) {}

  template <class Element>
  Element* take(std::size_t count) {
    auto const offset = used_;
    used_ += (count * sizeof(Element) + alignment - 1) & ~(alignment - 1);
    return base_ == nullptr ? nullptr : reinterpret_cast<Element*>(base_ + offset);
  }

  /// Bytes that a workspace of any alignment needs for everything taken so far.
  [[nodiscard]] std::size_t bytes() const { return used_ == 0 ? 0 : used_ + alignment - 1; }

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace detail

}  // namespace foresightkv::inline v0
