"""ECG data sets, and reading their files."""
