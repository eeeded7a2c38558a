"""The embedded data set: traffic signs drawn by a program, labelled as in GTSRB."""
