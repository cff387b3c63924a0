"""``python -m sampler_operator.local NAME``: the runtime of a fleet whose spec is in its folder."""

import asyncio
import logging
import sys

from ..errors import OperatorError
from .requests import folder_of
from .runtime import Runtime

__all__ = ["main"]


def main(name: str) -> int:
    """Run until SIGTERM; the exit code."""
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel("WARNING")
    try:
        asyncio.run(Runtime(folder_of(name), lambda line: print(line, flush=True)).run())
    except OperatorError as error:
        print(f"sampler up: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
