"""Readable names of watched layers, from the module paths that are stored."""

from collections.abc import Sequence


def layer_words(name: str) -> str:
    """`layer relu2`; `module 3` for an nn.Sequential's unnamed modules, whose bare numbers would look like layers'."""
    return f"module {name}" if name.isdecimal() else f"layer {name}"


def whole_names(names: Sequence[str]) -> list[str]:
    """The paths themselves; bare numbers as `module 3`."""
    return [layer_words(name) if name.isdecimal() else name for name in names]


def distinct_names(names: Sequence[str]) -> list[str]:
    """The parts by which paths differ: `h.0` of `transformer.h.0.mlp.c_proj`, if all paths are like this one.

    A number keeps the part before it.
    """
    paths = [name.split(".") for name in names]
    shortest = min(map(len, paths), default=0)
    first = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), max(0, shortest - 1))
    left = [path[first:] for path in paths]
    shortest -= first
    last = next((i for i in range(shortest) if len({path[-1 - i] for path in left}) > 1), max(0, shortest - 1))
    kept = [path[: len(path) - last] for path in left]
    if first and any(path[0].isdecimal() for path in kept):
        kept = [[whole[first - 1], *path] for whole, path in zip(paths, kept, strict=True)]
    return whole_names([".".join(path) for path in kept])
