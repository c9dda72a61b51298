"""How things are trained: store, dataset, transforms, engine, checkpoints, scores.  Knows no
concrete model.
"""
