# SPDX-License-Identifier: Apache-2.0
"""A worker is a process that measures one program: JSON lines in, JSON lines out.

First it says {"ready": {...}}. Then each line on standard input is a task, and is answered with any number of
{"progress": share} lines and one {"done": {...}} or {"failed": reason}. Whatever else a library prints goes to standard
error, so that standard output holds these lines alone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, Callable

Progress = Callable[[float], None]


class Lines:
    """The worker's end."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def write(self, **line: Any) -> None:
        self._out.write(json.dumps(line) + "\n")

    def serve(
        self, ready: dict[str, Any], tasks: dict[str, Callable[[dict[str, Any], Progress], dict[str, Any]]]
    ) -> None:
        """Answers until standard input ends. A task names its function in "task"."""
        self.write(ready=ready)
        for line in sys.stdin:
            task = json.loads(line)
            try:
                self.write(done=tasks[task["task"]](task, lambda share: self.write(progress=share)))
            except Exception as error:  # the next task may well work
                traceback.print_exc()
                self.write(failed=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
