"""The terminal app. It reads the store through `engine` and `session`, and never imports torch.

One module per pane (`panes/`), line-rendered widgets (`widgets/`), and one rule for threads, kept in
`panes/base.py`: work runs in thread workers, workers only post frozen values, handlers own the state.
"""
