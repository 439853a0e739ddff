// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorers/accumulated_sum.hpp>

namespace foresightkv::inline v0 {

/// Heavy hitters (H2O, arXiv 2306.14048, section 4; FMInference/H2O): mean over the group of the accumulated sum.
///
/// The score is accumulated_sum. The original also keeps the newest half of its budget whatever their score; here that
/// is the config's recent window: `.recent_tokens = interval + budget / 2` protects the newest floor(budget / 2)
/// candidates besides the newest interval.
using h2o = accumulated_sum;

}  // namespace foresightkv::inline v0
