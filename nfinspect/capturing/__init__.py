"""From prompts to a run file: run a model with hooks, keep statistics of every neuron, and store every value."""
