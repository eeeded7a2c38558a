"""Reports: what a run found, for readers, reviewers, spreadsheets and pipelines."""
