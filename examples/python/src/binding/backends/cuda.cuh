// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.cuh>
#include <stdexcept>
#include <string>
#include <tuple>

namespace binding {

/// The verbs on the current device, on a stream of the caller's.
struct cuda_backend {
  using execution = foresightkv::cuda_execution;
  using device = nanobind::device::cuda;
#if defined(FORESIGHTKV_PYTHON_FLOAT)
  using token_elements = std::tuple<float, foresightkv::half, foresightkv::bfloat16>;
#else
  using token_elements = std::tuple<foresightkv::half, foresightkv::bfloat16>;
#endif
  using schedule = std::uintptr_t;
  static constexpr bool is_host = false;
  static constexpr char const* schedule_name = "stream";
  static constexpr char const* schedule_text =
      "stream: where the work goes, as torch.cuda.current_stream().cuda_stream; 0 for the legacy default stream.";
  static constexpr char const* memory_name = "a CUDA device's memory (PyTorch, CuPy, or anything that speaks DLPack)";

  static execution on(std::uintptr_t stream) {
    auto const traits = foresightkv::device_traits::query();
    check(static_cast<cudaError_t>(traits.native));
    return foresightkv::on(reinterpret_cast<cudaStream_t>(stream), traits);
  }
  static int device_id() {
    int current = 0;
    check(cudaGetDevice(&current));
    return current;
  }
  /// Memory and streams are of one device, which has to be the current one.
  static void expect_device(int of_array) {
    int const current = device_id();
    if (of_array != current)
      refuse("an array of device " + std::to_string(of_array) + ", and the current device is " +
             std::to_string(current));
  }

  /// Of no stream: this memory is used by more than one, and may be given back when the caller's is gone.
  static std::byte* allocate(std::size_t bytes) {
    void* made = nullptr;
    check(cudaMalloc(&made, bytes > 0 ? bytes : 1));
    auto const cleared = cudaMemset(made, 0, bytes);
    auto const done = cleared == cudaSuccess ? cudaStreamSynchronize(cudaStreamLegacy) : cleared;
    if (done != cudaSuccess) (void)cudaFree(made);
    check(done);
    return static_cast<std::byte*>(made);
  }
  static void release(std::byte* first) noexcept { (void)cudaFree(first); }  // waits for the device

  /// The host's memory may go after this.
  static void to_backend(execution const& exec, void* to, void const* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, exec.stream));
    wait(exec);
  }
  static void from_backend(execution const& exec, void* to, void const* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, exec.stream));
    wait(exec);
  }
  static void copy(execution const& exec, void* to, void const* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, exec.stream));
  }
  static void fill(execution const& exec, void* to, int byte, std::size_t bytes) {
    check(cudaMemsetAsync(to, byte, bytes, exec.stream));
  }
  static char const* native_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
  static void wait(execution const& exec) { check(cudaStreamSynchronize(exec.stream)); }

  struct running {};

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }
};

using backend = cuda_backend;

}  // namespace binding
