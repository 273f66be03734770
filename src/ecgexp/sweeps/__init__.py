"""Running a sweep: its session, the processes that train its trials, and its status line."""
