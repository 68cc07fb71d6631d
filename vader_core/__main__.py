"""``python -m vader_core``: the command ``vader``."""

from vader_core.cli import main

if __name__ == "__main__":
    main()
