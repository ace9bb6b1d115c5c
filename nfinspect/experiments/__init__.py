"""What needs a live model as well as the store: logits, ablation, attention, substitution.

Import the module that you need (`nfinspect.experiments.logits`): nothing is imported here.
"""
