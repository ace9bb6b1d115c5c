"""The columns of each pane's tables. They know rows and glyphs, but not the app."""
