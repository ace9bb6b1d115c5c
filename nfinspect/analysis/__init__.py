"""What a run tells: health, neuron lists, one neuron, traces, overlap. Pure functions of a run; no torch, no terminal.

Import the module that is needed (`nfinspect.analysis.trace`): nothing is imported here, so that the app's
first paint does not pay for scipy.
"""
