# SPDX-License-Identifier: Apache-2.0
"""What an eviction did to a generation, in numbers and as a page."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SequenceReport:
    """One sequence of a batch."""

    tokens: int
    """Tokens that the cache was given: the prompt and what was generated, but for the last one."""
    evictions: int
    """How often the sequence was cut. Every layer and head is cut alike often."""
    tokens_evicted: int
    """Tokens that each head of each layer lost."""
    kept: dict[int, np.ndarray]
    """By layer number: [kv_head][kept tokens] their positions, ascending; pads do not count."""

    def share_kept(self) -> np.ndarray:
        """[layer][token] share of the heads that still have each token."""
        shares = np.zeros((len(self.kept), self.tokens), np.float32)
        for row, positions in zip(shares, self.kept.values()):
            if positions.size:
                np.add.at(row, positions.ravel(), 1.0 / positions.shape[0])
        return shares


@dataclass(frozen=True)
class Report:
    """What happened to all sequences of a cache."""

    policy: str
    sequences: list[SequenceReport]
    bytes_held: int
    """Keys and values that are stored now, of all layers that are evicted."""
    bytes_peak: int
    """The most that were stored at a time. While a layer attends to a prompt it stores all of it."""
    bytes_freed: int
    """Keys and values that were evicted, in all."""

    @property
    def evictions(self) -> int:
        return sum(sequence.evictions for sequence in self.sequences)

    @property
    def tokens_evicted(self) -> int:
        return sum(sequence.tokens_evicted for sequence in self.sequences)

    def __str__(self) -> str:
        lines = [self.policy]
        for number, sequence in enumerate(self.sequences):
            held = sequence.tokens - sequence.tokens_evicted
            lines.append(
                f"sequence {number}: {sequence.evictions} evictions, {sequence.tokens_evicted} of {sequence.tokens} "
                f"tokens evicted per head, {held} held"
            )
        lines.append(
            f"keys and values: {_bytes(self.bytes_held)} held, {_bytes(self.bytes_peak)} at most, "
            f"{_bytes(self.bytes_freed)} freed"
        )
        return "\n".join(lines)

    def html(self, words: list[list[str]], title: str = "What the cache kept") -> str:
        """A page that shows each token as dark as the share of layers and heads that still have it.

        words: for each sequence the text of its tokens, pads left out; those that were not in the cache yet may follow.
        """
        data = [
            {
                "words": list(texts),
                "layers": list(sequence.kept),
                "share": np.round(sequence.share_kept(), 3).tolist(),
            }
            for sequence, texts in zip(self.sequences, words)
        ]
        embedded = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
        return (
            _PAGE.replace("__TITLE__", html.escape(title))
            .replace("__SUMMARY__", html.escape(str(self)))
            .replace("__DATA__", embedded)
        )


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>__TITLE__</title>
<style>
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; }
  pre { background: #f3f5f8; padding: .75rem; overflow-x: auto; }
  .text { white-space: pre-wrap; overflow-wrap: anywhere; }
  .text span { border-radius: 2px; }
  .text span.new { border-bottom: 2px solid #b8860b; }
  label { margin-right: 1.5rem; }
  @media (prefers-color-scheme: dark) { body { background: #14181d; color: #dde3ea; } pre { background: #1f252c; } }
</style>
<h1>__TITLE__</h1>
<pre>__SUMMARY__</pre>
<p><label>Sequence <select id="sequence"></select></label><label>Layer <select id="layer"></select></label></p>
<p>The darker a word stands, the more heads still have it; underlined words were not in the cache yet.</p>
<div class="text" id="text"></div>
<script>
const data = __DATA__;
const sequence = document.getElementById("sequence"), layer = document.getElementById("layer");
const text = document.getElementById("text");
const option = (select, value, name) => select.add(new Option(name, value));
data.forEach((one, i) => option(sequence, i, i));
function show() {
  const one = data[sequence.value], rows = layer.value === "all" ? one.share : [one.share[layer.value]];
  text.replaceChildren(...one.words.map((word, i) => {
    const span = document.createElement("span");
    span.textContent = word;
    if (i >= one.share[0].length) { span.className = "new"; return span; }
    const share = rows.reduce((sum, row) => sum + row[i], 0) / rows.length;
    span.style.background = `rgba(31, 119, 180, ${0.75 * share})`;
    span.style.opacity = 0.45 + 0.55 * share;
    span.title = `position ${i}: kept by ${Math.round(100 * share)} % of the heads`;
    return span;
  }));
}
function choose() {
  layer.replaceChildren();
  option(layer, "all", "all");
  data[sequence.value].layers.forEach((number, i) => option(layer, i, number));
  show();
}
sequence.onchange = choose;
layer.onchange = show;
choose();
</script>
</html>
"""
