// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// The newest tokens are kept (StreamingLLM, arXiv 2309.17453; kvpress streaming_llm_press.py):
///   minus the token's age, 0 for the newest
/// The attention sinks are the config's: `.sink_tokens = 4` as published. Ages are exact in fp32 below 2^24.
struct streaming_llm {
  using reads = statistics<>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return static_cast<float>(token.position() - (token.next_position() - 1));
  }
};

}  // namespace foresightkv::inline v0
