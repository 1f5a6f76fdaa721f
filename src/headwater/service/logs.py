"""Logs: one JSON object per line on stderr. Faults are always logged, requests where that is asked for."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

SERVICE = logging.getLogger("headwater.service")
ACCESS = logging.getLogger("headwater.access")

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: instant, level, logger, message, and `extra={"facts": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def configure(level: int = logging.INFO) -> None:
    """Send everything of Headwater to stderr as JSON. For programs; importing never configures anything."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("headwater")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
