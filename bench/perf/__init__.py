"""The page and the plot of `make perf`, a sweep with perf_analyzer."""
