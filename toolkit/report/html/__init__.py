"""The page of a report: one HTML file with its tables and interactive figures."""
