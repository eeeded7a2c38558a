"""The embedded data set: rendered traffic signs, labelled as in GTSRB."""
