"""What is written for a model and read from it: prompts, tags, chat templates."""
