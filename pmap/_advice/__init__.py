"""What would be faster than what was asked for, or wrong with it, by what was measured."""
