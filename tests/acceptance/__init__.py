"""Long runs with real processes: what a person would have to try for a week to see."""
