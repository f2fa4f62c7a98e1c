"""Keys, classes of routes, and who may listen where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server import Server, refused_to_start, running

from assets import shared
from ramify.server.routes import ROUTES

PROMPT = {"text": "Once upon a time ", "sampling_params": {"max_new_tokens": 2}}
USER = {"authorization": "Bearer user-key"}
ADMIN = {"authorization": "Bearer admin-key"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    folder = str(shared("weights/TinyStories-656K"))
    with running(folder, "--api-key", "user-key", "--admin-api-key", "admin-key") as server:
        yield server


@pytest.fixture(scope="module")
def one_key() -> Iterator[Server]:
    with running(str(shared("weights/TinyStories-656K")), env={"RAMIFY_API_KEY": "user-key"}) as server:
        yield server


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
def test_every_route_asks_for_what_its_class_says(locked: Server, route) -> None:  # type: ignore[no-untyped-def]
    path, method = route.path.replace("{model}", "x"), route.methods[0]
    body = {} if method != "GET" else None

    def status(headers: dict[str, str] | None = None) -> int:
        return locked.request(path, body, method=method, headers=headers)[0]

    if route.auth == "open":
        assert status() not in (401, 403)
        return
    assert status() == 401
    assert status({"authorization": "Bearer wrong"}) == 401
    assert status({"authorization": "Basic user-key"}) == 401
    assert status(ADMIN) not in (401, 403)
    assert status(USER) == 403 if route.auth == "admin" else status(USER) not in (401, 403)


def test_the_right_key_works(locked: Server) -> None:
    assert locked.post("/generate", PROMPT, headers=USER)["text"]
    assert locked.request("/flush_cache", method="POST", headers=ADMIN)[0] == 200
    status, headers, body = locked.request("/v1/completions", {"prompt": "x"})
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert b'"code":"invalid_api_key"' in body


def test_abort_all_is_for_admins(locked: Server) -> None:
    assert locked.request("/abort_request", {"abort_all": True}, headers=USER)[0] == 403
    assert locked.request("/abort_request", {"abort_all": True}, headers=ADMIN)[0] == 200
    assert locked.request("/abort_request", {"rid": "x"}, headers=USER)[0] == 200


def test_keys_are_shown_nowhere(locked: Server) -> None:
    info = locked.request("/server_info", headers=USER)[2]
    assert b"user-key" not in info
    assert b"admin-key" not in info
    assert "user-key" not in locked.log


def test_keys_are_not_on_any_command_line_of_children(locked: Server) -> None:
    for child in locked.children().values():
        assert "user-key" not in " ".join(child.cmdline())


def test_one_key_opens_everything(one_key: Server) -> None:
    assert one_key.request("/flush_cache", method="POST")[0] == 401
    assert one_key.request("/flush_cache", method="POST", headers=USER)[0] == 200


def test_without_keys_admin_routes_serve_this_machine(stories: Server) -> None:
    assert stories.request("/flush_cache", method="POST")[0] == 200


def test_listening_beyond_loopback_needs_a_key_or_a_word() -> None:
    folder = str(shared("weights/TinyStories-656K"))
    said = refused_to_start(folder, "--host", "0.0.0.0")
    assert "--api-key" in said
    assert "--allow-unauthenticated" in said
    with running(folder, "--host", "0.0.0.0", "--allow-unauthenticated") as server:
        assert ":0" not in server.url
