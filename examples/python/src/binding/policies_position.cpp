// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::streaming_llm, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::streaming_llm, fkv::ordered>();
template policy_verbs verbs_of<fkv::random, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::random, fkv::ordered>();

}  // namespace binding
