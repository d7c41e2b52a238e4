"""What `make perf` needs besides perf_analyzer: the page and the plot of its sweep."""
