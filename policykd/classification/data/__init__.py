"""Data of classifiers: named sets, batches of any source, other views of inputs, texts."""
