// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/status.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The launches of one call, in order; after one that failed nothing more is started.
template <class Exec>
class launches {
 public:
  explicit launches(Exec const& exec) : exec_(exec) {}

  template <class Body>
  void operator()(std::int64_t blocks, Body const& body) {
    if (result_.ok() && blocks > 0x7fffffff) result_ = {errc::unsupported};
    if (result_.ok() && blocks > 0) result_ = launcher<Exec>::run(exec_, static_cast<int>(blocks), body);
  }
  /// Whether bodies with a cluster can be started.
  [[nodiscard]] bool clusters() const { return launcher<Exec>::clusters(exec_); }
  [[nodiscard]] status result() const { return result_; }

 private:
  Exec const& exec_;
  status result_{};
};

}  // namespace foresightkv::inline v0::detail::kernels
