"""A package of somebody else's: one file for each thing that she invents, none of which jopt knows."""
