"""The report on one text in a model: the stages of processing, each with its firing analysis."""

from collections.abc import Sequence
from dataclasses import dataclass

from nfinspect.analysis.health import NetworkReport
from nfinspect.analysis.numbers import number
from nfinspect.analysis.scores import reading
from nfinspect.json_values import Document


@dataclass(frozen=True)
class TextToken(Document):
    """A token of the text. surprisal: −ln p(token | those before) in nats, None for the first and in a simulation."""

    position: int
    token_id: int
    token: str | None
    surprisal: float | None


@dataclass(frozen=True)
class NextTokens:
    """The model's next token: entropy in nats, and the most likely tokens as (token_id, text, probability 0-1)."""

    entropy: float
    top: tuple[tuple[int, str | None, float], ...]

    def to_json(self) -> dict[str, object]:
        top = [{"token_id": i, "token": token, "probability": p} for i, token, p in self.top]
        return {"entropy": self.entropy, "top": top}


@dataclass(frozen=True)
class Stage:
    """One stage. reports: one for each site read there, empty if there are no neurons (tokenization).

    firing_rate and health_score are the means over its sites [own]: neurons of different sites are never pooled.
    """

    name: str
    what: str
    reports: tuple[NetworkReport, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(report.site for report in self.reports)

    @property
    def firing_rate(self) -> float | None:
        return _mean([site_firing_rate(report) for report in self.reports])

    @property
    def health_score(self) -> float | None:
        return _mean([report.overall_health_score for report in self.reports])

    @property
    def issues(self) -> tuple[str, ...]:
        """One line for each issue, beginning with the site and the layer."""
        return tuple(
            f"{report.site} L{layer.layer}, {issue}"
            for report in self.reports
            for layer in report.layer_analyses
            for issue in layer.issues
        )

    def to_json(self) -> dict[str, object]:
        return {
            "stage": self.name,
            "what": self.what,
            "sites": list(self.sites),
            "firing_rate": self.firing_rate,
            "health_score": self.health_score,
            "issues": list(self.issues),
            "reports": [report.to_json() for report in self.reports],
        }


@dataclass(frozen=True)
class TextFiring:
    """A text and its stages. simulated: nothing comes from a model. notes: what to know when reading the figures.

    overall_firing_rate and neural_health_score are the means over the stages that have neurons [own].
    """

    text: str
    model: str
    simulated: bool
    tokens: tuple[TextToken, ...]
    next_tokens: NextTokens | None
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]

    @property
    def overall_firing_rate(self) -> float | None:
        return _mean([stage.firing_rate for stage in self.stages])

    @property
    def neural_health_score(self) -> float:
        score = _mean([stage.health_score for stage in self.stages])
        assert score is not None  # every network has block outputs
        return score

    @property
    def mean_surprisal(self) -> float | None:
        """Nats per token, over all tokens but the first."""
        return _mean([token.surprisal for token in self.tokens])

    @property
    def interpretation(self) -> str:
        """The score in words, the stages' scores that it is the mean of, and the worst site if its words differ.

        A mean can hide a mostly dead site among healthy stages, so that site is named.
        """
        score = self.neural_health_score
        word, words = reading(score)
        stage, lowest = min(
            ((stage, report) for stage in self.stages for report in stage.reports),
            key=lambda one: one[1].overall_health_score,
        )
        worst = ""
        if lowest.reading != word:
            below = reading(lowest.overall_health_score)[1]
            worst = f"; lowest at {stage.name} ({lowest.site}): {lowest.overall_health_score:.2f}, {below}"
        parts = ", ".join(f"{s.name} {s.health_score:.2f}" for s in self.stages if s.health_score is not None)
        of = "a simulated network, not of a model" if self.simulated else "this text alone"
        return f"{words[0].upper()}{words[1:]}: {score:.2f} = mean of {parts}{worst}; of {of}"

    @property
    def recommendations(self) -> tuple[str, ...]:
        """What may help, by stage and site."""
        return tuple(
            f"{stage.name} ({report.site}): {text}"
            for stage in self.stages
            for report in stage.reports
            for text in report.recommendations
        )

    def to_json(self) -> dict[str, object]:
        return {
            "text": self.text,
            "model": self.model,
            "simulated": self.simulated,
            "tokens": [token.to_json() for token in self.tokens],
            "mean_surprisal": self.mean_surprisal,
            "next_token": self.next_tokens.to_json() if self.next_tokens else None,
            "neural_firing_analysis": {
                "simulated": self.simulated,
                "overall_firing_rate": self.overall_firing_rate,
                "neural_health_score": self.neural_health_score,
                "interpretation": self.interpretation,
                "notes": list(self.notes),
                "processing_stages": [stage.to_json() for stage in self.stages],
                "recommendations": list(self.recommendations),
            },
        }


def site_firing_rate(report: NetworkReport) -> float | None:
    """Share of a site's (token, neuron) pairs that fire, over all layers; None if no layer's rate is known."""
    layers = [layer for layer in report.layer_analyses if layer.activation_rate is not None]
    neurons = sum(layer.neurons for layer in layers)
    return sum((layer.activation_rate or 0.0) * layer.neurons for layer in layers) / neurons if neurons else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known)) if known else None
