# SPDX-License-Identifier: Apache-2.0
"""The parts of compare.py: texts, models, environments of the peers, work, table and plot."""
