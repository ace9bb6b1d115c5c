"""Figures of what the analyses found, with their data: PNG, JSON, CSV and one Markdown page.

    analysis results ─► charts (health, ngrams, …): tables, words, and how to draw them ─► report: the files ─► page

Reads runs and saved results only, no model; matplotlib is imported when something is drawn.
"""
