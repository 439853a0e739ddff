# SPDX-License-Identifier: Apache-2.0
"""Traces, label shards, judge weights and plain safetensors files, in and out.

Files are mapped and checked when they are opened; arrays are read-only views of them that keep them open. What is
written appears whole or not at all. Problems are ValueError: one line that names file, tensor and reason.
"""

from ._core import (
    Judge,
    LabelShard,
    Tensors,
    Trace,
    TraceShape,
    label_shard_name,
    read_labels,
    read_safetensors,
    read_trace,
    write_labels,
    write_safetensors,
    write_trace,
)

__all__ = [
    "Judge",
    "LabelShard",
    "Tensors",
    "Trace",
    "TraceShape",
    "label_shard_name",
    "read_labels",
    "read_safetensors",
    "read_trace",
    "write_labels",
    "write_safetensors",
    "write_trace",
]
