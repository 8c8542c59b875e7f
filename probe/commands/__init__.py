"""One file for each subcommand of ``sockflow``, with its flags."""
