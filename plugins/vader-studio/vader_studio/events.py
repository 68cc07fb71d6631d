"""What a worker tells the server, as JSON lines on a stream of their own."""

from __future__ import annotations

import json
import os
from typing import Any


class Events:
    """Tells the server of events, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")

    def send(self, event: str, **facts: Any) -> None:
        """Tell of one; a server that is gone is not told."""
        try:
            self._stream.write(json.dumps({"event": event, **facts}) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return
