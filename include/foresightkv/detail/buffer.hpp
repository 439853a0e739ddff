// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/element.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail {

template <class Real>
bool all_finite(Real const* values, std::size_t count) {
  bool finite = true;
  for (std::size_t i = 0; i < count; ++i) finite &= is_finite(values[i]);  // no early exit: this loop vectorises
  return finite;
}

/// The first of several checks that fails; those behind it are not made.
template <class... Check>
status first_error(Check const&... check) {
  status result;
  ((result = result.ok() ? check() : result), ...);
  return result;
}

/// The first of several statuses that is not ok.
template <class... Status>
status first_of(Status... given) {
  status result;
  ((result = result.ok() ? given : result), ...);
  return result;
}

/// An error unless a condition holds.
[[nodiscard]] constexpr status check_that(bool sound, errc code, argument where = argument::none) {
  return sound ? status{} : status{code, 0, where};
}

/// Buffers that may be missing: misaligned if one of them is not aligned to its element.
template <class... Element>
status check_aligned(Element const*... buffers) {
  return check_that(((reinterpret_cast<std::uintptr_t>(buffers) % alignof(Element) == 0) && ...), errc::misaligned);
}

/// Buffers that a call reads or writes.
template <class... Element>
status check_buffer(Element const*... buffers) {
  return first_of(check_that(((buffers != nullptr) && ...), errc::null_pointer), check_aligned(buffers...));
}

template <class First, class Second>
status check_apart(First const* first, std::size_t first_count, Second const* second, std::size_t second_count) {
  if (first == nullptr || second == nullptr) return {};
  auto const a = reinterpret_cast<std::uintptr_t>(first), b = reinterpret_cast<std::uintptr_t>(second);
  return check_that(a + first_count * sizeof(First) <= b || b + second_count * sizeof(Second) <= a, errc::overlap);
}

inline status check_scratch(workspace scratch, std::size_t bytes) {
  return first_of(check_that(scratch.size >= bytes, errc::workspace_too_small),
                  check_that(bytes == 0 || scratch.data != nullptr, errc::null_pointer))
      .at(argument::workspace);
}

}  // namespace foresightkv::inline v0::detail
