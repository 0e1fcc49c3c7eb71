"""What follows from influences: counterfactuals, curation, subpopulations, brittle examples, review."""
