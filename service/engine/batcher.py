"""Batching by back-pressure: rows gather only while another batch runs, and never wait for a timer.

An event loop submits rows and gets futures; one thread closes batches and searches. While it does, the loop reads the
next queries and writes the last answers. A row leaves the queue in exactly one of four ways: found, expired, failed, or
cancelled by whoever waits for it. What must not happen during a run happens on the same thread, between two batches.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from models.graph import SearchRow
from service import metrics
from service.errors import DeadlineExceeded, Draining, EngineFailed, Overloaded, ServiceError

from .catalog import FoundRow
from .search import Found, Search, Shape

logger = logging.getLogger(__name__)

Outcome = FoundRow | ServiceError
Refresh = Callable[[], tuple[SearchRow, Shape] | None]
Action = Callable[[], object]


def _current() -> None:
    return None


def _nothing() -> None:
    pass


@dataclass(eq=False)
class Job:
    """One row in the queue; `arrived` and `deadline` are monotonic seconds. Only the event loop settles `future`.

    refresh   asked on the search thread before the row runs: what it has become, or None where nothing has changed
    released  called once on the event loop, when the search is done with the row, whatever became of it
    """

    row: SearchRow
    shape: Shape
    deadline: float
    future: "asyncio.Future[FoundRow]"
    refresh: Refresh = _current
    released: Action = _nothing
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Batch:
    """Rows of one shape, oldest first, and when they left the queue."""

    jobs: Sequence[Job]
    shape: Shape
    closed: float


class Batcher:
    """A bounded queue in front of one search thread. All public methods belong to the event loop."""

    def __init__(self, search: Search, *, queue_limit: int, max_rows: int) -> None:
        self._search = search
        self._queue_limit = queue_limit
        self._max_rows = max_rows
        self._waiting: dict[Job, None] = {}  # a set that remembers the order of arrival
        self._actions: deque[tuple[Action, Future[None]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._ended_already = False
        self._began = math.inf  # what the search thread does now, in monotonic seconds; inf: it waits

    def start(self) -> "asyncio.Future[None]":
        """Starts the thread. The future ends when it ends: after `close`, or with the exception that broke it."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that a search that hangs in its runtime cannot keep the process from ending.
        threading.Thread(target=self._thread, name="search", daemon=True).start()
        return self._ended

    def admit(self, deadline: float) -> None:
        """Raises DeadlineExceeded or Overloaded where `submit` would, before anything is spent on a query."""
        if deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline had passed when the query reached the engine")
        if len(self._waiting) >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} queries are waiting already")
        if self._closed:
            raise Draining("the engine is stopping")

    def submit(
        self,
        row: SearchRow,
        shape: Shape,
        deadline: float,
        refresh: Refresh = _current,
        released: Action = _nothing,
    ) -> "asyncio.Future[FoundRow]":
        """Queues a row; cancel the future when nobody waits for it any more. Raises as `admit` does."""
        self.admit(deadline)
        job = Job(row, shape, deadline, self._loop.create_future(), refresh, released)
        job.future.add_done_callback(lambda _: self._forget(job))
        with self._changed:
            self._waiting[job] = None
            metrics.QUEUE_DEPTH.set(len(self._waiting))  # under the lock, or an older depth could be the last word
            self._changed.notify()
        return job.future

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._waiting)

    @property
    def busy_s(self) -> float:
        """For how long the search thread has been at one run or action; 0 where it waits for work."""
        return max(0.0, time.monotonic() - self._began)

    def between(self, action: Action) -> "Future[None]":
        """Runs `action` on the search thread before its next batch, at once where it is idle. From any thread.

        The future tells what became of it; it fails with Draining where the search thread has ended.
        """
        done: Future[None] = Future()
        with self._changed:
            if self._ended_already:
                done.set_exception(Draining("the engine has stopped"))
            else:
                self._actions.append((action, done))
                self._changed.notify()
        return done

    def close(self) -> None:
        """Lets the thread end as soon as nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    # ---- the search thread

    def _serve(self) -> None:
        """Each batch closes when the one before it has run, so it holds all that came meanwhile."""
        while self._wait():
            self._act()
            if batch := self._close_batch():
                outcomes = self._outcomes(batch)
                self._on_loop(_deliver, batch.jobs, outcomes)

    def _wait(self) -> bool:
        """Until there is something to do; False: closed, and nothing is left."""
        with self._changed:
            self._began = math.inf
            while not self._waiting and not self._actions and not self._closed:
                self._changed.wait()
            self._begin()
            self._ended_already = not self._waiting and not self._actions
            return not self._ended_already

    def _begin(self) -> None:
        self._began = time.monotonic()

    def _act(self) -> None:
        """Runs what was asked for up to now; what comes meanwhile waits for one more batch."""
        with self._changed:
            actions, self._actions = self._actions, deque()
        for action, done in actions:
            self._begin()
            try:
                action()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _close_batch(self) -> Batch | None:
        """Drops the dead, takes all of the oldest row's shape, and brings them up to date; None: nothing is left."""
        with self._changed:
            self._drop_dead()
            batch = self._take() if self._waiting else None
        return self._refreshed(batch) if batch else None

    def _refreshed(self, batch: Batch) -> Batch | None:
        """Rows that have taken another shape go back to the front of the queue."""
        moved, failed = [], []
        for job in batch.jobs:
            try:
                changed = job.refresh()
            except Exception as error:
                failed.append((job, _as_service_error(error)))
                continue
            if changed:
                job.row, job.shape = changed
                if job.shape != batch.shape:
                    moved.append(job)
        if failed:
            self._on_loop(_deliver, *zip(*failed, strict=True))
        if moved:
            with self._changed:
                self._waiting = dict.fromkeys(moved) | self._waiting
        if not moved and not failed:
            return batch
        left = {job for job, _ in failed}.union(moved)
        jobs = [job for job in batch.jobs if job not in left]
        return Batch(jobs, batch.shape, batch.closed) if jobs else None

    def _drop_dead(self) -> None:
        """Rows whose deadline has passed or whose client has gone cost no compute."""
        now = time.monotonic()
        dead = [job for job in self._waiting if job.deadline <= now or job.future.cancelled()]
        self._remove(dead)
        if dead:
            late = DeadlineExceeded("the deadline passed while the query waited")
            self._on_loop(_deliver, dead, [late] * len(dead))

    def _take(self) -> Batch:
        shape = next(iter(self._waiting)).shape
        alike = (job for job in self._waiting if job.shape == shape)
        jobs = list(islice(alike, shape.most_rows(self._max_rows)))
        self._remove(jobs)
        metrics.BATCH_ROWS.observe(len(jobs))
        return Batch(jobs, shape, time.monotonic())

    def _remove(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            del self._waiting[job]
        metrics.QUEUE_DEPTH.set(len(self._waiting))

    def _outcomes(self, batch: Batch) -> list[Outcome]:
        """One outcome a row. When a batch fails its rows run alone, so that a poisoned one fails alone."""
        try:
            return list(self._run(batch))
        except Exception:
            logger.exception("a batch of %d rows failed", len(batch.jobs))
        outcomes = [self._alone(job, batch.closed) for job in batch.jobs]
        if not any(isinstance(outcome, FoundRow) for outcome in outcomes):
            self._prove_alive(batch)
        return outcomes

    def _run(self, batch: Batch) -> Sequence[FoundRow]:
        self._begin()
        found = self._search.run([job.row for job in batch.jobs], batch.shape)
        return _found_rows(batch, found, time.monotonic() - batch.closed)

    def _alone(self, job: Job, closed: float) -> Outcome:
        if job.future.cancelled() or job.deadline <= time.monotonic():
            return DeadlineExceeded("the deadline passed while the query was tried again")
        try:
            return self._run(Batch([job], job.shape, closed))[0]
        except Exception as error:
            logger.warning("a row with %d history items failed alone: %r", len(job.row.history), error)
            return EngineFailed("the search failed on this query")

    def _prove_alive(self, batch: Batch) -> None:
        """Raises, and so ends the engine, when even an empty row fails: a lost device does not come back.

        Its rows are told that the engine goes away, not that they failed: workers send them to the successor.
        """
        try:
            self._search.run([SearchRow(np.empty(0, dtype=np.int32))], batch.shape)
        except Exception:
            self._on_loop(_deliver, batch.jobs, [Draining("the engine lost its device")] * len(batch.jobs))
            raise

    def _thread(self) -> None:
        try:
            self._serve()
            self._on_loop(self._end, None)
        except BaseException as error:
            self._on_loop(self._end, error)

    # ---- back on the event loop

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._closed = self._ended_already = True
            abandoned, undone = list(self._waiting), list(self._actions)
            self._remove(abandoned)
            self._actions.clear()
        for _, done in undone:
            done.set_exception(Draining("the engine has stopped"))
        _deliver(abandoned, [Draining("the engine has stopped")] * len(abandoned))
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _forget(self, job: Job) -> None:
        """A cancelled row makes room at once."""
        with self._changed:
            waited = job in self._waiting
            if waited:
                self._remove([job])
        if waited:
            job.released()

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)


def _found_rows(batch: Batch, found: Found, spent_s: float) -> Sequence[FoundRow]:
    metrics.stage_duration("batch").observe(spent_s - found.run_s)
    metrics.stage_duration("run").observe(found.run_s)
    return [
        FoundRow.of(
            found,
            row,
            queue_s=batch.closed - job.arrived,
            batch_s=spent_s - found.run_s,
            run_s=found.run_s,
            batch_rows=len(batch.jobs),
        )
        for row, job in enumerate(batch.jobs)
    ]


def _deliver(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """On the event loop: settles every future that somebody still waits for."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        job.released()
        if job.future.done():
            continue
        if isinstance(outcome, FoundRow):
            job.future.set_result(outcome)
        else:
            job.future.set_exception(outcome)


def _as_service_error(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    logger.error("a row could not be brought up to date", exc_info=error)
    return EngineFailed("the engine failed on this query")
