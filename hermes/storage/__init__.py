"""Files: written durably, and read as if a stranger had written them."""
