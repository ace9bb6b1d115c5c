"""What stands in the columns of each pane's tables. Columns know rows and glyphs, nothing of the app."""
