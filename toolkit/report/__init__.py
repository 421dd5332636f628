"""The report of a study: reads the folder of its runs, never trains, never imports torch."""
