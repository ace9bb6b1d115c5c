"""What needs the live model beside the store: logits, ablation, attention, substitution.

Import the module that is needed (`nfinspect.experiments.logits`): nothing is imported here.
"""
