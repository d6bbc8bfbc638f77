"""The engines a replica can run on, each behind the protocol of `finery.inference.engine`.

`torch_*` is the one that is always there: `torch_engine` is its front, `torch_loop` the thread
that owns the model, `torch_rows` what the two pass to each other.
"""
