"""How models are trained and judged, room by room; each imports only from those above it.

(here)       the ground: errors, files, leads, the Challenge's tables, keyed random numbers
config       what a job is asked to do: typed keys, YAML files, the command line
recordings   one recording in memory: its leads, their order, units, plausibility
formats      readers of recordings: WFDB, arrays, DICOM, hospital exports
signals      crops, filters, augmentations, views, spectrograms: nothing in here is learned
processes    many processes as one program: collectives, launching, stopping, devices
scoring      criteria, scores, intervals, thresholds
contract     what the engine asks of a model, and the registry of models
data         the store, its tables and splits, and the crops that training reads
labels       what is known of records: tables of labels, and which database annotated what
weights      files of weights, ours and others: checkpoints, encoders, what they have seen
training     the loop: optimiser, state, one graph a step, log
jobs         from a config to a run: records, model, loaders, fold by fold
evaluation   predictions, probes, reports and figures of trained weights
predicting   recordings diagnosed by trained weights, and written for people
reports      runs on paper: report.html, comparisons of several runs
handover     trained models in use: called on signals, embedded, exported, tested under noise
explain      what a trained network looked at in a recording
"""
