"""The command line: thin click commands over the library, one file per command."""
