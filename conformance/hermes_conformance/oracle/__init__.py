"""The oracle's derivatives, its training runs, and how much rounding disturbs its results."""
