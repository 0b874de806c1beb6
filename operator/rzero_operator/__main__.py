"""Runs the operator: `python -m rzero_operator`, configured by environment variables alone."""

import asyncio
import sys

from rzero_operator import logs
from rzero_operator.main import serve
from rzero_operator.settings import Settings

BAD_CONFIGURATION = 78


def main() -> int:
    """The exit code."""
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIGURATION
    logs.set_up(settings.log_format, settings.log_level)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
