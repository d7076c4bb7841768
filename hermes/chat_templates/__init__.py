"""Chat templates: conversations rendered, tokenized and given a loss mask."""
