// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace foresightkv::inline v0 {

/// What a verb found wrong before it wrote anything.
enum class errc : int {
  ok = 0,
  invalid_config,       ///< budget, interval, sinks or recent window break the config's own rule
  invalid_shape,        ///< a negative or zero extent, or extents of two arguments that disagree
  null_pointer,         ///< a buffer that this call needs is missing
  misaligned,           ///< a buffer is not aligned to its element
  overlap,              ///< an output overlaps an input that the call still reads
  workspace_too_small,  ///< fewer bytes than the verb's *_bytes function asks for
  unsupported,          ///< a combination that this backend does not have
  cuda                  ///< a CUDA call failed: status::native holds its code, outputs are unspecified
};

/// Result of every verb: nothing throws, prints or clears a sticky device error.
struct [[nodiscard]] status {
  errc code = errc::ok;
  int native = 0;  ///< the backend's own error number when code is errc::cuda

  [[nodiscard]] constexpr bool ok() const { return code == errc::ok; }

  /// Fixed text in static storage.
  [[nodiscard]] constexpr char const* message() const {
    switch (code) {
      case errc::ok: return "ok";
      case errc::invalid_config: return "invalid config: sinks + recent window must fit the budget, counts must be positive";
      case errc::invalid_shape: return "invalid shape: extents must be positive and agree between arguments";
      case errc::null_pointer: return "null pointer: a buffer that this call needs is missing";
      case errc::misaligned: return "misaligned: a buffer is not aligned to its element";
      case errc::overlap: return "overlap: an output overlaps an input of the same call";
      case errc::workspace_too_small: return "workspace too small: ask the verb's *_bytes function";
      case errc::unsupported: return "unsupported: this backend does not have this combination";
      case errc::cuda: return "CUDA error: see status::native";
    }
    return "unknown error";
  }

  friend constexpr bool operator==(status, status) = default;
};

namespace detail {

/// misaligned if any of these buffers is not aligned to its element.
template <class... Element>
status check_aligned(Element const*... buffers) {
  bool const aligned = ((reinterpret_cast<std::uintptr_t>(buffers) % alignof(Element) == 0) && ...);
  return aligned ? status{} : status{errc::misaligned};
}

}  // namespace detail

}  // namespace foresightkv::inline v0
