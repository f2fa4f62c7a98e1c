"""What is said of every field of every route."""

from __future__ import annotations

import json
import urllib.request

from server import Server

from ramify.server.routes import ROUTES


def test_every_field_that_is_not_honoured_has_a_reason() -> None:
    taking = [route for route in ROUTES if route.takes is not None]
    assert len(taking) >= 4
    for route in taking:
        assert route.takes is not None
        for name, standing, why in route.takes.table():
            assert standing == "honoured" or len(why) > 3, name


def test_unknown_fields_come_back_in_a_header_and_in_the_log(stories: Server) -> None:
    body = {"text": "One day ", "sampling_params": {"max_new_tokens": 1}, "no_such_field": 1, "zw\u00f6lf\n": 2}
    request = urllib.request.Request(
        stories.url + "/generate", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["x-ramify-warning"] == "unknown fields without effect: no_such_field, zw?lf?"
    assert "'no_such_field' is not known" in stories.log


def test_known_fields_come_back_in_no_header(stories: Server) -> None:
    body = {"text": "One day ", "sampling_params": {"max_new_tokens": 1}, "no_logs": True}
    request = urllib.request.Request(
        stories.url + "/generate", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "x-ramify-warning" not in answer.headers
