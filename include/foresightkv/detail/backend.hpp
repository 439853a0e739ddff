// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace foresightkv::inline v0::detail {

/// The implementation of every verb for one kind of execution tag. Specialised by detail/host and detail/cuda; a verb
/// checks what the host can see, then calls its backend's function of the same name.
template <class Exec>
struct backend;

}  // namespace foresightkv::inline v0::detail
