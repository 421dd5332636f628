"""The numbers behind a report: from the files of a study to the rows of its tables."""
