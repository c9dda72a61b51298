"""Encoders: (batch, leads, time) -> features (batch, width), each with an optional classification
head.
"""
