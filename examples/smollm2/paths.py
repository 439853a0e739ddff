# SPDX-License-Identifier: Apache-2.0
"""Where things are."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build/smollm2"  # texts, traces, judges, losses: everything that is made
WEIGHTS = ROOT / "examples/data/smollm2_135m_judge.safetensors"
