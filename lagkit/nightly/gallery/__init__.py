"""Executed notebooks made to be shared: offline HTML pages with an index, and copies whose figures carry pictures."""
