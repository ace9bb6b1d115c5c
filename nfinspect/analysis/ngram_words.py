"""The names of n-grams in tables, figures and panes."""

NGRAM_WORDS = {1: "token", 2: "bigram", 3: "trigram"}
