"""The moments of Δ: any split of the tokens gives numpy's answer, and the table gives back what it was given."""

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from nfinspect_store.mamba_delta import COLUMNS, DeltaMoments, mamba_delta_table, read_mamba_delta
from nfinspect_store.schema import TABLES


def moments_of(delta: NDArray[np.float64], surprisal: NDArray[np.float64]) -> DeltaMoments:
    """Of float64[tokens, channels] and float64[tokens], in one piece."""
    deviation, surprised = delta - delta.mean(0), surprisal - surprisal.mean()
    channels = delta.shape[1]
    return DeltaMoments(
        n=np.full(channels, len(delta)),
        mean=delta.mean(0),
        m2=(deviation**2).sum(0),
        surprisal_mean=np.full(channels, surprisal.mean()),
        surprisal_m2=np.full(channels, (surprised**2).sum()),
        comoment=surprised @ deviation,
    )


@pytest.mark.parametrize("sizes", [(1000,), (1, 999), (500, 500), (3, 0, 400, 597), (1,) * 1000])
def test_any_split_gives_numpys_answer(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    surprisal = rng.gamma(2.0, 2.0, 1000)
    # Small deviations about a large mean: sums of squares would cancel.
    delta = 1e4 + 1e-3 * (np.linspace(-2, 2, 5) * surprisal[:, None] + rng.normal(size=(1000, 5)))
    total = DeltaMoments.empty(5)
    for start, size in zip(np.cumsum((0, *sizes[:-1])), sizes, strict=True):
        part = slice(start, start + size)
        total = total.merge(moments_of(delta[part], surprisal[part]) if size else DeltaMoments.empty(5))
    np.testing.assert_allclose(total.cv, delta.std(0, ddof=1) / delta.mean(0), rtol=1e-6)
    expected = [np.corrcoef(column, surprisal)[0, 1] for column in delta.T]
    np.testing.assert_allclose(total.surprisal_correlation, expected, rtol=1e-6, atol=1e-7)
    assert expected[0] < -0.9 < 0.9 < expected[4]


def test_undefined_is_nan() -> None:
    nothing, once = DeltaMoments.empty(2), moments_of(np.full((1, 2), 0.5), np.ones(1))
    still = moments_of(np.full((9, 2), 0.5), np.arange(9.0))
    for moments in (nothing, once):
        assert np.isnan(moments.cv).all() and np.isnan(moments.surprisal_correlation).all()
    assert (still.cv == 0).all() and np.isnan(still.surprisal_correlation).all()


def test_the_table_gives_back_what_it_was_given() -> None:
    rng = np.random.default_rng(4)
    first, second = (moments_of(rng.random((20, 3)), rng.random(20)) for _ in range(2))
    unknown = moments_of(rng.random((20, 3)), np.full(20, np.nan))
    with duckdb.connect() as connection:
        connection.execute(TABLES)
        assert read_mamba_delta(connection) == {}
        for layer, moments in ((7, second), (2, first), (9, unknown)):
            connection.register("incoming", mamba_delta_table(layer, moments))
            connection.execute("INSERT INTO mamba_delta BY NAME SELECT * FROM incoming")
        held = read_mamba_delta(connection)
        nulls = connection.execute("SELECT layer, count(*) FROM mamba_delta WHERE comoment IS NULL GROUP BY layer")
        assert nulls.fetchall() == [(9, 3)]
    assert list(held) == [2, 7, 9]
    for moments, expected in zip(held.values(), (first, second, unknown), strict=True):
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(moments, name), getattr(expected, name))
