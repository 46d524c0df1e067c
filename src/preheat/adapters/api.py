"""The FastAPI application: every route defined and documented, answered by the same code as the lean doors.

Loaded when a request asks for what the hot routes do not have: the documentation, or routes that a function
adds to ``function.api``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..errors import NotFoundError, PreheatError
from ..service import Service
from .asgi import read_request
from .observe import refused
from .other_routes import OtherRoutes
from .responses import DEFECT, from_error
from .routes import ROUTES, match, respond
from .schemas import DOCS

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse, RedirectResponse
except ModuleNotFoundError as missing:
    raise NotFoundError(
        "this path is answered by FastAPI, which is not installed: pip install 'preheat[api]'", code="no_api"
    ) from missing

if TYPE_CHECKING:
    from ..function import Function


def create(function: Function) -> FastAPI:
    """The application of a function. Its hot routes answer as the lean doors do."""
    from .. import __version__

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(function.start)
        function.service.defers = True
        yield
        function.service.drain()
        await run_in_threadpool(function.service.close)

    app = FastAPI(
        title="Preheat",
        version=__version__,
        lifespan=lifespan,
        description="Serverless inference that starts hot: Open Inference Protocol v2, embeddings in "
        "OpenAI's shape, and the task's own JSON.",
    )

    app.add_middleware(OtherRoutes, function=function, hot=match)

    async def hot(request: Request) -> Response:
        return await _hot(function.service, request)

    for route in ROUTES:
        path = "/".join(route.pattern)
        doc = DOCS[route.method, path]
        described = doc.openapi()
        app.add_api_route(
            f"/{path}",
            hot,
            methods=[route.method],
            name=doc.name,
            operation_id=doc.name,
            summary=doc.summary,
            response_model=None,
            responses=doc.responses(),
            openapi_extra={
                **described,
                "parameters": [*_path_parameters(route.pattern), *described.get("parameters", [])],
            },
        )

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if match(request.scope["path"]):  # another method of a hot route
            return await _hot(function.service, request)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "rejected")
        return JSONResponse({"error": str(error.detail), "code": code}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> Response:
        """A route of the function's own met a defect: Starlette raises it on, for the log."""
        told = {"x-preheat-outcome": "failed", "x-preheat-instance": function.service.instance}
        return JSONResponse({"error": DEFECT, "code": "internal"}, 500, told)

    return app


def _path_parameters(pattern: tuple[str, ...]) -> list[dict[str, object]]:
    return [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in pattern
        if part.startswith("{")
    ]


async def _hot(service: Service, request: Request) -> Response:
    try:
        call = await read_request(request.scope, request.receive, service.max_bytes)
    except PreheatError as error:
        answer = refused(service, from_error(service, error))
    else:
        found = await run_in_threadpool(respond, service, call)
        assert found is not None  # noqa: S101 - the path is hot
        answer = found
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        response.headers.append(name, value)
    return response
