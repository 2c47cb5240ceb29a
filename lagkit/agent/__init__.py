"""The loop, and the contexts that it has the model continue."""
