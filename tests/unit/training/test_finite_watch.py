"""NaN and infinity are told with the layer and the step that they began in."""

import pytest
import torch
from networks import dropout_mlp, hooks_of, monitor, train
from torch import nn

from nfinspect.training.finite import FiniteWatch
from nfinspect.training.layer_finder import find_places


@pytest.mark.parametrize("waits", [None, False], ids=["looked at at once", "fetched with the next reading"])
def test_nan_is_told_with_the_layer_that_it_began_in(waits: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """False: as on a GPU, which is not waited for."""
    model = dropout_mlp()

    def spoil(step: int) -> None:
        if step == 23:
            with torch.no_grad():
                model[5].weight[0, 0] = float("nan")

    made = FiniteWatch.__init__
    monkeypatch.setattr(FiniteWatch, "__init__", lambda self, model, places: made(self, model, places, waits=waits))
    watched = monitor()
    train(model, watched, between=spoil)
    found = [alert for alert in watched.alerts if alert.kind == "nan"]
    assert [(a.step, a.layer_name, a.level) for a in found] == [(23, "7", "critical")]
    if waits is None:
        assert "5.weight" in found[0].text
    assert watched.history[-1].health_score is None and not watched.history[-1].layers[1].finite


def test_an_input_that_is_not_finite_is_told_apart() -> None:
    model = dropout_mlp()
    with monitor(model=model) as watched:
        model(torch.full((64, 8), float("inf"))).sum().backward()
        watched.step()
    text = next(alert.text for alert in watched.alerts if alert.kind == "nan")
    assert "module 3" in text and "look at the input" in text


def test_a_sum_that_overflows_is_no_infinity() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    watch = FiniteWatch(model, find_places(model))
    with torch.no_grad():
        model[0].weight.fill_(3e38)
        model[0].bias.zero_()
    model(torch.tensor([[1.0, 0.0]]))
    assert watch.take(fetch=True) is None
    model(torch.tensor([[2.0, 0.0]]))
    assert watch.take(fetch=True) is not None
    watch.remove()


def test_layers_are_kept_until_the_last_has_run_and_the_first_bad_one_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.ReLU())))
    watch = FiniteWatch(model, find_places(model))
    watch.begin_step(1)
    for step in (1, 2):
        model(torch.rand(3, 6))
        assert watch.take(fetch=True) is None
        watch.begin_step(step + 1)
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    model(torch.rand(3, 6))
    found = watch.take(fetch=True)
    assert found is not None and (found.step, found.layer, found.first, found.weights) == (3, "5", False, ("4.weight",))
    # A pass that ends before the last layer is looked at when the step ends.
    nn.Sequential(*model[:6])(torch.rand(3, 6))
    found = watch.take(fetch=True)
    assert found is not None and found.layer == "5"
    watch.remove()
    assert hooks_of(model) == 0


def test_a_layer_that_is_changed_in_place_is_not_blamed_for_a_later_one() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.act1, self.fc2, self.act2 = nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU()
            self.last = nn.GELU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.act1(self.fc1(x))
            hidden += self.act2(self.fc2(x))
            return self.last(hidden)  # type: ignore[no-any-return]

    model = Residual()
    watch = FiniteWatch(model, find_places(model))
    for step in range(1, 4):
        watch.begin_step(step)
        if step == 2:
            with torch.no_grad():
                model.fc2.weight[0, 0] = float("nan")
        model(torch.rand(3, 6))
        found = watch.take(fetch=True)
        assert (found.layer if found else None) == (None if step == 1 else "act2")
    watch.remove()


def test_infinity_that_a_bounded_activation_hides_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1.0)
    watch = FiniteWatch(model, find_places(model))
    for step, size in ((1, 1.0), (2, 3e38)):
        watch.begin_step(step)
        assert torch.isfinite(model(torch.full((1, 2), size))).all()
        found = watch.take(fetch=True)
        assert (found.layer if found else None) == (None if step == 1 else "1")
    watch.remove()
