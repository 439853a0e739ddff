// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/carry.hpp>
#include <foresightkv/detail/kernels/judge.hpp>
#include <foresightkv/detail/kernels/row_block.hpp>
#include <foresightkv/detail/window.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Scores tokens of a row whose statistics are in memory, by all threads of a block: a part of the row where the scorer
/// sees one token at a time, else the whole one.
template <class Cache, class Window, class Reads, class Scorer>
struct score_stage {
  static constexpr bool whole_rows = !pointwise_scorer<Scorer>;
  enum sync : int { carried_written = 40 };
  using window_list = window_statistics<Reads>;
  using carried_list = carried_statistics<Reads>;

  visited_rows rows{};
  Cache cache{};
  Window window{};
  Scorer scorer{};
  eviction_config config{};
  observed_rows observed{};
  bool carries = false;        // carried statistics take the window in before they are read
  float* carried = nullptr;    // [place][max_length][carried list][group], written here
  float* temporary = nullptr;  // [place][scratch rows][temporary_stride]
  std::int64_t temporary_stride = 0;
  float* scores = nullptr;  // [place or row][scores_capacity]
  int scores_capacity = 0;
  bool scores_by_row = false;
  int max_length = 0;

  template <class Context>
  using shared = typename row_block<Context>::shared;

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory, visited_row const& row, int first,
                                          int last) const {
    int const group = cache.shape().group;
    row_positions const positions = rows.positions(row);
    auto view = view_row<Reads>(cache, window, config, rows.state, row.at, row.length, positions);
    view.observed = observed.of(row, window_list::size * group);
    view.carried = part_of(carried, row.place, std::int64_t{max_length} * carried_list::size * group);
    view.scratch_base = part_of(temporary, row.place, scratch_rows<Scorer>() * temporary_stride);
    view.scratch_stride = static_cast<std::size_t>(temporary_stride);
    if constexpr (carried_list::size > 0) write_carried(c, row, first, last, view.observed);
    row_block<Context> const block{c, memory, first, whole_rows ? row_block<Context>::all : last};
    evaluate(scorer, block, view, scores_of(row));
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float* scores_of(visited_row const& row) const {
    return part_of(scores, scores_by_row ? row.row : row.place, scores_capacity);
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void write_carried(Context const& c, visited_row const& row, int first, int last,
                                             float const* seen) const {
    int const group = cache.shape().group;
    row_carried const old = carried_of(rows.state, row.row);
    float* const target = part_of(carried, row.place, std::int64_t{max_length} * old.width);
    if (carries) {
      for (int i = first * group + c.rank(); i < last * group; i += Context::threads)
        carry_observed<window_list, carried_list>(old, seen, i / group, i % group, group,
                                                  target + std::int64_t{i / group} * old.width + i % group);
    } else {
      int const stored = old.stored * old.width;
      for (int i = first * old.width + c.rank(); i < last * old.width; i += Context::threads)
        target[i] = i < stored ? old.values[i] : 0.0f;
    }
    c.sync(carried_written);
  }
};

/// Whether a stage is the judge alone.
template <class Stage>
inline constexpr bool is_judged = false;
template <class Cache, class Window, class Reads, class Features>
inline constexpr bool is_judged<score_stage<Cache, Window, Reads, foresight<Features>>> = true;

/// Scores rows: a block per tile of tokens, or per row where the scorer sees the row.
template <class Stage>
struct score_kernel {
  static constexpr int threads = 256;
  static constexpr int min_blocks = 2;
  static constexpr int tile = is_judged<Stage> ? 256 : 64;  // tokens: a judge's warp has 32 at a time

  Stage stage{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const {
    return Stage::whole_rows ? 1 : divide_up(stage.max_length, tile);
  }

  template <class Context>
  using shared = typename Stage::template shared<Context>;

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = stage.rows.at(c.block() / tiles());
    int const first = c.block() % tiles() * tile;
    if (!row.visited() || first >= row.length) return;
    stage(c, memory, row, first, Stage::whole_rows ? row.length : smaller(first + tile, row.length));
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
