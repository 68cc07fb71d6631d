"""A command in one of several processes: its words come as one JSON list."""

from __future__ import annotations

import json
import sys

from vader_core.cli import main

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
