// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/combinators/group.hpp>

namespace foresightkv::inline v0 {

/// Attention of the newest query alone (TOVA, arXiv 2401.06104; kvpress tova_press.py):
///   mean over the group of its probability
/// The published code takes the mean over all query heads of a layer, so that every KV head evicts the same tokens;
/// this one is per KV head.
struct tova : group_mean<last<1>> {};

}  // namespace foresightkv::inline v0
