"""What becomes of the parts when Ray loses, hides or stops workers. An object plays Ray: every worker is here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfinspect.capturing import ray_workers
from nfinspect.capturing.errors import CannotResume, CaptureError
from nfinspect.capturing.ray_workers import Worker, capture_with_ray
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import Listener
from nfinspect.capturing.shard import Shard
from nfinspect_store.catalog import delete_run
from nfinspect_store.errors import RequestError, RunExists, StorageFull
from nfinspect_store.reader import RunFile


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    """As Ray's, its text is the worker's traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::Worker.capture() (pid=1)\n{cause}")
        self.cause = cause


class Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def remote(self, *args: Any, **options: Any) -> Callable[[], Any]:
        return lambda: self.call(*args, **options)


class Actor:
    def __init__(self, worker: Worker) -> None:
        self.where, self.capture = Method(worker.where), Method(worker.capture)


class Ray:
    """What is asked for is done when it is got. events: what was begun and killed, in order, by the actor's number."""

    class exceptions:  # noqa: N801  (Ray's own name)
        RayError, RayActorError, RayTaskError = RayError, RayActorError, RayTaskError

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.actors: list[Actor] = []
        self.resources: dict[str, float] = {"CPU": 2.0}
        self.asked: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.asked.append(options)

        def of(kind: type) -> Any:
            def begin(*args: Any) -> Actor:
                self.events.append(("begin", len(self.actors)))
                self.actors.append(Actor(kind(*args)))
                return self.actors[-1]

            return type("Begun", (), {"remote": staticmethod(begin)})

        return of

    def wait(self, refs: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Callable[[], Any]) -> Any:
        try:
            return ref()
        except (RayError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise RayTaskError(error) from error

    def kill(self, actor: Actor) -> None:
        self.events.append(("kill", self.actors.index(actor)))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    played = Ray()
    monkeypatch.setattr(ray_workers, "_ray", lambda: played)
    return played


@pytest.fixture
def request_(gpt2_dir: Path, tmp_path: Path) -> CaptureRequest:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 601)))
    return CaptureRequest(
        str(gpt2_dir), tmp_path / "store", text=(text,), run="r", context=16, batch_size=4, device="cpu"
    )


def failing(monkeypatch: pytest.MonkeyPatch, part: int, errors: list[BaseException]) -> list[CaptureRequest]:
    """The workers of a part raise these errors, one each, before they capture; returns the requests of all workers."""
    capture = Worker.capture
    requests: list[CaptureRequest] = []

    def fail(self: Worker, shard: Shard, *, again: bool) -> Any:
        requests.append(self._request)
        if shard.part == part and errors:
            raise errors.pop(0)
        return capture(self, shard, again=again)

    monkeypatch.setattr(Worker, "capture", fail)
    return requests


def test_a_worker_out_of_reach_is_killed_before_another_one_continues(
    ray: Ray, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = failing(monkeypatch, 2, [RayActorError("the actor is temporarily unavailable")])
    said: list[str] = []
    path = capture_with_ray(request_, 2, "", Listener(message=said.append))
    assert "part 2 of 2 has lost its worker: another one continues it" in said
    assert ray.events.index(("kill", 1)) < ray.events.index(("begin", 2))
    with RunFile.open(path) as run:
        assert run.info.status == "complete" and run.tokens == 601 // 16 * 16 + 601 % 16
    assert [one.name for one in request_.store.glob("*.duckdb")] == ["r.duckdb"]
    assert {request.writers for request in requests} == {1}  # a worker has one processor


def test_an_error_of_a_worker_names_its_part_and_its_machine(
    ray: Ray, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, [ZeroDivisionError("by nothing\nat all")])
    monkeypatch.setattr(ray_workers.socket, "gethostname", lambda: "node7")
    with pytest.raises(CaptureError, match=r"^part 2 of 2 on process \d+ on node7: ZeroDivisionError: by nothing$"):
        capture_with_ray(request_, 2, "", Listener())
    assert {number for event, number in ray.events if event == "kill"} == {0, 1}


def test_a_stopped_capture_names_its_run(ray: Ray, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "default_name", lambda model: "made-up")
    failing(monkeypatch, 2, [KeyboardInterrupt()])
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        capture_with_ray(replace(request_, run=None), 2, "", Listener(message=said.append))
    assert said[-1].endswith("repeat the command with --run made-up --resume")
    capture_with_ray(replace(request_, run="made-up", resume=True), 2, "", Listener())
    assert [one.name for one in request_.store.glob("*.duckdb")] == ["made-up.duckdb"]


@pytest.mark.parametrize(
    ("device", "there", "gpus"),
    [
        ("auto", None, 0),
        ("auto", 1.0, 1),
        ("auto", 16.0, 1),
        ("auto", 0.0, 0),
        ("auto", 0.5, 0),
        ("cpu", 16.0, 0),
        ("mps", 1.0, 0),
        ("cuda", 4.0, 1),
        ("cuda:0", 4.0, 1),
    ],
)
def test_a_worker_asks_for_a_gpu_where_the_cluster_has_one(
    device: str, there: float | None, gpus: int, ray: Ray, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.resources |= {} if there is None else {"GPU": there}
    failing(monkeypatch, 1, [ZeroDivisionError("enough")])
    with pytest.raises(CaptureError, match="enough"):
        capture_with_ray(replace(request_, device=device), 2, "", Listener())
    assert ray.asked == [{"num_cpus": 1, "num_gpus": gpus}]


@pytest.mark.parametrize("device", ["cuda:1", "balanced", "sequential"])
def test_a_device_that_a_worker_cannot_see_is_refused(device: str, ray: Ray, request_: CaptureRequest) -> None:
    with pytest.raises(RequestError, match=f"found {device}: Ray gives each worker one GPU, and hides the others"):
        capture_with_ray(replace(request_, device=device), 2, "", Listener())
    assert not ray.events


@pytest.mark.slow
def test_parts_that_stayed_after_their_merge_are_deleted_with_resume(
    ray: Ray, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        delete_run(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ray_workers, "delete_run", killed)
        capture_with_ray(request_, 3, "", Listener())
    other = replace(request_, run="other", seed=1)
    whole = (request_.store / "r.duckdb").read_bytes()
    assert len(list(request_.store.glob("r.part-*.duckdb"))) == 2
    ray.events.clear()
    with pytest.raises(RunExists):
        capture_with_ray(request_, 3, "", Listener())
    assert len(list(request_.store.glob("r.part-*.duckdb"))) == 2
    assert capture_with_ray(replace(request_, resume=True), 3, "", Listener()).name == "r.duckdb"
    assert not ray.events and (request_.store / "r.duckdb").read_bytes() == whole
    assert [one.name for one in request_.store.glob("*.duckdb")] == ["r.duckdb"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # parts of another capture stay
        patch.setattr(ray_workers, "delete_run", killed)
        capture_with_ray(other, 3, "", Listener())
    stranger = next(request_.store.glob("other.part-2*.duckdb")).rename(request_.store / "r.part-2-of-3.duckdb")
    with pytest.raises(CannotResume, match="^r is there, and no part of it is left: there is nothing to resume$"):
        capture_with_ray(replace(request_, resume=True), 3, "", Listener())
    assert stranger.exists()


def test_where_nothing_can_be_written_no_worker_is_begun(ray: Ray, request_: CaptureRequest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFull, match="^cannot write .*/r.duckdb: Not a directory$"):
        capture_with_ray(replace(request_, store=tmp_path / "file" / "store"), 2, "", Listener())
    assert not ray.events
