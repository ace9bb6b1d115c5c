"""What was planted in a training is told, with its neurons, at the step at which it was."""

import pytest
import torch
from networks import dropout_mlp, monitor, train
from torch import nn

from nfinspect.analysis.history import Alert


def test_which_neurons_died_at_which_step() -> None:
    model = dropout_mlp()

    def kill(step: int) -> None:
        if step == 20:
            with torch.no_grad():
                model[5].bias[[3, 7, 11, 20, 21]] = -1e4
        if step == 30:
            with torch.no_grad():
                model[5].bias[[7]] = 1.0

    watched = monitor()
    train(model, watched, between=kill)
    # Elsewhere neurons may die of the training itself: that depends on the version of torch.
    dying = [alert for alert in watched.alerts if alert.kind == "dying" and alert.layer_name == "7"]
    assert [(a.step, a.layer_name, a.neurons, a.died_at) for a in dying] == [(20, "7", (3, 7, 11, 20, 21), (20,) * 5)]
    assert "N3, N7, N11, N20, N21" in dying[0].text and "at step 20" in dying[0].text
    layers = {reading.step: reading.layers[1] for reading in watched.history}
    assert layers[20].died == (3, 7, 11, 20, 21) and layers[30].revived == (7,)
    assert (layers[15].dead_neurons, layers[20].dead_neurons, layers[35].dead_neurons) == (0, 5, 4)


def test_a_fall_of_the_score_is_an_alert() -> None:
    model = dropout_mlp()

    def kill(step: int) -> None:
        if step == 25:
            with torch.no_grad():
                model[8].bias[:20] = -1e4

    watched = monitor()
    train(model, watched, between=kill)
    scores = {reading.step: reading.health_score for reading in watched.history}
    assert scores[25] < 0.9 * scores[20]
    assert [alert.step for alert in watched.alerts if alert.kind == "health"] == [25]


def test_growing_saturation_is_an_alert() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 2))

    def saturate(step: int) -> None:
        if step == 15:
            with torch.no_grad():
                model[0].weight[:6] *= 1000

    watched = monitor()
    train(model, watched, between=saturate)
    assert [(a.step, a.kind, a.neurons) for a in watched.alerts if a.kind == "saturation"] == [
        (15, "saturation", (0, 1, 2, 3, 4, 5))
    ]


@pytest.mark.parametrize("factor, kind", [(1e-12, "vanishing"), (1e9, "exploding")])
def test_gradients_that_vanish_or_explode(factor: float, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    with monitor(model=model, gradients=True, every=1) as watched:
        for step in range(8):
            if step == 5:
                with torch.no_grad():
                    model[2].weight *= factor
            model(torch.randn(32, 8)).square().mean().backward()
            model.zero_grad()
            watched.step()
    found = [(alert.step, alert.layer_name) for alert in watched.alerts if alert.kind == kind]
    assert found[0] == (6, "1")


def test_alerts_go_to_the_caller_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Alert] = []
    returned: list[Alert] = []
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
    with monitor(model=model, on_alert=seen.append) as watched:
        model(torch.randn(9, 4)).sum().backward()
        returned += watched.step()
    assert seen == returned == watched.alerts and {alert.kind for alert in seen} == {"missing", "problematic"}
    assert [record.getMessage() for record in caplog.records] == [str(alert) for alert in seen]
