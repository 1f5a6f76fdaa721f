"""Logs: one line of JSON per record."""

from __future__ import annotations

import json
import logging
import sys

from headwater.service.logs import JsonFormatter


def test_a_record_is_one_line_of_json_with_its_facts_and_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord(
            "headwater.service", logging.ERROR, __file__, 1, "%s failed", ("GET",), sys.exc_info()
        )
    record.facts = {"request_id": "r-1"}
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["message"], line["request_id"]) == ("error", "GET failed", "r-1")
    assert "ValueError: no" in line["traceback"]
    assert line["at"].endswith("+00:00")
