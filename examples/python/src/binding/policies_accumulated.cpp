// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::accumulated_sum, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::accumulated_sum, fkv::ordered>();
template policy_verbs verbs_of<fkv::h2o_per_query, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::h2o_per_query, fkv::ordered>();

}  // namespace binding
