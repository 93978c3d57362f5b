"""What all processes share: settings, rows, files and messages."""
