"""`POST /recommend`, for one request or for many."""

import time

from fastapi import APIRouter, Request, Response

from service.errors import BadJson, BadRequest, BodyTooLarge
from service.settings import Settings

from . import answers
from .body import parse, read_body
from .connected import WhileConnected
from .direct import Handler
from .edge import BATCH, RECOMMEND
from .engine_client import Router
from .operations import RECOMMENDING, errors, request_body
from .queries import check_batch
from .recommender import Recommender
from .schemas import BatchAnswer, BatchRequest, RecommendAnswer, RecommendRequest


def recommendation(settings: Settings, router: Router) -> Handler:
    """What answers `POST /recommend`."""
    recommender = Recommender(settings, router)

    async def recommend(request: Request) -> Response:
        """Recommends the next items for a history.

        Fewer than `k` items come back only if no more are legal; then `exhausted` is true.
        """
        wanted = parse(await read_body(request, settings.max_body_bytes), RecommendRequest)
        with WhileConnected(request.receive):
            served = await recommender.serve(wanted)
        total_s = time.perf_counter() - request.state.started
        request.state.attributes.update(answers.span_attributes(served))
        headers = {
            "X-Model-Version": served.info.model_version,
            "Server-Timing": answers.server_timing(served.answer, total_s),
        }
        body = answers.encode(served, request.state.request_id, wanted.parts, total_s)
        return Response(body, 200, headers, "application/json")

    return recommend


def create_routes(settings: Settings, router: Router, recommend: Handler) -> APIRouter:
    """What needs an engine."""
    api = APIRouter(tags=["recommend"])
    recommender = Recommender(settings, router)

    async def recommend_batch(request: Request) -> Response:
        """Answers several requests at once, in order; each is checked for itself, and none fails because of another."""
        wanted = parse(await read_body(request, settings.max_body_bytes), BatchRequest)
        check_batch(wanted, settings)
        with WhileConnected(request.receive):
            rows = await recommender.serve_batch(wanted, request.state.request_id, request.state.started)
        request.state.attributes["prorec.batch_requests"] = len(rows)
        headers = {"Server-Timing": answers.total_timing(time.perf_counter() - request.state.started)}
        return Response(answers.encode_batch(rows, request.state.request_id), 200, headers, "application/json")

    api.post(
        RECOMMEND,
        response_model=RecommendAnswer,
        openapi_extra=request_body(RecommendRequest),
        responses=errors(*RECOMMENDING),
    )(recommend)
    api.post(
        BATCH,
        response_model=BatchAnswer,
        openapi_extra=request_body(BatchRequest),
        responses=errors(BadJson, BodyTooLarge, BadRequest),
    )(recommend_batch)
    return api
