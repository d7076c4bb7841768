"""Random one-token changes of a backend's source, each judged by the suite alone."""
