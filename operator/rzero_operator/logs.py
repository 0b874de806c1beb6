"""Sets up logging: lines for people, or one JSON object a line, with the run that each is about."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

FIELDS = ("namespace", "run", "iteration", "stage", "attempt")
"""What a record may say about the run that it concerns."""


class TextFormatter(logging.Formatter):
    """The fields stand behind the message, as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        said = [f"{name}={getattr(record, name)}" for name in FIELDS if hasattr(record, name)]
        return " ".join([line, *said])


def set_up(format: str, level: str) -> None:
    """Log to standard error. `format` is text or json."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # A line for each event that the watch brings, and for each scrape.
    for name in ("kopf.objects", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
