"""Is this backend hermes? The standard, its oracle, cases, laws, runner and report.

    standard     specs/numerics.md, in words; hermes_numpy, in code: the oracle
    cases        architectures, weights and tokens
    measure      laws, measurements, and every bound with its reason (tolerance.py)
    oracle       the oracle's derivatives, training runs and rounding noise
    golden       vectors that the oracle made, for backends in any language
    laws         L0 exact, L1 float64, L2 float32, L3 bfloat16, L4 training, L5 interchange,
                 L6 as trained
    suite        selects laws and cases, judges, reports; the pytest plugin
    certificate  what a run proved, to keep and to check again
    faults       faults that the laws must catch, planted in memory
    bisect       finds the first tensor in which two backends differ

Backends are seen through `hermes.interface` alone; only faults and bisect look inside one.
"""
