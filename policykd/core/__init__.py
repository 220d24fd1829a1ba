"""What everything else stands on: errors, settings, networks, files."""
