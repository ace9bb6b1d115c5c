"""The terminal app. It knows the store and the analyses through `engine`, and never imports torch.

One module per pane (`panes/`), line-rendered widgets (`widgets/`), and one rule for threads, kept in
`panes/base.py`: work runs in thread workers, workers only post frozen values, handlers own the state.
"""
