"""The tokens that one neuron's output weights promote and suppress: how the result of nfinspect.experiments.logits is
printed, shown and drawn. Rows are pairs of a promoted and a suppressed token.

The command is nfinspect.cli.logits; its result is not saved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, Neurons, RowSet, Shown, Table
from nfinspect.analyses.fields import Told
from nfinspect.present.numbers import number, quoted
from nfinspect.present.plots import Bar, Plot, TwoSided

Pair = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Effects(Told):
    """The document of `nfinspect logits`."""

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Promoted and suppressed tokens side by side, the strongest first."""
        return tuple(zip_longest(self.document["promoted"], self.document["suppressed"]))


def _fields(end: int, name: str) -> tuple[Field, Field]:
    def of(key: str, pair: Pair) -> list[Any]:
        one = pair[end]
        return [] if one is None else [one[key]]

    return (
        Field(name, f"token that is {name}", name, "texts", width=16, sorts=False, flex=True,
              value=lambda pair: of("token", pair)),
        Field(f"effect of {name}", "what one unit of the neuron's value adds to its logit", "effect", "signed",
              digits=5, width=10, sorts=False, value=lambda pair: next(iter(of("effect", pair)), "")),
    )  # fmt: skip


FIELDS = (*_fields(0, "promoted"), *_fields(1, "suppressed"))


def _sentence(found: Effects, kept: object) -> str:
    d = found.document
    where = f"L{d['layer']}/N{d['neuron']} at {d['site']} of {d['model']}"
    return f"{where}: std of the effect over {d['vocabulary']:,} tokens {number(d['std'])}"


def _printed(found: Effects) -> Sequence[Table]:
    title = f"{_sentence(found, None)}; effect: what one unit of its value adds to a token's logit, directly"
    return [Table(FIELDS, found.pairs, title)]


def _bars(found: Effects, row: Pair | None) -> Plot:
    def of(one: Mapping[str, Any] | None) -> Bar | None:
        return None if one is None else Bar(quoted(one["token"]), one["effect"])

    what = "what one unit of its value adds to a token's logit; right: suppressed"
    here = found.pairs.index(row) if row in found.pairs else 0
    return TwoSided(what, tuple((of(up), of(down)) for up, down in found.pairs), here)


def _neuron(row: Pair, found: Effects, of: Shown) -> Neurons:
    return ((found.document["layer"], found.document["neuron"]),)


SPEC = AnalysisSpec(
    name="logits",
    needs="model",
    keeps="",
    of_neuron=True,
    answers="tokens a neuron promotes and suppresses",
    explains=(
        "effect: what one unit of the neuron's value adds to the logit of the token by the direct path (its output "
        "weights through the final norm and the unembedding), less the mean over the vocabulary. What later layers "
        "make of it does not count. Enter goes to the neuron; R edits the command, for example where the model is."
    ),
    printed=_printed,
    lists=(
        RowSet(lambda found: FIELDS, lambda found: found.pairs, ("", False), "no token", named=(), neurons=_neuron),
    ),
    sentence=_sentence,
    drawings=(Drawing("bars", _bars, follows=True),),
)  # fmt: skip
