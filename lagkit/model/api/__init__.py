"""Language models behind OpenAI-compatible endpoints, which read and write text alone."""
