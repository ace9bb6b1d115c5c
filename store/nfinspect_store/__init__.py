"""The activation store of nfinspect: one DuckDB file per run.

Imports duckdb, numpy and pyarrow; never torch, textual or nfinspect.
"""
