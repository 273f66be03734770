"""Which hyperparameters, for which net, on which ECG data? Answered with evidence."""

__version__ = "0.1.0"
