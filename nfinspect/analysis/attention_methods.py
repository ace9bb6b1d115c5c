"""How attention neurons are scored, and how many are shown: what a command needs to know before it computes any."""

from typing import Literal

Method = Literal["attention_weighted", "gradient_guided", "rollout"]
METHODS: tuple[Method, ...] = ("attention_weighted", "gradient_guided", "rollout")

TOP = 20
"""Neurons in a document by default."""
