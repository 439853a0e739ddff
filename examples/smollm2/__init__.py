# SPDX-License-Identifier: Apache-2.0
"""A judge trained and judged on SmolLM2-135M, from text to the model's own loss."""

import pathlib
import sys

# Shares with compare.py how texts and model are fetched.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "python"))
