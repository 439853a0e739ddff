// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::key_diff, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::key_diff, fkv::ordered>();
template policy_verbs verbs_of<fkv::key_norm, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::key_norm, fkv::ordered>();

}  // namespace binding
