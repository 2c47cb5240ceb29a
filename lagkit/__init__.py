"""A laboratory for log-augmented generation: reuse the reasoning of past tasks as text or as KV cache."""

__version__ = "0.1.0"
