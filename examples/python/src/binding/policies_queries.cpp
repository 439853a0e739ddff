// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::snap_kv<>, fkv::ordered>();
template policy_verbs verbs_of<fkv::r_kv<>, fkv::ordered>();

}  // namespace binding
