"""What the notebooks and the command line share: units of work, profiles, the runner, figures and the report."""
