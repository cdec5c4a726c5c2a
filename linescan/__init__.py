"""linescan finds defects it was never shown on a moving web, and says in time where they are."""

__version__ = "0.1.0"
