"""Scripts that start the commands of jopt (jopt/apps) from a checkout, where nothing need be installed."""
