"""Histograms are stored as bit planes, and read back as they were."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nfinspect_store.errors import StoreError
from nfinspect_store.histogram import BINS
from nfinspect_store.histogram_rows import histograms_table, packed, unpacked


@pytest.mark.parametrize("neurons", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("most", [0, 1, 255, 256, 2**16, 2**32 - 1, 2**40, 2**63 - 1])
def test_counts_come_back(neurons: int, most: int) -> None:
    counts = np.zeros((neurons, BINS), np.int64)
    counts[:, 3] = np.random.default_rng(0).integers(0, 5, neurons)
    counts[-1, [0, 50, BINS - 1]] = most // 2, most, most
    rows = histograms_table(2, True, counts)
    bins = rows.column("bin").to_numpy()
    assert list(bins) == list(np.flatnonzero(counts.any(axis=0)))
    assert (unpacked(rows.column("counts").combine_chunks(), neurons) == counts[:, bins].T).all()


def test_sql_reads_a_count_as_the_schema_says() -> None:
    counts = np.random.default_rng(1).integers(0, 900, (6, 21), np.uint16)
    rows = pa.table({"bin": range(6), "counts": packed(counts)})
    with duckdb.connect() as connection:
        connection.register("histograms", rows)
        query = """SELECT sum(get_bit(counts::BIT, (b * 8 * ceil(21 / 8) + neuron)::INT) << b)
                   FROM histograms, range(21) n(neuron), range(10) p(b)
                   WHERE b * ceil(21 / 8) < octet_length(counts) GROUP BY bin, neuron ORDER BY bin, neuron"""
        assert [int(n) for (n,) in connection.execute(query).fetchall()] == counts.ravel().tolist()


@pytest.mark.parametrize("odd", [[b"\x00\x00\x00", b""], [b"\x00" * 2 * 64], [None, b"\x00\x00"]])
def test_what_holds_other_counts_is_refused(odd: list[bytes | None]) -> None:
    with pytest.raises(StoreError, match="does not count 9 neurons"):
        unpacked(pa.array(odd, pa.binary()), 9)
