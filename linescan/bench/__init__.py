"""linescan bench: the model alone, each step, the whole inspection, what one would take instead, and how it scales."""
