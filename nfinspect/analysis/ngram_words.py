"""What n-grams are called: in tables, figures and panes alike."""

NGRAM_WORDS = {1: "token", 2: "bigram", 3: "trigram"}
