// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <sys/mman.h>

#include <cstddef>
#include <exception>
#include <span>

#include "emulation/fiber.hpp"

namespace testing {

/// A call stack of its own for the tests of a program. While a kernel runs it can be hidden, since a device cannot read
/// it: what a test hands to a verb stands on the heap.
class test_stack {
 public:
  static constexpr std::size_t size = std::size_t{16} << 20;

  /// Runs `call` there, and returns when it does. Once in a program, on its first thread.
  template <class Call>
  static void run(Call& call) {
    struct visit {
      Call& call;
      fiber caller{};
      std::exception_ptr failure{};
      fiber stack{0, &enter, this, size};

      static void enter(void* self) {
        auto& here = *static_cast<visit*>(self);
        try {
          here.call();
        } catch (...) {
          here.failure = std::current_exception();
        }
        here.stack.switch_to(here.caller);
      }
    };
    visit made{call};
    memory_ = made.stack.memory();
    made.caller.switch_to(made.stack);
    memory_ = {};
    if (made.failure != nullptr) std::rethrow_exception(made.failure);
  }

  /// Nobody can read it while this lives; who tries is noticed, and then can. Made and ended on another stack.
  class hidden {
   public:
    hidden() {
      if (memory_.empty()) return;
      struct sigaction action {};
      action.sa_sigaction = &on_fault;
      action.sa_flags = SA_SIGINFO | SA_NODEFER;
      touched_ = 0;
      ::sigaction(SIGSEGV, &action, &before_);
      protect(PROT_NONE);
    }
    hidden(hidden const&) = delete;
    hidden& operator=(hidden const&) = delete;
    ~hidden() {
      if (memory_.empty()) return;
      protect(PROT_READ | PROT_WRITE);
      ::sigaction(SIGSEGV, &before_, nullptr);
    }
    /// Whether somebody tried.
    [[nodiscard]] bool touched() const { return touched_ != 0; }
  };

 private:
  static void protect(int access) { ::mprotect(memory_.data(), memory_.size(), access); }

  static void on_fault(int, siginfo_t* fault, void*) {
    auto const* const at = static_cast<std::byte const*>(fault->si_addr);
    if (at >= memory_.data() && at < memory_.data() + memory_.size()) {
      touched_ = 1;
      protect(PROT_READ | PROT_WRITE);
    } else {
      ::sigaction(SIGSEGV, &before_, nullptr);  // another fault: it happens again, and is dealt with
    }
  }

  static inline std::span<std::byte> memory_{};
  static inline struct sigaction before_ {};
  static inline volatile sig_atomic_t touched_ = 0;
};

}  // namespace testing
