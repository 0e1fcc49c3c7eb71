"""What every wing may use: errors, files, settings, randomness, and the names of studies and runs."""
