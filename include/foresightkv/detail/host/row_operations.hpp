// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/observe.hpp>
#include <foresightkv/detail/row_operations.hpp>

// The host's fast forms of detail/row_operations.hpp. Each enters code for the block's instruction set by itself: it
// may be called from deep inside combinators that were compiled for the baseline.

namespace foresightkv::inline v0::detail::host {

template <class Isa>
void bulk_softmax_row(host_block<Isa> const&, float* x, int n) {
  with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    using set = decltype(isa);
    if (n <= 0) return;
    float const largest = row_maximum<set>(x, n);
    if (!(largest > hidden_logit)) {
      for (int i = 0; i < n; ++i) x[i] = 0.0f;
      return;
    }
    // Before the factor: contracted, x * log2(e) would meet a rounded largest * log2(e), far off for large logits.
    for (int i = 0; i < n; ++i) x[i] -= largest;
    float const total = exp2_row<set>(x, n, log2_e, 0.0f);
    scale_row<set>(x, n, 1.0f / total);
  });
}

/// A panel of keys and what multiplies them. Lives on the stack, so heads wider than `chunk` go through in parts.
template <class Isa>
struct key_panel {
  static constexpr int rows = logits_tile<Isa>::rows;
  static constexpr int width = panel_tokens<Isa>;
  static constexpr int chunk = 256;

  float packed[static_cast<std::size_t>(width) * chunk];
  float wide[rows][chunk];
  float part[rows][width];
  float products[rows][width];
  bool is_packed = false;

  template <class KeyAt>
  [[gnu::always_inline]] void pack(KeyAt const& key_at, int tokens, int from, int dims) {
    pack_keys<Isa>(
        [&](int t) __attribute__((always_inline)) { return key_at(t) + from; }, tokens, dims, packed);
  }
  template <class Element>
  [[gnu::always_inline]] float const* widened(Element const* row, int dims, int place) {
    if constexpr (std::same_as<Element, float>) {
      return row;
    } else {
      widen<Isa>(row, dims, wide[place]);
      return wide[place];
    }
  }
  /// products[r][t] = row_at(r) . key_at(t) for r < count <= rows, t < tokens <= width.
  template <class RowAt, class KeyAt>
  [[gnu::always_inline]] void multiply(RowAt const& row_at, int count, KeyAt const& key_at, int tokens, int dim) {
    float const* inputs[rows];
    float* outputs[rows];
    for (int from = 0; from < dim; from += chunk) {
      int const dims = dim - from < chunk ? dim - from : chunk;
      if (!is_packed || dim > chunk) pack(key_at, tokens, from, dims);
      for (int r = 0; r < rows; ++r) {  // beyond the last row, that one again
        inputs[r] = r < count ? widened(row_at(r) + from, dims, r) : inputs[r - 1];
        outputs[r] = from == 0 ? products[r] : part[r];
      }
      if (count > rows / 2)
        logits_of_panel<Isa, rows>(inputs, outputs, dims, packed);
      else
        logits_of_panel<Isa, rows / 2>(inputs, outputs, dims, packed);
      if (from == 0) continue;
      for (int r = 0; r < count; ++r)
        for (int t = 0; t < width; ++t) products[r][t] += part[r][t];
    }
    is_packed = true;
  }
};

/// Raises the logits of a panel's tokens to those of one query head.
[[gnu::always_inline]] inline void raise(float* logits, float const* products, int tokens) {
  for (int t = 0; t < tokens; ++t) logits[t] = products[t] > logits[t] ? products[t] : logits[t];
}

/// Scales the largest products of one query, caps them, and hides the tokens that it does not see.
template <class Row>
[[gnu::always_inline]] inline void finish_logits(Row const& row, int position, float* logits, int keys) {
  float const scale = row.softmax_scale() * row_scale(row.row_keys());  // of products of stored keys
  float const cap = row.soft_cap();
  int const seen = visible_prefix(row.positions, keys, position);
  for (int i = 0; i < seen; ++i) {
    bool const any = logits[i] > hidden_logit;  // else every query head was masked, or gave NaN
    float const logit = any ? logits[i] * scale * token_scale(row.row_keys(), i) : hidden_logit;
    logits[i] = logit > -hidden_logit ? -hidden_logit : logit;
  }
  if (cap > 0.0f)
    for (int i = 0; i < seen; ++i)
      if (logits[i] > hidden_logit) logits[i] = cap * std::tanh(logits[i] / cap);
  for (int i = seen; i < keys; ++i) logits[i] = hidden_logit;
}

template <class Isa, class Row>
void bulk_window_logits(host_block<Isa> const&, Row const& row, int queries, int keys) {
  with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    using panel_type = key_panel<decltype(isa)>;
    int const group = row.group();
    int const first_query = row.num_queries() - queries;
    for (int first = 0; first < keys; first += panel_type::width) {
      int const tokens = keys - first < panel_type::width ? keys - first : panel_type::width;
      panel_type panel;
      for (int r = 0; r < queries; ++r)
        for (int t = 0; t < tokens; ++t) row.scratch(r)[first + t] = hidden_logit;
      for (int pair = 0; pair < queries * group; pair += panel_type::rows) {
        int const count = queries * group - pair < panel_type::rows ? queries * group - pair : panel_type::rows;
        auto const query_at = [&](int i) __attribute__((always_inline)) {
          return row.queries(first_query + (pair + i) / group, (pair + i) % group);
        };
        auto const key_at = [&](int t) __attribute__((always_inline)) { return row.keys(first + t); };
        panel.multiply(query_at, count, key_at, tokens, row.key_head_dim());
        for (int i = 0; i < count; ++i) {
          int const r = (pair + i) / group;
          if (!row.masked(first_query + r, (pair + i) % group))
            raise(row.scratch(r) + first, panel.products[i], tokens);
        }
      }
    }
    for (int r = 0; r < queries; ++r) finish_logits(row, row.query_position(first_query + r), row.scratch(r), keys);
  });
}

template <class Isa, class Row>
void bulk_sum_scaled_keys(host_block<Isa> const&, Row const& row, float const* inverse, float* sums) {
  with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    constexpr int chunk = 64;  // dimensions at a time
    constexpr int run = 64;    // tokens whose partial sum is formed apart, as the generic form does
    float wide[chunk];
    float part[chunk];
    for (int from = 0; from < row.key_head_dim(); from += chunk) {
      int const dims = row.key_head_dim() - from < chunk ? row.key_head_dim() - from : chunk;
      for (int d = 0; d < dims; ++d) sums[from + d] = 0.0f;
      for (int first = 0; first < row.length(); first += run) {
        int const last = first + run < row.length() ? first + run : row.length();
        for (int d = 0; d < dims; ++d) part[d] = 0.0f;
        for (int slot = first; slot < last; ++slot) {
          if (inverse[slot] == 0.0f) continue;
          widen<decltype(isa)>(row.keys(slot) + from, dims, wide);
          float const factor = inverse[slot] * token_scale(row.row_keys(), slot);
          for (int d = 0; d < dims; ++d) part[d] += wide[d] * factor;
        }
        for (int d = 0; d < dims; ++d) sums[from + d] += part[d];
      }
      for (int d = 0; d < dims; ++d) sums[from + d] *= row_scale(row.row_keys());
    }
  });
}

/// Largest t < tokens with products[t] * inverse[t] * own above the threshold, -1 if there is none.
[[gnu::always_inline]] inline int last_above(float const* products, float const* inverse, int tokens, float own,
                                             float threshold) {
  int last = -1;
  for (int t = 0; t < tokens; ++t) last = products[t] * own * inverse[t] > threshold ? t : last;
  return last;
}

/// Panels from the newest down; a token takes part until its similar key is found.
template <class Isa, class Row>
void bulk_last_similar_keys(host_block<Isa> const&, Row const& row, float threshold, float const* inverse,
                            float* similar, float* cosine) {
  with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    using panel_type = key_panel<decltype(isa)>;
    constexpr float unknown = -1.0f;
    int const n = row.length();
    float const scale = row_scale(row.row_keys());
    float of_panel[panel_type::width];
    for (int i = 0; i < n; ++i) similar[i] = unknown;
    for (int first = (n - 1) / panel_type::width * panel_type::width; first >= 0; first -= panel_type::width) {
      int const tokens = n - first < panel_type::width ? n - first : panel_type::width;
      panel_type panel;
      for (int t = 0; t < tokens; ++t) of_panel[t] = inverse[first + t] * token_scale(row.row_keys(), first + t);
      for (int next = 0; next < n;) {
        int members[panel_type::rows] = {};
        int count = 0;
        for (; next < n && count < panel_type::rows; ++next)
          if (similar[next] == unknown) members[count++] = next;
        if (count == 0) break;
        panel.multiply(
            [&](int r) __attribute__((always_inline)) { return row.keys(members[r]); },
            count, [&](int t) __attribute__((always_inline)) { return row.keys(first + t); }, tokens,
            row.key_head_dim());
        for (int r = 0; r < count; ++r) {
          int const slot = members[r];
          float* const products = panel.products[r];
          if (slot >= first && slot < first + tokens) products[slot - first] = 0.0f;
          float const own = inverse[slot] * token_scale(row.row_keys(), slot) * scale * scale;
          int const found = last_above(products, of_panel, tokens, own, threshold);
          int const column = found < 0 ? 0 : found;
          // Where the search ends without a find, column 0 of the last panel is slot 0.
          cosine[slot] = products[column] * own * of_panel[column];
          if (found >= 0) similar[slot] = static_cast<float>(first + found);
        }
      }
    }
    for (int i = 0; i < n; ++i) similar[i] = similar[i] == unknown ? 0.0f : similar[i];
  });
}

}  // namespace foresightkv::inline v0::detail::host
