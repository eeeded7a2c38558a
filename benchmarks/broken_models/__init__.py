"""Sound and broken models of real size, with data, threat model and what should catch each."""
