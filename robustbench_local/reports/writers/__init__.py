"""The files of a report beside its page."""
