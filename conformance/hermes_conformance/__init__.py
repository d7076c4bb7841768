"""Is this backend hermes? The standard, its oracle, cases, laws, runner and report.

    standard   specs/numerics.md, in words; hermes_numpy, in code: the oracle
    fixtures   specs.py (architectures), pairs.py (their crossing), case.py (weights and tokens)
    bounds     tolerance.py, every one with its reason and its measurement
    laws       laws/: L0 exact, L1 float64, L2 float32, L3 bfloat16, L4 training, L5 interchange
    runner     runner.py judges, report.py and html.py print, certificate.py keeps
    itself     sabotage/ plants faults that the laws must catch; bisect.py finds where two part

It sees backends through `hermes.interface` alone; only sabotage/ and bisect.py look inside one.
"""
