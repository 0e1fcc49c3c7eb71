"""Many runs: leases, worker processes, launchers and the sweeper."""
