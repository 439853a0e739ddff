// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/combinators/group.hpp>

namespace foresightkv::inline v0 {

/// Attention that the token was given by every query observed while it was cached:
///   mean over the group of the accumulated sum
/// What the code published with ForesightKV calls H2O (arXiv 2602.03203; evaluation/rkv/compression). Old tokens have
/// been looked at by more queries than young ones: see h2o and h2o_per_query.
struct accumulated_sum : group_mean<accumulated> {};

}  // namespace foresightkv::inline v0
