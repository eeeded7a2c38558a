"""Evidence bundles: one archive with the results of a run that a third party can check again."""
