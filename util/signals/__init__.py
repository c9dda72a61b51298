"""From a record to what a model is shown: crops, filters, augmentations, views; nothing is
learned.
"""
