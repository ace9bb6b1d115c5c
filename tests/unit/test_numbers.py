import pytest

from nfinspect.analyses.ablate import FIELDS, SPEC, Ablation
from nfinspect.analyses.ablate.charts import ablation_chart
from nfinspect.cli.analysis import lines
from nfinspect.present.numbers import count, counted, duration, fixed, number, percent, signed, size
from nfinspect.tui.columns.fields import field_column
from nfinspect.tui.glyphs import UNICODE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (float("nan"), "-"), (float("inf"), "-"), (0.0, "0"), (-0.0, "0"), (0, "0"), (3, "3"),
        (2.0, "2.000"), (0.123456, "0.1235"), (-0.99996, "-1.000"), (0.0012344, "0.001234"), (0.0005, "5.000e-4"),
        (1e-9, "1.000e-9"), (-1.23456e-12, "-1.235e-12"), (12.3456, "12.35"), (1234.56, "1,235"),
        (999_999.4, "999,999"),
        (999_999.6, "1,000,000"), (1_172, "1,172"), (1.5e6, "1.500e6"), (3 * 10**20, "300,000,000,000,000,000,000"),
    ],
)  # fmt: skip
def test_a_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_narrow_column_costs_digits() -> None:
    assert [number(-0.0123456, room=room) for room in (8, 7, 6)] == ["-0.01235", "-0.0123", "-0.012"]
    assert [number(x, room=7) for x in (-1.2345e-12, 1.5, 12345.6)] == ["-1e-12", "1.500", "12,346"]


def test_digits_and_signs() -> None:
    assert [number(x, digits=2) for x in (0.04567, 1.2e-5, 12.3, 1234.5)] == ["0.046", "1.2e-5", "12", "1,234"]
    assert [signed(x, digits=3) for x in (0.5, -0.5, 0.0, None)] == ["+0.500", "-0.500", "0", "-"]
    assert [fixed(x) for x in (0.5, 1.0, 0.0004, None)] == ["0.500", "1.000", "0.000", "-"]
    assert [f(None, UNICODE) for f in (number, fixed, percent, count, size, duration)] == ["–"] * 6


def test_shares_counts_sizes_and_times() -> None:
    assert [percent(x) for x in (None, 0.0, 0.00001, 0.01234, 0.12345, 1.0)] == [
        "-", "0.00%", "<.01%", "1.23%", "12.3%", "100.0%"
    ]  # fmt: skip
    assert [percent(x, places=0) for x in (0.004, 0.43, 1.0)] == ["0%", "43%", "100%"]
    assert [count(x) for x in (None, 999, 9_999, 12_345, 4_500_000)] == ["-", "999", "9,999", "12.3k", "4.5M"]
    assert [counted(x, "prompt") for x in (0, 1, 1_172)] == ["0 prompts", "1 prompt", "1,172 prompts"]
    assert [size(x) for x in (None, 0, 999, 1500, 20_459_520, 3 * 10**12)] == [
        "-", "0 B", "999 B", "1.5 kB", "20.5 MB", "3.0 TB"
    ]  # fmt: skip
    assert [duration(x) for x in (None, 0, 0.3, 0.5, 0.7, 1, 75, 3700)] == [
        "-", "0 s", "<1 s", "<1 s", "1 s", "1 s", "1 min 15 s", "1 h 01 min"
    ]  # fmt: skip


def test_a_figure_reads_the_same_in_the_command_the_app_and_the_report() -> None:
    control = {"count": 20, "mean_delta_nll": 1.5e-5, "sd": 1e-5, "z": 3.21, "p_value": 0.0476, "delta_nlls": [1.5e-5]}
    one = {"name": "dead", "neurons": 1_172, "mode": "zero", "nll": 4.01, "perplexity": 1234.5678,
           "delta_nll": -0.012345, "ci95": [-2e-5, -1e-5], "control": control}  # fmt: skip
    document = {
        "model": "m", "text": "t", "tokens": 39, "context": 32, "stride": 16, "seed": 0, "notes": [], "sets": [one],
        "bootstrap": {"units": 3, "resampled": "windows", "draws": 1000},
        "baseline": {"nll": 4.0, "perplexity": 54.598},
    }  # fmt: skip
    command = lines(SPEC, Ablation(document))[-1].split()
    columns = [field_column(field, UNICODE) for field in FIELDS]
    app = {column.title: column.cell(one, column.width).text for column in columns}
    report = " ".join(ablation_chart(document).findings)
    assert (app["dNLL"], app["p"], app["perpl."], app["z"]) == ("-0.0123", "0.048", "1,234.6", "3.2")
    assert {app["dNLL"], app["p"], app["perpl."], app["z"]} < set(command)
    assert f"dead (1,172 neurons): ΔNLL {app['dNLL']}, p = {app['p']} beside" in report and "54.598" in report
