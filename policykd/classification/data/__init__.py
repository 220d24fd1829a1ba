"""Data for classifiers: named data sets, batching, augmentation and text."""
