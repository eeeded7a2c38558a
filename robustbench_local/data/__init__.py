"""Images and labels: where they come from, how they are checked, and which of them are used."""
