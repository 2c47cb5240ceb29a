"""KV blocks in fewer bits: the study behind the codec of stores, and its page."""
