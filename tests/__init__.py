"""The tests read as the specification; `models.py` and `samples.py` make what they need."""
