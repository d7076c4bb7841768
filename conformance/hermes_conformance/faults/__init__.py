"""Faults planted on purpose, in memory: a suite that has never failed has proved nothing.

Each fault names the law that must catch it. `faults` has those of backends and of what stands above
them, `suite` those of the suite itself, `equivalents` what no suite can tell apart, with why.
"""
