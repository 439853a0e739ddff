// SPDX-License-Identifier: Apache-2.0
#include "policy_verbs.hpp"

namespace binding {

template policy_verbs verbs_of<fkv::foresight<fkv::paper>, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::foresight<fkv::paper>, fkv::ordered>();
template policy_verbs verbs_of<fkv::foresight<fkv::reference_checkpoint>, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::foresight<fkv::reference_checkpoint>, fkv::ordered>();
template policy_verbs verbs_of<fkv::foresight<fkv::reference_evaluation>, fkv::fill_holes>();
template policy_verbs verbs_of<fkv::foresight<fkv::reference_evaluation>, fkv::ordered>();

}  // namespace binding
