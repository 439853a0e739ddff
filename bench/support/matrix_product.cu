// SPDX-License-Identifier: Apache-2.0
#include "support/device_timing.cuh"

#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
#include <dlfcn.h>

#include <string>

namespace benchmarks {
namespace {

/// Looked for at run time, so that the program also starts where cuBLAS is not installed.
class cublas {
 public:
  cublas() {
    require(library_ != nullptr, "cuBLAS was not found");
    check(function<decltype(cublasCreate_v2)>("cublasCreate_v2")(&handle_));
  }
  cublas(cublas const&) = delete;
  ~cublas() { (void)function<decltype(cublasDestroy_v2)>("cublasDestroy_v2")(handle_); }

  /// c = a b: n x n, column-major.
  void multiply(cudaStream_t stream, int n, fkv::bfloat16 const* a, fkv::bfloat16 const* b, fkv::bfloat16* c) const {
    float const one = 1.0f, zero = 0.0f;
    check(function<decltype(cublasSetStream_v2)>("cublasSetStream_v2")(handle_, stream));
    check(
        function<decltype(cublasSetWorkspace_v2)>("cublasSetWorkspace_v2")(handle_, scratch_.data(), scratch_.size()));
    check(function<product>("cublasGemmEx")(handle_, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, a, CUDA_R_16BF, n, b,
                                            CUDA_R_16BF, n, &zero, c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F,
                                            CUBLAS_GEMM_DEFAULT));
  }

 private:
  using product = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, void const*,
                                 void const*, cudaDataType, int, void const*, cudaDataType, int, void const*, void*,
                                 cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

  static void check(cublasStatus_t done) { require(done == CUBLAS_STATUS_SUCCESS, "a call of cuBLAS failed"); }

  template <class Function>
  Function* function(char const* name) const {
    void* const found = dlsym(library_, name);
    require(found != nullptr, "this cuBLAS lacks a function");
    return reinterpret_cast<Function*>(found);
  }

  void* library_ = dlopen(("libcublas.so." + std::to_string(CUBLAS_VER_MAJOR)).c_str(), RTLD_NOW);
  cublasHandle_t handle_ = nullptr;
  device_buffer<std::byte> scratch_{std::size_t{32} << 20};  // its own would be allocated inside the graph
};

}  // namespace

call_time time_matrix_product() {
  constexpr int n = 8192;
  cublas const library;
  using matrices = std::array<device_buffer<fkv::bfloat16>, 3>;
  constexpr std::size_t cells = std::size_t{n} * n;
  std::vector<matrices> settings;
  settings.push_back(
      {device_buffer<fkv::bfloat16>(cells), device_buffer<fkv::bfloat16>(cells), device_buffer<fkv::bfloat16>(cells)});
  for (std::size_t factor : {0u, 1u}) settings[0][factor].fill_normal();
  return time_replays(settings, [&](cudaStream_t stream, matrices const& at) {
    library.multiply(stream, n, at[0].data(), at[1].data(), at[2].data());
  });
}

}  // namespace benchmarks
#else
namespace benchmarks {

call_time time_matrix_product() { throw std::runtime_error("built without cuBLAS"); }

}  // namespace benchmarks
#endif
