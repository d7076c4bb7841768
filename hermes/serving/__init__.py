"""A server of one model: the API that OpenAI's clients speak, and a page to talk to it."""
