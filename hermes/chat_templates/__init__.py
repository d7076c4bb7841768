"""Chat templates: messages rendered by a template, tokenized, with a loss mask."""
