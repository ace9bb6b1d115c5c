"""The sample models, prompts and texts, as files: `path("gpt2-relu")`, `path("prompts", "tulip.json")`."""

from pathlib import Path

MODELS = ("gpt2-relu", "mamba")
CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")


def path(*parts: str) -> Path:
    """The sample file or folder of that name. Raises FileNotFoundError, which names what its folder holds."""
    found = Path(__file__).parent.joinpath(*parts)
    if not found.exists():
        folder = next(parent for parent in found.parents if parent.exists())
        held = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.name[0] not in "_."))
        raise FileNotFoundError(f"no sample {'/'.join(parts)!r}: choose from {held}")
    return found
