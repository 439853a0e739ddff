# SPDX-License-Identifier: Apache-2.0
"""Processes that measure, one program each, in the environment that this program needs."""
