"""Questions and passages: loaders and splits."""
