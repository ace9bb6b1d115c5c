"""From a hub name to a directory, quickly or not at all.

A hub that does not answer is the usual case on a cluster's GPU box. By default the hub client tries every file of a
repository, each with its own timeouts; here a single request with a bounded time comes first. The result is always a
directory, so that there is one way of loading, which never triggers the hub's pickle conversion bot.
"""

import os
import threading
from pathlib import Path

from nfinspect.model_files import LOCAL, REPO, full_name
from nfinspect_store.paths import expanded

from .errors import HubUnreachable, ModelNotFound

# Only files at the top of the repository: sub-folders hold other formats. `consolidated` and the dtype variants are
# second copies of the same weights.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
GGUF = ".gguf"
_PICKLES = ["pytorch_model*.bin"]
_UNWANTED = ["*/*", "consolidated*", "*.fp16.*", "*.bf16.*", "*.fp32.*", "*.non_ema.*"]


def resolve(name_or_dir: str, revision: str | None = None, *, allow_pickle: bool, timeout: float) -> Path:
    """Where the model is: the directory or GGUF file named, the cached snapshot, or a fresh download.

    `timeout`: seconds that the hub has for its first answer; without one a cached copy is used. Raises ModelNotFound
    and HubUnreachable.
    """
    path = expanded(name_or_dir)
    if os.path.isdir(path) or (os.path.isfile(path) and path.suffix == GGUF):
        return path
    if os.path.exists(path):
        raise ModelNotFound(f"expected a model directory, found a file: {path}; name the directory it is in")
    if name_or_dir.startswith(LOCAL) or not REPO.fullmatch(name_or_dir):
        raise ModelNotFound(
            f"expected a model directory or a hub name such as openai-community/gpt2, found no {path}{_why_not(path)}"
        )
    return _snapshot(name_or_dir, revision, allow_pickle=allow_pickle, timeout=timeout)


def _why_not(path: Path) -> str:
    """Why a path cannot be reached, '' if it simply does not exist."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ""
    except OSError as error:
        return f" ({error.strerror or error})"
    return ""


def _snapshot(name: str, revision: str | None, *, allow_pickle: bool, timeout: float) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    called = full_name(name, revision)
    files = (try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "adapter_config.json"))
    try:
        cached = next((Path(file).parent for file in files if isinstance(file, str)), None)
    except HFValidationError as error:
        raise ModelNotFound(
            f"expected a model directory or a hub name such as openai-community/gpt2, found neither in '{name}': there "
            f"is no such directory, and it cannot be a hub name ({one_line(error, 400)})"
        ) from error
    if constants.HF_HUB_OFFLINE:
        if cached is None:
            raise HubUnreachable(
                f"expected '{called}' in the local cache because HF_HUB_OFFLINE is set, found none: unset it "
                "where there is a network, or download the model elsewhere, copy its directory here and name "
                "that directory"
            )
        return cached
    trouble = probe(f"{constants.ENDPOINT}/api/models/{name}", timeout)
    if trouble is not None:
        if cached is None:
            raise HubUnreachable(
                f"expected '{called}' in the local cache or a hub that answers, found neither "
                f"({constants.ENDPOINT}: {trouble}): download the model elsewhere, copy its directory here "
                "and name that directory, or set HF_ENDPOINT"
            )
        return cached
    return _download(name, revision, allow_pickle=allow_pickle, cached=cached)


def _download(name: str, revision: str | None, *, allow_pickle: bool, cached: Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    def fetched(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=_UNWANTED))

    try:
        found = fetched(_WANTED)
        if allow_pickle and not any(found.glob("*.safetensors")):
            found = fetched(_WANTED + [*_PICKLES, "adapter_model.bin"])
        return found
    except Exception as error:
        if cached is not None:
            return cached
        if isinstance(error, GatedRepoError):
            raise ModelNotFound(
                f"expected access to '{name}', found it gated: accept its terms on the hub and log in (hf auth login)"
            ) from error
        if isinstance(error, RepositoryNotFoundError):
            raise ModelNotFound(
                f"expected a directory or a hub model, found no '{name}': check the spelling; a private one "
                "needs hf auth login"
            ) from error
        if isinstance(error, RevisionNotFoundError):
            raise ModelNotFound(
                f"expected a branch, a tag or a commit of '{name}', found no '{revision}': see its page on the hub"
            ) from error
        # Anything else that the HTTP client, a proxy or a full disk raises: one line here, the cause in the chain.
        raise HubUnreachable(
            f"expected to download '{full_name(name, revision)}', found {one_line(error)}: download it elsewhere, copy "
            "its directory here and name that directory"
        ) from error


def probe(url: str, timeout: float) -> str | None:
    """None if anything (but a server error) answers at `url` within `timeout` seconds, otherwise what went wrong.

    Goes through the hub client's own session, so that its proxies and certificates apply. In a thread, because a DNS
    resolver that does not answer blocks for longer than any timeout of the HTTP client.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        from huggingface_hub import get_session

        try:
            status = get_session().head(url, timeout=timeout).status_code
            outcome.append(f"HTTP {status}" if status >= 500 else None)
        except Exception as error:
            outcome.append(one_line(error))

    thread = threading.Thread(target=ask, name="nfinspect-hub-probe", daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else f"no answer within {timeout:g} s"


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception as one short line: its type and its message up to `limit` characters."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:limit]}" if text else name
