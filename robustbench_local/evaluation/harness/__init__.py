"""The trusted core: what decides a verdict, and where a user's model is let run."""
