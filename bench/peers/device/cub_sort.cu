// SPDX-License-Identifier: Apache-2.0
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <cub/device/device_segmented_radix_sort.cuh>
#include <numeric>

#include "support/scored_rows.cuh"

// CUB's radix sort of every row's scores with their indices, best first. The kept tokens then stand by score, not by
// index as `select` lists them.
namespace {

using namespace benchmarks;

/// First cell of a row.
struct row_begin {
  int tokens;
  __host__ __device__ int operator()(int row) const { return row * tokens; }
};

class sorted_rows {
 public:
  explicit sorted_rows(score_axes const& extents)
      : extents_(extents),
        scores_(extents),
        sorted_(extents.cells()),
        indices_(extents.cells()),
        order_(extents.cells()),
        scratch_(scratch_bytes()) {
    std::vector<std::int32_t> row(static_cast<std::size_t>(extents.tokens));
    std::iota(row.begin(), row.end(), 0);
    indices_.fill(device_buffer<std::int32_t>(row));
  }

  void sort(cudaStream_t stream) const {
    std::size_t bytes = scratch_.size();
    sort(scratch_.data(), bytes, stream);
  }
  /// The first row's scores stand in descending order.
  void check() const {
    auto const row = sorted_.read(static_cast<std::size_t>(extents_.tokens));
    require(std::ranges::is_sorted(row, std::ranges::greater()), "a row was not sorted");
  }

 private:
  void sort(std::byte* scratch, std::size_t& bytes, cudaStream_t stream) const {
    auto const begins = thrust::make_transform_iterator(thrust::make_counting_iterator(0), row_begin{extents_.tokens});
    require(cub::DeviceSegmentedRadixSort::SortPairsDescending(
        scratch, bytes, scores_.data(), sorted_.data(), indices_.data(), order_.data(),
        static_cast<int>(extents_.cells()), extents_.rows, begins, begins + 1, 0, 32, stream));
  }
  std::size_t scratch_bytes() const {
    std::size_t bytes = 0;
    sort(nullptr, bytes, cudaStreamPerThread);
    return bytes;
  }

  score_axes extents_;
  score_rows scores_;
  device_buffer<float> sorted_;
  device_buffer<std::int32_t> indices_, order_;
  device_buffer<std::byte> scratch_;
};

void cub_sort(benchmark::State& run) {
  score_axes const extents(run);
  auto settings = cold_rows<sorted_rows>(extents);
  call_time const time = time_replays(settings, [](cudaStream_t stream, sorted_rows const& at) { at.sort(stream); });
  for (auto const& setting : settings) setting.check();
  report_selection(run, extents, time);
}

}  // namespace

BENCHMARK(on_device<cub_sort>)->Name("select/cub_sort")->Apply(score_sweep);
