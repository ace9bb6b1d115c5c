"""A capture by several processes of a Ray cluster, which may be on several machines (docs/decisions/0021).

Each worker is an actor with a model of its own. It captures a part into a file of its own in the store, and returns
what it made, no values: nothing large goes through Ray. A worker that is lost is replaced, and the new one continues
its part. Then the parts are merged here.
"""

import glob
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from nfinspect.capturing.errors import CannotResume, CaptureError
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.new_run import default_name
from nfinspect.capturing.plan import read_files
from nfinspect.capturing.ray_actor import Manifest, Worker
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import EditsIn, Listener
from nfinspect.capturing.shard import Shard
from nfinspect.model_files import lasting_name
from nfinspect_store.atomic import check_place
from nfinspect_store.catalog import delete_run, new_run_path, store_path
from nfinspect_store.errors import NfinspectError, NotInstalled, RequestError
from nfinspect_store.parts import MergedRun, Part
from nfinspect_store.reader import RunFile
from nfinspect_store.writer import RunWriter

ONE_DEVICE = ("auto", "cpu", "cuda", "cuda:0", "mps")
"""Devices that a worker with one GPU can have."""

ANSWER_SECONDS = 10
"""How long a cluster may take to accept a connection [own]."""

FRAME_SECONDS = 5
"""How long it may take then to say that it speaks HTTP/2, which is one trip there and back; as long as Ray's own
gcs_rpc_server_connect_timeout_s."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2, as that of Ray is, begins: RFC 9113 section 3.4, with no settings."""

FRAME, SETTINGS = 9, 4
"""Bytes of a frame's head, of which the fourth is its type; the type of settings, which are of stream 0."""

TRIES = 4
"""How often a part may be begun: a model that does not fit loses every worker that loads it [own]."""


def capture_with_ray(
    request: CaptureRequest, workers: int, address: str, listener: Listener, edits_in: EditsIn | None = None
) -> Path:
    """Capture what `request` asks for in `workers` parts, a Ray actor each, and merge them; returns the run's path.

    address: of a cluster; '': the one on this machine, or one of our own; 'local': always one of our own. All see the
    store and the model under the same paths. Raises NotInstalled without Ray, and what a capture and a merge raise.
    """
    ray = _ray()
    replace(request, shard=Shard(1, workers))  # raises RequestError for what has no parts
    if request.device not in ONE_DEVICE:
        raise RequestError(
            f"expected --device {', '.join(ONE_DEVICE[:-1])} or {ONE_DEVICE[-1]} with --ray, found {request.device}: "
            "Ray gives each worker one GPU, and hides the others from it"
        )
    store = store_path(request.store).absolute()
    path = new_run_path(store, request.run or default_name(request.model))
    if path.exists():
        if not request.resume:
            RunWriter.refuse_existing(path)
        left = _left_parts(path)
        if not left:
            raise CannotResume(f"{path.stem} is there, and no part of it is left: there is nothing to resume")
        listener.message(f"{path.stem} is there: {len(left)} parts that it was merged from are deleted")
        for part in left:
            delete_run(part)
        return path
    if request.resume and request.run is None:
        raise RequestError("expected --run NAME with --ray --resume: the parts to go on with are found by it")
    writers = 1 if request.writers == "auto" else request.writers  # a worker has one processor
    request = replace(
        request, store=store, model=lasting_name(request.model), run=path.stem, writers=writers, command=()
    )
    files = read_files(request)
    check_place(path)
    with _cluster(ray, address, workers):
        found = _Parts(ray, request, (files, edits_in), workers, listener).captured()
    parts = [Path(found[number].path) for number in sorted(found)]
    elsewhere = [f"{one.host}:{one.path}" for one in found.values() if not Path(one.path).exists()]
    if elsewhere:
        raise CaptureError(
            f"expected all parts in {store}, found {len(elsewhere)} only on other machines ({elsewhere[0]}): copy them "
            f"here, then nfinspect merge {path.stem} PART…"
        )
    listener.message(f"merging {len(parts)} parts")
    merge_runs(path, parts, note=listener.message)
    for part in parts:
        delete_run(part)
    return path


def _left_parts(path: Path) -> list[Path]:
    """Parts that the whole run at `path` holds, and that were not deleted when it had been merged."""
    with RunFile.open(path) as run:
        whole = MergedRun.of_run(run)
    if whole is None or whole.missing or whole.info.status != "complete":
        return []
    return [
        part
        for part in sorted(path.parent.glob(f"{glob.escape(path.stem)}.part-*-of-*.duckdb"))
        if _plan(part) == whole.plan
    ]


def _plan(path: Path) -> str | None:
    """The plan of the part at `path`; None for what is no part."""
    with suppress(NfinspectError), RunFile.open(path) as run:
        return Part.of_run(run).plan
    return None


def _ray() -> Any:
    """Raises NotInstalled. Ray does not report its use to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    try:
        import ray
    except ImportError as error:
        raise NotInstalled("--ray needs Ray: pip install 'nfinspect[ray]' on every machine of the cluster") from error
    return ray


def _check_address(address: str) -> None:
    """Raises CaptureError where no cluster answers at HOST:PORT: Ray would ask for 20 seconds, and say so on stderr."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address)
    if found is None:
        if address in ("", "auto", "local"):
            return
        raise RequestError(f"expected --ray=HOST:PORT, the address of a Ray cluster, found {address!r}")
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=ANSWER_SECONDS) as there:
            speaks = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(there)
    except (OSError, OverflowError) as error:
        raise CaptureError(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not speaks:
        raise CaptureError(f"no Ray cluster answers at {address}: something else listens there")


def _speaks_http2(there: socket.socket) -> bool:
    """Whether the other side begins as every server of HTTP/2 has to: with a frame of its settings."""
    until = time.monotonic() + FRAME_SECONDS
    said = b""
    try:
        there.sendall(PREFACE)
        while len(said) < FRAME:
            there.settimeout(max(0.001, until - time.monotonic()))
            more = there.recv(FRAME - len(said))
            if not more:
                return False
            said += more
    except OSError:  # silence, or an end of the connection
        return False
    return said[3] == SETTINGS and said[5:] == bytes(4)


def _gpus(ray: Any, device: str) -> int:
    """How many GPUs each worker asks for: one if the cluster has any and the device can be one, else none."""
    return 0 if device in ("cpu", "mps") else int(ray.cluster_resources().get("GPU", 0) >= 1)


@contextmanager
def _cluster(ray: Any, address: str, workers: int) -> Iterator[None]:
    """Connected to a cluster; afterwards disconnected again, and ended if it is our own."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    _check_address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    joined = False
    if address != "local":
        try:
            ray.init(address=address or "auto", **quiet)
            joined = True
        except (ConnectionError, RuntimeError, ValueError) as error:
            if address:
                raise CaptureError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    if not joined:  # one of our own, with room for every worker however few processors there are
        ray.init(address="local", num_cpus=max(workers, os.cpu_count() or 1), include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


class _Parts:
    """The parts of a capture, each on its way or done."""

    def __init__(
        self, ray: Any, request: CaptureRequest, inputs: tuple[Any, ...], workers: int, listener: Listener
    ) -> None:
        """inputs: what a Worker takes besides the request."""
        self._ray = ray
        self._request = request
        self._inputs = [ray.put(one) for one in inputs]
        self._workers = workers
        self._listener = listener
        self._actor = ray.remote(num_cpus=1, num_gpus=_gpus(ray, request.device))(Worker)
        self._begun: Counter[int] = Counter()
        self._asked: dict[Any, tuple[int, Any]] = {}  # by what is waited for: the part, and its actor
        self._found: dict[Any, int] = {}  # where they are: the part
        self._places: dict[int, str] = {}  # of the parts' workers
        self._done: dict[int, Manifest] = {}

    def captured(self) -> dict[int, Manifest]:
        """What was made, by part. Raises CaptureError for a part that cannot be captured."""
        try:
            for part in range(1, self._workers + 1):
                self._begin(part)
            while self._asked:
                (ready, *_), _ = self._ray.wait([*self._found, *self._asked], num_returns=1)
                if ready in self._found:
                    self._tell(ready)
                else:
                    self._take(ready)
            return self._done
        except KeyboardInterrupt:
            self._listener.message(
                "stopped: what was recorded is kept in its parts: repeat the command with "
                f"--run {self._request.run} --resume"
            )
            raise
        finally:
            for _, actor in self._asked.values():
                self._ray.kill(actor)

    def _begin(self, part: int) -> None:
        again = self._request.resume or self._begun[part] > 0
        self._begun[part] += 1
        actor = self._actor.remote(self._request, *self._inputs)
        self._found[actor.where.remote()] = part
        self._asked[actor.capture.remote(Shard(part, self._workers), again=again)] = (part, actor)

    def _tell(self, ready: Any) -> None:
        part = self._found.pop(ready)
        with suppress(self._ray.exceptions.RayError):  # what becomes of the actor is told by its capture
            host, process = self._ray.get(ready)
            self._places[part] = f"process {process} on {host}"
            self._listener.message(f"part {part} of {self._workers}: {self._places[part]}")

    def _take(self, ready: Any) -> None:
        part, actor = self._asked.pop(ready)
        try:
            found: Manifest = self._ray.get(ready)
        except self._ray.exceptions.RayActorError as error:
            self._ray.kill(actor)  # one that is only out of reach may live, and would write to the same file
            if self._begun[part] >= TRIES:
                raise CaptureError(
                    f"part {part} of {self._workers} lost its worker {TRIES} times, such as for lack of memory: "
                    f"{str(error).splitlines()[0]}"
                ) from error
            self._listener.message(f"part {part} of {self._workers} has lost its worker: another one continues it")
            self._begin(part)
            return
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            self._fail(part, error)
        if found.error:
            raise CaptureError(f"part {part} of {self._workers} on {found.host}: {found.error}")
        self._done[part] = found
        held = f"{found.prompts:,} prompts, {found.tokens:,} tokens"
        self._listener.message(f"part {part} of {self._workers} is done: {held}")
        self._ray.kill(actor)  # makes room for one that waits

    def _fail(self, part: int, error: Exception) -> NoReturn:
        """error: that of Ray, with what the worker raised as its cause. Raises CaptureError."""
        cause = getattr(error, "cause", None) or error
        lines = str(cause).splitlines() or [""]
        place = self._places.get(part, "a worker that has not told where it is")
        raise CaptureError(f"part {part} of {self._workers} on {place}: {type(cause).__name__}: {lines[0]}") from error
