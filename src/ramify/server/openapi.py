"""The OpenAPI document, made of the same route table and the same types that requests are checked with, and `/docs`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import ramify
from ramify.server.openai.answers import Failure
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes

if TYPE_CHECKING:
    from ramify.server.routes import Route

REF = "#/components/schemas/{name}"
NATIVE_FAILURE = {
    "type": "object",
    "properties": {"error": {"anyOf": [{"type": "string"}, {"type": "object"}]}},
    "required": ["error"],
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def openapi(request: Request, state: State, _: None) -> Response:
    """Describe the API: this document."""
    from ramify.server.routes import ROUTES  # the table names this handler

    return as_json(document(ROUTES))


async def docs(request: Request, state: State, _: None) -> Response:
    """The same to read, without anything from the internet."""
    page = (files("ramify.server") / "ui" / "docs.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"content-security-policy": POLICY})


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    routes = list(routes)
    types = [*dict.fromkeys(t for route in routes for t in _types(route)), Failure]
    shown, schemas = msgspec.json.schema_components(types, ref_template=REF)
    schemas["NativeFailure"] = NATIVE_FAILURE
    for takes in {route.takes.struct: route.takes for route in routes if route.takes is not None}.values():
        _annotate(schemas[takes.struct.__name__], takes, dict(zip(types, shown, strict=True)))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {}).update(dict(_operations(route)))
    return {
        "openapi": "3.1.0",
        "info": {"title": "ramify", "version": ramify.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(route: Route) -> Iterator[Any]:
    if route.takes is not None:
        yield route.takes.struct
        yield from route.takes.parts.values()
    for answer in (route.gives, route.streams):
        if answer is not None:
            yield answer


def _annotate(schema: dict[str, Any], takes: Takes, shown: Mapping[Any, dict[str, Any]]) -> None:
    """Fields without effect and fields that are refused are part of what can be known of a route."""
    for name, part in takes.parts.items():
        schema["properties"][name] = shown[part]
    for name, why in takes.no_effect.items():
        schema["properties"][name] = {"description": f"accepted without effect: {why}"}
    if takes.refused:
        schema["x-refused"] = {name: f"needs {feature}" for name, feature in takes.refused.items()}


def _operations(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in route.methods:
        operation: dict[str, Any] = {
            "operationId": f"{method.lower()} {route.path}",
            "summary": inspect.getdoc(route.handler) or "",
            "responses": _responses(route),
        }
        if route.auth != "open":
            operation["security"] = [{"key": []}]
            operation["x-auth"] = route.auth
        parameters = [*_path_parameters(route), *_query_parameters(route)]
        if parameters:
            operation["parameters"] = parameters
        if route.takes is not None and method != "GET":
            operation["requestBody"] = {
                "required": not route.takes.optional,
                "content": {"application/json": {"schema": _ref(route.takes.struct)}},
            }
        yield method.lower(), operation


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.path.endswith("}"):
        name = route.path[route.path.index("{") + 1 : -1]
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name, kind in route.query.items():
        yield {"name": name, "in": "query", "required": False, "schema": {"type": kind}}
    if route.of_a_model and (route.takes is None or "model" not in route.takes.honoured):
        of = "of several models, the one that is meant; a field of that name in the body says the same"
        yield {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}, "description": of}


def _responses(route: Route) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "the answer"}
    if route.gives is not None:
        good["content"] = {"application/json": {"schema": _ref(route.gives)}}
    elif route.text:
        good["content"] = {route.text: {"schema": {"type": "string"}}}
    if route.streams is not None:
        good["content"]["text/event-stream"] = {"schema": _event(route.streams)}
    failure = _ref(Failure) if route.openai else {"$ref": REF.format(name="NativeFailure")}
    if "error_message" in getattr(route.gives, "__struct_fields__", ()):  # an answer that can tell of a failure itself
        failure = {"anyOf": [failure, _ref(route.gives)]}
    bad = {"description": "why not", "content": {"application/json": {"schema": failure}}}
    if route.auth == "open":
        bad = {"description": "not now"}
    return {"200": good, "4XX": bad, "503": bad}


def _event(kind: Any) -> dict[str, Any]:
    """One event of a stream; the data of the last is `[DONE]`, and of one that failed an error."""
    told = {"type": "string", "contentMediaType": "application/json", "contentSchema": _ref(kind)}
    failed = {**told, "contentSchema": _ref(Failure)}
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [told, failed, {"const": "[DONE]"}]}},
        "required": ["data"],
    }


def _ref(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return schema
