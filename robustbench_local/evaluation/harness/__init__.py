"""The trusted core: it decides verdicts, and sets where a user's model may run."""
