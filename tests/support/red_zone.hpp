// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif

namespace testing {

/// A buffer between two red zones. Writes into a zone show in `intact`; under AddressSanitizer the zones are
/// poisoned, so that reads show too. The payload starts `shift` bytes behind a 64-byte boundary and is filled
/// with 0xA5, a pattern that is a tiny negative float and a negative integer.
template <class Element>
class guarded {
  static_assert(std::is_trivially_copyable_v<Element>);

 public:
  static constexpr std::size_t zone = 256;
  static constexpr unsigned char zone_fill = 0x5C;
  static constexpr unsigned char payload_fill = 0xA5;

  explicit guarded(std::size_t count = 0, std::size_t shift = 0) : count_(count), shift_(shift) {
    memory_ = static_cast<unsigned char*>(::operator new (total(), std::align_val_t{64}));
    std::memset(memory_, zone_fill, total());
    if (count_ > 0) std::memset(payload(), payload_fill, bytes());
    poison();
  }
  guarded(std::size_t count, Element const& value) : guarded(count) {
    for (Element& element : *this) element = value;
  }
  explicit guarded(std::vector<Element> const& values) : guarded(values.size()) {
    if (count_ > 0) std::memcpy(payload(), values.data(), bytes());
  }
  guarded(guarded const& other) : guarded(other.count_, other.shift_) {
    if (count_ > 0) std::memcpy(payload(), other.payload(), bytes());
  }
  guarded(guarded&& other) noexcept : count_(other.count_), shift_(other.shift_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  guarded& operator=(guarded other) noexcept {
    std::swap(count_, other.count_);
    std::swap(shift_, other.shift_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~guarded() {
    if (memory_ == nullptr) return;
    unpoison();
    ::operator delete (memory_, std::align_val_t{64});
  }

  [[nodiscard]] Element* data() { return reinterpret_cast<Element*>(payload()); }
  [[nodiscard]] Element const* data() const { return reinterpret_cast<Element const*>(payload()); }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::size_t bytes() const { return count_ * sizeof(Element); }
  [[nodiscard]] Element& operator[](std::size_t i) { return data()[i]; }
  [[nodiscard]] Element const& operator[](std::size_t i) const { return data()[i]; }
  [[nodiscard]] Element* begin() { return data(); }
  [[nodiscard]] Element* end() { return data() + count_; }
  [[nodiscard]] Element const* begin() const { return data(); }
  [[nodiscard]] Element const* end() const { return data() + count_; }

  /// Whether nobody wrote outside the payload.
  [[nodiscard]] bool intact() const {
    unpoison();
    bool clean = true;
    std::size_t const front = zone + shift_;
    for (std::size_t i = 0; i < front; ++i) clean = clean && memory_[i] == zone_fill;
    for (std::size_t i = front + bytes(); i < total(); ++i) clean = clean && memory_[i] == zone_fill;
    poison();
    return clean;
  }
  /// Byte for byte.
  [[nodiscard]] bool same_bytes(guarded const& other) const {
    return count_ == other.count_ && (count_ == 0 || std::memcmp(payload(), other.payload(), bytes()) == 0);
  }

 private:
  [[nodiscard]] unsigned char* payload() const { return memory_ + zone + shift_; }
  [[nodiscard]] std::size_t total() const { return 2 * zone + shift_ + bytes(); }

  void poison() const {
#if defined(ASAN_POISON_MEMORY_REGION)
    ASAN_POISON_MEMORY_REGION(memory_, zone + shift_);
    ASAN_POISON_MEMORY_REGION(memory_ + zone + shift_ + bytes(), zone);
#endif
  }
  void unpoison() const {
#if defined(ASAN_UNPOISON_MEMORY_REGION)
    ASAN_UNPOISON_MEMORY_REGION(memory_, total());
#endif
  }

  std::size_t count_;
  std::size_t shift_;
  unsigned char* memory_ = nullptr;
};

}  // namespace testing
