"""A process that owns one loaded model, and what talks to it (docs/backend.md).

Clients import `client` and `remote`, which need no torch; only the command `nfinspect backend` imports `server`.
"""
