"""One module per pane. A pane shows one place of the breadcrumbs and owns its state."""
