"""The activation store of nfinspect: runs as DuckDB files, one file a run.

Imports duckdb, numpy and pyarrow; never torch, textual or nfinspect.
"""
