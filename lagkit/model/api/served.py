"""`transformers serve` that ends with whoever started it: `python -m lagkit.model.api.served MODEL OPTIONS`.

Who starts it holds its standard input, which is closed when that process ends, however it ends.
"""

from __future__ import annotations

import os
import sys
import threading

ALONE = 3  # the exit code of a server that nobody holds any more


def main() -> None:
    """Serve until standard input is closed."""
    threading.Thread(target=_until_alone, daemon=True).start()
    from transformers.cli.transformers import main as transformers  # takes seconds, in which it may be left alone too

    sys.argv[1:1] = ["serve"]
    transformers()


def _until_alone() -> None:
    sys.stdin.buffer.read()
    os._exit(ALONE)


if __name__ == "__main__":
    main()
