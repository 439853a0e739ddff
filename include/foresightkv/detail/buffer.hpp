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
  for (std::size_t i = 0; i < count; ++i)
    finite &= is_finite(values[i]);  // no early exit: this loop vectorises
  return finite;
}

/// A buffer that a call reads or writes.
template <class Element>
status check_buffer(Element const* data) {
  if (data == nullptr) return {errc::null_pointer};
  return reinterpret_cast<std::uintptr_t>(data) % alignof(Element) == 0 ? status{} : status{errc::misaligned};
}

/// A buffer that may be missing.
template <class Element>
status check_optional(Element const* data) {
  return data == nullptr ? status{} : check_buffer(data);
}

/// The first of several statuses that is not ok.
template <class... Status>
status first_of(Status... given) {
  status result;
  ((result = result.ok() ? given : result), ...);
  return result;
}

template <class First, class Second>
status check_apart(First const* first, std::size_t first_count, Second const* second,
                   std::size_t second_count) {
  if (first == nullptr || second == nullptr) return {};
  auto const a = reinterpret_cast<std::uintptr_t>(first), b = reinterpret_cast<std::uintptr_t>(second);
  bool const apart = a + first_count * sizeof(First) <= b || b + second_count * sizeof(Second) <= a;
  return apart ? status{} : status{errc::overlap};
}

inline status check_scratch(workspace scratch, std::size_t bytes) {
  if (scratch.size < bytes) return {errc::workspace_too_small};
  return bytes > 0 && scratch.data == nullptr ? status{errc::null_pointer} : status{};
}

}  // namespace foresightkv::inline v0::detail
