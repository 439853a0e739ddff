// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_carrying<fkv::statistics<>, fkv::fill_holes>();
template policy_verbs verbs_carrying<fkv::statistics<>, fkv::ordered>();
template policy_verbs verbs_carrying<fkv::statistics<fkv::accumulated>, fkv::fill_holes>();
template policy_verbs verbs_carrying<fkv::statistics<fkv::accumulated>, fkv::ordered>();
template policy_verbs verbs_carrying<fkv::statistics<fkv::accumulated, fkv::decayed>, fkv::fill_holes>();
template policy_verbs verbs_carrying<fkv::statistics<fkv::accumulated, fkv::decayed>, fkv::ordered>();

}  // namespace binding
