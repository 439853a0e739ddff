// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "emulation/sanitizers.hpp"

namespace testing {

/// Memory of a call stack, with a page below it that no one may touch. Tops lie at different offsets within a
/// page: hundreds of stacks at one offset would share a few lines of the processor's caches.
class fiber_stack {
 public:
  static constexpr std::size_t usual_size = std::size_t{256} << 10;

  explicit fiber_stack(int number, std::size_t size = usual_size)
      : guard_(static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))), size_(size) {
    void* const memory =
        ::mmap(nullptr, guard_ + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc{};
    memory_ = static_cast<std::byte*>(memory);
    if (::mprotect(memory_, guard_, PROT_NONE) != 0) {
      ::munmap(memory_, guard_ + size);
      throw std::bad_alloc{};
    }
    used_ = size - static_cast<std::size_t>(number % 16) * 256;
  }
  fiber_stack(fiber_stack const&) = delete;
  fiber_stack& operator=(fiber_stack const&) = delete;
  ~fiber_stack() {
    sanitizers::forget_stack(bottom(), size_);
    ::munmap(memory_, guard_ + size_);
  }

  [[nodiscard]] std::byte* bottom() const { return memory_ + guard_; }
  [[nodiscard]] std::byte* top() const { return bottom() + used_; }
  [[nodiscard]] std::size_t bytes() const { return used_; }
  [[nodiscard]] std::span<std::byte> memory() const { return {bottom(), size_}; }

 private:
  std::size_t guard_, size_;
  std::size_t used_ = 0;
  std::byte* memory_ = nullptr;
};

/// Switches call stacks with what POSIX offers: two system calls each time.
class portable_switch {
 public:
  void prepare(fiber_stack const& stack, void (*entry)(void*), void* argument) {
    ::getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = stack.bytes();
    context_.uc_link = nullptr;
    auto const call = reinterpret_cast<std::uintptr_t>(entry);
    auto const with = reinterpret_cast<std::uintptr_t>(argument);
    ::makecontext(&context_, reinterpret_cast<void (*)()>(&start), 4, high(call), low(call), high(with), low(with));
  }
  static void jump(portable_switch& from, portable_switch& to) { ::swapcontext(&from.context_, &to.context_); }

 private:
  // makecontext hands over nothing but ints.
  static unsigned high(std::uintptr_t value) { return static_cast<unsigned>(std::uint64_t{value} >> 32); }
  static unsigned low(std::uintptr_t value) { return static_cast<unsigned>(value); }
  static std::uintptr_t join(unsigned high, unsigned low) {
    return static_cast<std::uintptr_t>(std::uint64_t{high} << 32 | low);
  }
  static void start(unsigned call_high, unsigned call_low, unsigned with_high, unsigned with_low) {
    auto const entry = reinterpret_cast<void (*)(void*)>(join(call_high, call_low));
    entry(reinterpret_cast<void*>(join(with_high, with_low)));
  }

  ucontext_t context_{};
};

#if defined(__x86_64__)

/// Saves what the System V ABI says a call keeps, and loads another stack's. The floating-point modes are the
/// OS thread's: all its fibers share them. What it loads may be new, then its entry takes `argument`.
[[gnu::naked, gnu::noinline]] inline void switch_stack(void** /*saved*/, void* /*loaded*/, void* /*argument*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    movq %rdx, %rdi
    ret
  )");
}

/// Switches call stacks in sixteen instructions.
class native_switch {
 public:
  void prepare(fiber_stack const& stack, void (*entry)(void*), void* argument) {
    auto* const frame = reinterpret_cast<void**>(stack.top()) - 2;  // a call leaves the stack at 8 modulo 16
    frame[0] = reinterpret_cast<void*>(entry);
    frame[1] = nullptr;  // where entry would return to: unwinders stop here
    saved_ = frame - 6;
    for (int i = 0; i < 6; ++i) static_cast<void**>(saved_)[i] = nullptr;
    argument_ = argument;
  }
  static void jump(native_switch& from, native_switch& to) { switch_stack(&from.saved_, to.saved_, to.argument_); }

 private:
  void* saved_ = nullptr;
  void* argument_ = nullptr;
};

using fastest_switch = native_switch;

#else

using fastest_switch = portable_switch;

#endif

/// A call stack that runs until it switches to another one. All fibers that switch to one another belong to
/// one OS thread. `entry` never returns, nor may an exception leave it; a fiber is destroyed while another
/// one runs.
template <class Switch>
class basic_fiber {
 public:
  /// The calling thread's own stack.
  basic_fiber() : own_(nullptr), sanitized_(sanitizers::this_stack()) {}
  basic_fiber(int number, void (*entry)(void*), void* argument, std::size_t size = fiber_stack::usual_size)
      : own_(new fiber_stack(number, size)),
        sanitized_(sanitizers::new_stack(own_->bottom(), own_->bytes())),
        entry_(entry),
        argument_(argument) {
    switch_.prepare(*own_, &start, this);
  }
  basic_fiber(basic_fiber const&) = delete;
  basic_fiber& operator=(basic_fiber const&) = delete;
  ~basic_fiber() {
    if (own_ != nullptr) sanitizers::destroy(sanitized_);
    delete own_;
  }

  /// Of a fiber with a stack of its own.
  [[nodiscard]] std::span<std::byte> memory() const { return own_->memory(); }

  /// Called on this fiber; returns when another one switches back.
  void switch_to(basic_fiber& next) {
    next.previous_ = this;
    sanitizers::before_switch(sanitized_, next.sanitized_);
    Switch::jump(switch_, next.switch_);
    sanitizers::after_switch(sanitized_, previous_->sanitized_);
  }

 private:
  static void start(void* self) {
    auto& fiber = *static_cast<basic_fiber*>(self);
    sanitizers::after_switch(fiber.sanitized_, fiber.previous_->sanitized_);
    fiber.entry_(fiber.argument_);
  }

  Switch switch_;
  fiber_stack* own_;
  sanitizers::stack sanitized_;
  basic_fiber* previous_ = nullptr;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
};

using fiber = basic_fiber<fastest_switch>;

}  // namespace testing
