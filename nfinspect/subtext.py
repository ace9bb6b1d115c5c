"""The firing analysis of texts from Python: `SubtextAnalyzer().analyze_expression_evaluation(text)`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nfinspect.experiments.text_report import TextFiring
    from nfinspect.models import Bos, LoadedModel

SAMPLE_MODEL = "gpt2-relu"


class SubtextAnalyzer:
    """Analyses texts with one model, which is loaded for the first text.

    model: a hub name, a local directory, or a model in memory with its tokenizer; the included sample model if not
    given. simulated: a simulated network instead of a model; every result says so. bos: when BOS goes before a text;
    chat: each text is a user's message in the model's chat template. options: dtype, device, revision, allow_pickle, as
    in load_model. Raises RequestError for arguments that exclude each other.
    """

    def __init__(
        self,
        model: "str | Path | PreTrainedModel | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        *,
        simulated: bool = False,
        bos: "Bos" = "auto",
        chat: bool = False,
        **options: Any,
    ) -> None:
        if simulated and model is not None:
            raise RequestError("expected a model or a simulated network, found both: leave one out")
        in_memory = model is not None and not isinstance(model, str | Path)
        if in_memory != (tokenizer is not None):
            raise RequestError("expected a tokenizer with a model in memory, and none with a model's name")
        self.simulated = simulated
        self._model = model
        self._tokenizer = tokenizer
        self._bos = bos
        self._chat = chat
        self._options = options
        self._loaded: LoadedModel | None = None

    def analyze_expression_evaluation(self, text: str, **options: Any) -> dict[str, Any]:
        """What `nfinspect text --json` prints: `text, model, simulated, tokens, mean_surprisal, next_token` and
        `neural_firing_analysis` with `overall_firing_rate, neural_health_score, interpretation, processing_stages`.

        options: the fields of nfinspect.analysis.classes.HealthOptions. Raises RequestError for a text without a token
        or too long for the model, and what load_model raises.
        """
        return self.analyze(text, **options).to_json()

    def analyze(self, text: str, *, top: int = 5, **options: Any) -> "TextFiring":
        """The same as an object. top: how many of the likeliest next tokens to list."""
        from nfinspect.analysis.classes import HealthOptions

        if not isinstance(text, str):
            raise RequestError(f"expected a text, found {type(text).__name__}")
        chosen = HealthOptions(**options)
        if self.simulated:
            from nfinspect.experiments.text_simulation import simulated_stages

            return simulated_stages(text, chosen)
        from nfinspect.experiments.text_stages import text_stages
        from nfinspect.modes import eval_mode

        loaded = self._load()
        with eval_mode(loaded.model):
            return text_stages(loaded, text, chosen, top, bos=self._bos, chat=self._chat)

    def _load(self) -> "LoadedModel":
        if self._loaded is None:
            from nfinspect.models import in_memory, load_model

            if self._tokenizer is not None:
                assert self._model is not None
                assert not isinstance(self._model, str | Path)
                self._loaded = in_memory(self._model, self._tokenizer)
            else:
                self._loaded = load_model(self._name(), **self._options)
        return self._loaded

    def _name(self) -> str:
        if self._model is not None:
            return str(self._model)
        import nfinspect_samples

        return str(nfinspect_samples.path(SAMPLE_MODEL))
