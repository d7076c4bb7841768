"""Options: built from the table, read from the command line and from files, resolved."""
