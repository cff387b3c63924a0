"""HTTP routes of the two ports."""
