// SPDX-License-Identifier: Apache-2.0
#include <flashinfer/math.cuh>
#include <flashinfer/topk.cuh>

#include "support/scored_rows.cuh"

// FlashInfer's top-k, from its own source: deterministic, of equal scores the lowest index first, and sorted by score
// as far as it sorts on the device (k to 2048). It lists one side: the kept tokens or the evicted ones.
namespace {

using namespace benchmarks;
namespace sampling = flashinfer::sampling;

class top_rows {
 public:
  top_rows(score_axes const& extents, int k)
      : extents_(extents), k_(k), scores_(extents), best_(count()), indices_(count()), groups_(group_bytes) {}

  void select(cudaStream_t stream) const {
    constexpr int largest_sorted = 2048;
    bool const deterministic = true;
    require(sampling::TopKDispatch<float, std::int32_t>(
        scores_.data(), indices_.data(), best_.data(), static_cast<std::uint32_t>(extents_.rows),
        static_cast<std::uint32_t>(k_), static_cast<std::uint32_t>(extents_.tokens),
        reinterpret_cast<sampling::RadixRowState*>(groups_.data()), k_ <= largest_sorted, deterministic,
        k_ <= largest_sorted ? sampling::TopKTieBreak::Small : sampling::TopKTieBreak::None, stream));
  }
  void check() const {
    auto const row = indices_.read(static_cast<std::size_t>(k_));
    require(std::ranges::any_of(row, [](auto index) { return index != 0; }), "nothing was selected");
  }

 private:
  static constexpr std::size_t group_bytes = std::size_t{1} << 20;  // as FlashInfer's own Python function has it

  [[nodiscard]] std::size_t count() const {
    return static_cast<std::size_t>(extents_.rows) * static_cast<std::size_t>(k_);
  }

  score_axes extents_;
  int k_;
  score_rows scores_;
  device_buffer<float> best_;
  device_buffer<std::int32_t> indices_;
  device_buffer<std::byte> groups_;
};

template <bool Kept>
void top_k(benchmark::State& run) {
  score_axes const extents(run);
  int const k = Kept ? extents.kept() : extents.evicted;
  std::vector<top_rows> settings;
  std::size_t const count = cold_settings(4.0 * static_cast<double>(extents.cells()));
  for (std::size_t i = 0; i < count; ++i) settings.emplace_back(extents, k);
  call_time const time = time_replays(settings, [](cudaStream_t stream, top_rows const& at) { at.select(stream); });
  for (auto const& setting : settings) setting.check();
  report_selection(run, extents, time);
}

}  // namespace

BENCHMARK(on_device<top_k<true>>)->Name("select/flashinfer/kept")->Apply(score_sweep);
BENCHMARK(on_device<top_k<false>>)->Name("select/flashinfer/evicted")->Apply(score_sweep);
