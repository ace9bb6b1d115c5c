"""Watching your own networks: the firing analyzer for any module, and the monitor for a training loop.

Runs inside other people's training loops: torch is imported there anyway, other heavy packages only when used.
"""
