"""Recordings diagnosed by trained weights: read, predicted, decided, written for people."""
