"""Options: declared once, read from the command line and from files, resolved."""
