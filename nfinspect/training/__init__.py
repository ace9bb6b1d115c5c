"""Watching networks of one's own: the firing analyzer for any module, and the monitor for a training loop.

Imported inside other people's training loops: torch is there already, nothing else heavy is imported before it is used.
"""
