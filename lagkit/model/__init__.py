"""The language model: loading, KV blocks and caches, RoPE and its probe, models behind an API."""
