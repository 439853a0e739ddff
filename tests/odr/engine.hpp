// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What one call of a verb said and left behind.
struct engine_result {
  int code;    ///< fkv::errc
  int native;  ///< CUDA's own number
  int length;  ///< new length of the one sequence, or -1
};

/// Cuts one sequence of 24 tokens with an engine's own policy, or with the policy that both engines have.
extern "C" {
engine_result first_evict(bool shared_policy);
engine_result second_evict(bool shared_policy);

/// The kernel that a translation unit of the first engine launches for one and the same body.
void const* first_kernel_of_one_unit();
void const* first_kernel_of_another_unit();
}
