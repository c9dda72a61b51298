"""Readers of recordings: WFDB, arrays, DICOM, hospital exports, and any of these by its name."""
