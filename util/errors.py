"""Errors that a person can act on.

A main program prints their text without a traceback and exits with 2.  Every message names the
file, record or key at fault and says what to do about it.
"""


class ECGError(Exception):
    """Base of all errors caused by input, configuration or environment, not by a bug here."""


class ConfigError(ECGError):
    """A YAML file, an overlay or a --set override is wrong."""


class RecordError(ECGError):
    """One recording cannot be used; str(error) is the reason, without the path."""


class MissingPackage(RecordError):
    """A recording needs a package that is not installed: with it, the same command reads it."""


class StoreError(ECGError):
    """A RecordStore is missing, damaged or of another version."""


class CheckpointError(ECGError):
    """A checkpoint or an encoder file is missing, damaged or does not fit the model."""
