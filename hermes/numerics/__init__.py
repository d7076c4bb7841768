"""Numbers that every backend shares, so that all compute the same: on the host, in NumPy.

params      every tensor of a model: name, shape, initial values, weight decay
positions   tables of RoPE and ALiBi, positions within documents
randomness  random numbers as functions of (seed, purpose, index)
lora        the adapters' tensors and their initial values
merging     the weights that adapters amount to
chunking    how a micro-batch is cut for the chunked cross-entropy
"""
