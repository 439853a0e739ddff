// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::window_sum, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::window_sum, fkv::ordered>();
template policy_verbs verbs_of<fkv::tova, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::tova, fkv::ordered>();

}  // namespace binding
