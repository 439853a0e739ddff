// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/execution.hpp>
#include <utility>

namespace foresightkv::inline v0::detail::kernels {

/// body(0), ..., body(Count - 1), written out: arrays that these index stay in registers.
template <int Count, class Body>
FORESIGHTKV_HOST_DEVICE void unrolled(Body const& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (body(I), ...); }
  (std::make_integer_sequence<int, Count>{});
}

}  // namespace foresightkv::inline v0::detail::kernels
