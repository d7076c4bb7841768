"""What can be said about a model from its spec alone: its shape, cost and differences.

shape    every key of a model and its layers, in MAL's words
cost     parameters, FLOPs, KV cache and memory
diff     how two models differ
devices  what a device is, and the precision that suits it
summary  all of that as lines of text
"""
