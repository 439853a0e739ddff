// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace binding {

/// ValueError: what was given, what must be.
[[noreturn]] void refuse(std::string const& text);

}  // namespace binding

// Where the verbs of an extension module run. The same sources are compiled for the host, for a CUDA device, and for
// its kernels on emulated blocks. What Python knows as a class has a C++ type of its own in each module, as modules
// share what nanobind knows of types: it is in the inline namespace FORESIGHTKV_PYTHON_BACKEND.
#if defined(FORESIGHTKV_PYTHON_CUDA)
#define FORESIGHTKV_PYTHON_BACKEND on_cuda
#include "backends/cuda.cuh"
#elif defined(FORESIGHTKV_PYTHON_EMULATED)
#define FORESIGHTKV_PYTHON_BACKEND on_emulated_blocks
#include "backends/emulated.hpp"
#else
#define FORESIGHTKV_PYTHON_BACKEND on_host
#include "backends/host.hpp"
#endif

#include <foresightkv/workspace.hpp>

namespace binding {

/// Memory that verbs work on, all 0 at first.
class memory {
 public:
  memory() = default;
  explicit memory(std::size_t bytes) : first_(backend::allocate(bytes)), size_(bytes) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] foresightkv::workspace view() const { return {first_.get(), size_}; }
  template <class Element>
  [[nodiscard]] Element* elements() const {
    return reinterpret_cast<Element*>(first_.get());
  }

 private:
  struct give_back {
    void operator()(std::byte* first) const noexcept { backend::release(first); }
  };
  std::unique_ptr<std::byte, give_back> first_;
  std::size_t size_ = 0;
};

template <class Element>
memory memory_of(std::size_t count) {
  return memory(count * sizeof(Element));
}

/// Values of the host as a verb reads them: where they stand, or copied to a buffer that the next call may use again.
template <class Element>
Element const* given(backend::execution const& exec, std::span<Element const> values, memory& buffer) {
  if constexpr (backend::is_host) {
    return values.data();
  } else {
    if (buffer.size() < values.size_bytes() || buffer.size() == 0) buffer = memory(values.size_bytes());
    backend::to_backend(exec, buffer.view().data, values.data(), values.size_bytes());
    return buffer.elements<Element>();
  }
}

/// Values in a verb's memory as the host reads them: where they stand, or a copy, once the work before it is done.
template <class Element>
class host_values {
 public:
  host_values(backend::execution const& exec, Element const* values, std::size_t count) : values_(values, count) {
    if constexpr (!backend::is_host) {
      copy_.resize(count);
      backend::from_backend(exec, copy_.data(), values, count * sizeof(Element));
      values_ = copy_;
    }
  }
  host_values(host_values const&) = delete;
  host_values& operator=(host_values const&) = delete;

  [[nodiscard]] Element operator[](std::size_t i) const { return values_[i]; }
  [[nodiscard]] Element const* data() const { return values_.data(); }
  [[nodiscard]] auto begin() const { return values_.begin(); }
  [[nodiscard]] auto end() const { return values_.end(); }

 private:
  std::vector<Element> copy_;
  std::span<Element const> values_;
};

}  // namespace binding
